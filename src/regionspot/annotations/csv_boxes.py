"""Reads custom boxes from a CSV file with the columns ``image,x1,y1,x2,y2,label``.

A row with nothing but its image (``empty.jpg,,,,,``) stands for an image without boxes.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import PurePosixPath

import numpy as np

from regionspot.annotations.box_checks import check_boxes, code_of
from regionspot.annotations.classes import ClassNames
from regionspot.annotations.columns import GrowingColumns, ImageColumns, RawAnnotations
from regionspot.annotations.csv_table import CsvBlock, CsvTable, row_text
from regionspot.annotations.options import Source
from regionspot.annotations.report import Reason
from regionspot.core.errors import AnnotationError

_SIDES = ("x1", "y1", "x2", "y2")
COLUMNS = ("image", *_SIDES, "label")
"""The columns of the header, in any order."""


def read_own_csv(source: Source) -> RawAnnotations:
    """Read boxes in pixels, one per line; an image's file is its ``image``, in the images folder.

    Columns may be in any order, and further ones are ignored. The vocabulary is the labels in order
    of appearance, or the list of ``classes_path``; labels that are not in it are counted as unknown
    categories. Images are numbered from 0 in the order of the file.
    """
    table = CsvTable(source.path, COLUMNS, describe=_describe)
    rows = _Rows(ClassNames(source.options.classes_path))
    for block in table.blocks():
        rows.add(block)
    if not rows.files:
        raise AnnotationError(f"{source.path} has no row below its header, so no image.")
    vocabulary = rows.classes.vocabulary(source.path)
    extra = [repr(name) for name in table.header if name not in COLUMNS]
    return RawAnnotations(
        images=ImageColumns.from_file_names(rows.files),
        vocabulary=vocabulary,
        category_ids=tuple(range(len(vocabulary))),
        **rows.columns.pop_all("image_rows", "labels", "boxes_xyxy", "faults"),
        marks={},
        sha256s=(table.sha256,),
        box_layout="xyxy",
        entries="rows",
        show=partial(row_text, source.path),
        notes=(f"ignored the columns {', '.join(extra)}",) if extra else (),
    )


class _Rows:
    """The rows of a file, in columns that grow block by block."""

    def __init__(self, classes: ClassNames) -> None:
        self.classes = classes
        self.files: dict[str, int] = {}
        self._image_rows: dict[bytes, int] = {}
        self._labels: dict[bytes, int] = {}
        self.columns = GrowingColumns(
            image_rows=np.int32, labels=np.int32, boxes_xyxy=(np.float32, 4), faults=np.int8
        )

    def add(self, block: CsvBlock) -> None:
        """Add the rows of a block."""
        image_rows = _numbered(block, "image", self._image_rows, self._image)
        has_box = ~block.is_blank((*_SIDES, "label"))
        boxed = block if has_box.all() else block.take(has_box)
        labels = np.zeros(len(block), np.int32)
        boxes_xyxy = np.zeros((len(block), 4), np.float32)
        faults = np.full(len(block), code_of(Reason.BLANK), np.int8)
        labels[has_box] = _numbered(boxed, "label", self._labels, self.classes.label_of)
        sides = np.stack([boxed.numbers(name) for name in _SIDES], axis=1)
        boxes_xyxy[has_box], faults[has_box] = check_boxes(sides, "xyxy")
        self.columns.add(image_rows=image_rows, labels=labels, boxes_xyxy=boxes_xyxy, faults=faults)

    def _image(self, name: str) -> int:
        # The path in one spelling: ./a.jpg and a.jpg are one image.
        return self.files.setdefault(str(PurePosixPath(name)), len(self.files))


def _numbered(
    block: CsvBlock, column: str, known: dict[bytes, int], number_of: Callable[[str], int]
) -> list[int]:
    """Return the number of each text of a column; ``known`` remembers them."""
    values = block.columns[column].values()
    for value in dict.fromkeys(values):
        if value not in known:
            if not _is_text(value):
                raise block.wrong_value(column, _is_text, "text, in UTF-8")
            known[value] = number_of(value.decode())
    return [known[value] for value in values]


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
        return "not separated by commas"
    if any(re.fullmatch(r"-?\d+(\.\d*)?", name) for name in header):
        return "a row, not a header"
    return None
