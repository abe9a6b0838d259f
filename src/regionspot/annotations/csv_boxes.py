"""Reads one's own boxes from a CSV file with the columns ``image,x1,y1,x2,y2,label``.

A row with nothing but its image (``empty.jpg,,,,,``) stands for an image without boxes.
"""

import re
from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations.box_checks import check_xyxy, code_of
from regionspot.annotations.columns import ImageColumns, RawAnnotations, TextColumn
from regionspot.annotations.csv_table import CsvBlock, CsvTable, row_text
from regionspot.annotations.options import Source
from regionspot.annotations.report import Reason
from regionspot.core.errors import AnnotationError, VocabularyError
from regionspot.core.vocabulary import Vocabulary

_SIDES = ("x1", "y1", "x2", "y2")
_COLUMNS = ("image", *_SIDES, "label")
_ESCAPED = re.compile(rb"[^A-Za-z0-9_]")
_MAX_KEY_LENGTH = 80


def read_own_csv(source: Source) -> RawAnnotations:
    """Read boxes in pixels, one a line; an image's file is its ``image``, below the images folder.

    Columns may stand in any order, and further ones are ignored. The vocabulary is the labels in
    the order in which they first appear, or the list of ``classes_path``; labels that this does not
    have are counted as unknown categories. Images are numbered from 0 in the order of the file.

    Raises:
        MissingFileError: A file does not exist.
        AnnotationError: A column is missing, or a line cannot be read; names it.
        VocabularyError: The list of classes is no UTF-8 text with one name a line, is empty, or has
            an empty or a repeated name.
    """
    classes = _read_classes(source)
    table = CsvTable(source.path, _COLUMNS, describe=_describe)
    rows = _Rows(classes)
    for block in table.blocks():
        rows.add(block)
    if not rows.files:
        raise AnnotationError(f"{source.path} has no row below its header, so no image.")
    try:
        vocabulary = classes or Vocabulary.from_names(rows.label_names)
    except VocabularyError as error:
        raise VocabularyError(f"{source.path}: labels in order of appearance: {error}") from error
    extra = [repr(name) for name in table.header if name not in _COLUMNS]
    return RawAnnotations(
        images=ImageColumns(
            ids=np.arange(len(rows.files), dtype=np.int64),
            keys=TextColumn.from_texts(map(csv_image_key, rows.files)),
            file_names=TextColumn.from_texts(rows.files),
            sizes_hw=None,
        ),
        vocabulary=vocabulary,
        category_ids=tuple(range(len(vocabulary))),
        image_rows=np.concatenate(rows.image_rows),
        labels=np.concatenate(rows.labels),
        boxes_xyxy=np.concatenate(rows.boxes_xyxy),
        faults=np.concatenate(rows.faults),
        marks={},
        sha256s=(table.sha256,),
        box_layout="xyxy",
        entries="rows",
        show=partial(row_text, source.path),
        notes=(f"ignored the columns {', '.join(extra)}",) if extra else (),
    )


def csv_image_key(file_name: str) -> str:
    """Return the key of an image: its path, spelled with ``A-Z a-z 0-9 _ -`` only.

    Any other byte of the UTF-8 path, the hyphen included, becomes a hyphen and its two hex digits:
    ``cats/tom-1.jpg`` gives ``cats-2ftom-2d1-2ejpg``. No two paths have one key. A key that would
    be longer than 80 characters is two hyphens, which no other key has, and the path's SHA-256.
    """
    path = file_name.encode("utf-8", "surrogatepass")
    key = _ESCAPED.sub(lambda found: b"-%02x" % found.group()[0], path).decode("ascii")
    return key if len(key) <= _MAX_KEY_LENGTH else f"--{sha256(path).hexdigest()}"


class _Rows:
    """Columns that grow block by block, with an empty piece in front."""

    def __init__(self, classes: Vocabulary | None) -> None:
        self._is_open = classes is None
        self._labels = {name.encode(): label for label, name in enumerate(classes or ())}
        self._images: dict[bytes, int] = {}
        self.files: dict[str, int] = {}
        self.image_rows = [np.zeros(0, np.int32)]
        self.labels = [np.zeros(0, np.int32)]
        self.boxes_xyxy = [np.zeros((0, 4), np.float32)]
        self.faults = [np.zeros(0, np.int8)]

    @property
    def label_names(self) -> list[str]:
        """Known labels, in order."""
        return [name.decode() for name in self._labels]

    def add(self, block: CsvBlock) -> None:
        """Take the rows of a block."""
        images = [self._image(value) for value in self._texts(block, "image")]
        self.image_rows.append(np.array(images, np.int32))
        has_box = ~block.is_blank((*_SIDES, "label"))
        if has_box.all():
            boxes_xyxy, faults, labels = self._boxes(block)
        else:
            boxes_xyxy = np.zeros((len(block), 4), np.float32)
            faults = np.full(len(block), code_of(Reason.BLANK), np.int8)
            labels = np.zeros(len(block), np.int32)
            boxes_xyxy[has_box], faults[has_box], labels[has_box] = self._boxes(block.take(has_box))
        self.boxes_xyxy.append(boxes_xyxy)
        self.faults.append(faults)
        self.labels.append(labels)

    def _boxes(
        self, block: CsvBlock
    ) -> tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.int32]]:
        labels = [self._label(value) for value in self._texts(block, "label")]
        sides = np.stack([block.numbers(name) for name in _SIDES], axis=1)
        return (*check_xyxy(sides), np.array(labels, np.int32))

    def _texts(self, block: CsvBlock, name: str) -> list[bytes]:
        values = block.columns[name].values()
        if not all(map(_is_text, set(values))):
            raise block.wrong_value(name, _is_text, "text, in UTF-8")
        return values

    def _image(self, value: bytes) -> int:
        row = self._images.get(value)
        if row is None:  # the path in one spelling: ./a.jpg and a.jpg are one image
            file_name = str(PurePosixPath(value.decode()))
            row = self.files.setdefault(file_name, len(self.files))
            self._images[value] = row
        return row

    def _label(self, value: bytes) -> int:
        if self._is_open:
            return self._labels.setdefault(value, len(self._labels))
        return self._labels.get(value, -1)


def _read_classes(source: Source) -> Vocabulary | None:
    path = source.options.classes_path
    return None if path is None else Vocabulary.from_file(path)


def _is_text(value: bytes) -> bool:
    try:
        return bool(value.decode())
    except UnicodeDecodeError:
        return False


def _describe(header: Sequence[str]) -> str | None:
    if header and header[0][:1] in {"{", "["}:
        return "JSON (see --annotations.format)"
    if "LabelName" in header:
        return "OpenImages (type --annotations.format openimages)"
    if len(header) == 1 and re.search(r"[;\t]", header[0]):
        return "separated by something else than commas"
    if any(re.fullmatch(r"-?\d+(\.\d*)?", name) for name in header):
        return "a row, not a header"
    return None
