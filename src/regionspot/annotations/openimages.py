"""OpenImages boxes, versions 5 to 7: a CSV file of 13 or 21 columns.

Boxes count the image's width and height as 1, and no file says how large an image is: the records
are resolved when the images are decoded.

Rotated images: OpenImages says of its rotation list that image *and boxes* should be rotated by so
many degrees (counterclockwise) to stand as the photographer wanted them
(https://storage.googleapis.com/openimages/web/2018-05-17-rotation-information.html). The boxes thus
refer to the pixels as they are stored. Images are used as stored here, too, with ``exif_policy:
ignore``; how many of them are rotated is counted, not corrected.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations.csv_block import CsvBlock
from regionspot.annotations.csv_table import CsvTable, row_text
from regionspot.annotations.identities import rows_of
from regionspot.annotations.judging import judge_xyxy
from regionspot.annotations.openimages_files import (
    count_rotated,
    id_digits,
    image_ids,
    read_classes,
)
from regionspot.annotations.options import Source
from regionspot.annotations.raw import ImageColumns, RawAnnotations
from regionspot.annotations.report import Reason
from regionspot.annotations.text_column import TextColumn
from regionspot.core.errors import AnnotationError, ConfigError

_SIDES = ("XMin", "YMin", "XMax", "YMax")
_MARKS = {"IsGroupOf": Reason.GROUP, "IsDepiction": Reason.DEPICTION}
_COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax", *_MARKS)
_YES, _MARK_VALUES = b"1", {b"0", b"1", b"-1"}  # -1: nobody said
_SUFFIX = b".jpg"
# A column that gives another of OpenImages's files away, and what that file is.
_OTHER_FILES = {
    "MaskPath": "the list of segmentation masks",
    "LabelName1": "a file of visual relationships",
    "OriginalURL": "a list of images (see --annotations.rotations_path)",
    "Confidence": "a file of image-level labels, which have no boxes",
    "DisplayName": "the class descriptions (see --annotations.classes_path)",
}


def read_openimages(source: Source) -> RawAnnotations:
    """Read OpenImages boxes; an image's file is its id and ``.jpg``, right in the images folder.

    The images are those that have a row, in the order of the file. The vocabulary is the class
    descriptions', in their order. Labels that these do not have are counted as unknown categories.

    Raises:
        MissingFileError: A file does not exist.
        AnnotationError: A file is another one, or a line of it cannot be read; names the line.
        VocabularyError: A class name is empty or occurs twice.
        ConfigError: There are no class descriptions.
    """
    if source.options.classes_path is None:
        raise ConfigError("OpenImages needs --annotations.classes_path.")
    labels_of, vocabulary, classes_sha256 = read_classes(source.options.classes_path)
    table = CsvTable(source.path, _COLUMNS, describe=_describe)
    rows = _Rows(labels_of)
    for block in table.blocks():
        rows.add(block)
    ids, image_rows = _in_order_of_appearance(np.concatenate(rows.ids))
    if not len(ids):
        raise AnnotationError(f"{source.path} has no row below its header, so no image.")
    num_rotated, notes = 0, []
    if source.options.rotations_path is not None:
        num_rotated, num_unlisted = count_rotated(source.options.rotations_path, ids)
        if num_unlisted:
            notes.append(f"{num_unlisted:,} images are not in {source.options.rotations_path.name}")
    return RawAnnotations(
        images=_images(ids),
        num_rotated_images=num_rotated,
        vocabulary=vocabulary,
        category_ids=tuple(range(len(vocabulary))),
        image_rows=image_rows,
        labels=np.concatenate(rows.labels),
        boxes_xyxy=np.concatenate(rows.boxes_xyxy),
        faults=np.concatenate(rows.faults),
        marks={reason: np.concatenate(rows.marks[reason]) for reason in rows.marks},
        sha256s=(table.sha256, classes_sha256),
        box_unit="relative",
        box_layout="xyxy",
        entries="rows",
        show=partial(row_text, source.path),
        notes=tuple(notes),
    )


class _Rows:
    """Columns that grow block by block, with an empty piece in front."""

    def __init__(self, labels_of: dict[bytes, int]) -> None:
        self._labels_of = labels_of
        self.ids = [np.zeros(0, np.int64)]
        self.labels = [np.zeros(0, np.int32)]
        self.boxes_xyxy = [np.zeros((0, 4), np.float32)]
        self.faults = [np.zeros(0, np.int8)]
        self.marks = {reason: [np.zeros(0, np.bool_)] for reason in _MARKS.values()}

    def add(self, block: CsvBlock) -> None:
        """Take the rows of a block."""
        self.ids.append(image_ids(block))
        labels = [self._labels_of.get(mid, -1) for mid in block.columns["LabelName"].short_values()]
        self.labels.append(np.array(labels, np.int32))
        sides = np.stack([block.numbers(name) for name in _SIDES], axis=1)
        boxes_xyxy, faults = judge_xyxy(sides)
        self.boxes_xyxy.append(boxes_xyxy)
        self.faults.append(faults)
        for name, reason in _MARKS.items():
            self.marks[reason].append(_marks(block, name))


def _marks(block: CsvBlock, name: str) -> NDArray[np.bool_]:
    codes = block.columns[name].padded(len("-1"))
    if codes is None or not np.isin(codes.view("S2")[:, 0], list(_MARK_VALUES)).all():
        raise block.wrong_value(name, _MARK_VALUES.__contains__, "0, 1 or -1")
    return codes[:, 0] == ord(_YES)


def _in_order_of_appearance(
    ids: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the distinct ids, and the position of each id among them."""
    starts = np.flatnonzero(np.diff(ids, prepend=~ids[:1]))  # rows of an image stand together
    distinct, first = np.unique(ids[starts], return_index=True)
    distinct = distinct[np.argsort(first)]
    return distinct, rows_of(ids, distinct)


def _images(ids: NDArray[np.int64]) -> ImageColumns:
    digits = id_digits(ids)
    suffix = np.broadcast_to(np.frombuffer(_SUFFIX, np.uint8), (len(ids), len(_SUFFIX)))
    return ImageColumns(
        ids=ids,
        keys=TextColumn.of_equal_length(digits),
        file_names=TextColumn.of_equal_length(np.concatenate([digits, suffix], axis=1)),
        sizes_hw=None,
    )


def _describe(header: Sequence[str]) -> str | None:
    if header and header[0][:1] in {"{", "["}:
        return "JSON (see --annotations.format)"
    if len(header) == len("ab") and header[0].startswith("/"):
        return "the class descriptions (see --annotations.classes_path)"
    return next((what for column, what in _OTHER_FILES.items() if column in header), None)
