"""Reads OpenImages boxes, versions 5 to 7, with their class descriptions and rotation list.

The boxes are a CSV file of 13 or 21 columns, in fractions of the image's width and height. No file
gives the size of an image, so records are resolved when the images are decoded.

According to OpenImages, image *and boxes* should be rotated counterclockwise by the listed degrees
to be upright
(https://storage.googleapis.com/openimages/web/2018-05-17-rotation-information.html). The boxes
therefore refer to the pixels as stored, which are used here too, with ``exif_policy: ignore``.
Rotated images are counted, not corrected.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations.assembly import rows_of
from regionspot.annotations.box_checks import check_boxes
from regionspot.annotations.columns import (
    GrowingColumns,
    ImageColumns,
    RawAnnotations,
    TextColumn,
)
from regionspot.annotations.csv_table import CsvBlock, CsvTable, row_text
from regionspot.annotations.json_lists import UTF8_MARK
from regionspot.annotations.opening import ANNOTATIONS, open_hashed
from regionspot.annotations.options import Source
from regionspot.annotations.report import Reason
from regionspot.core.errors import AnnotationError, ConfigError, VocabularyError
from regionspot.core.vocabulary import Vocabulary

_SIDES = ("XMin", "YMin", "XMax", "YMax")
_MARKS = {"IsGroupOf": Reason.GROUP, "IsDepiction": Reason.DEPICTION}
_COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax", *_MARKS)
_YES, _MARK_VALUES = b"1", {b"0", b"1", b"-1"}  # -1: unknown
_SUFFIX = b".jpg"
# A column of another of OpenImages's files, and what that file is.
_OTHER_FILES = {
    "MaskPath": "the list of segmentation masks",
    "LabelName1": "a file of visual relationships",
    "OriginalURL": "a list of images (see --annotations.rotations_path)",
    "Confidence": "a file of image-level labels, which have no boxes",
    "DisplayName": "the class descriptions (see --annotations.classes_path)",
}

_NUM_DIGITS = 16  # of an image id, in hex

_NOT_A_DIGIT = 255
_DIGITS = np.full(256, _NOT_A_DIGIT, np.uint8)
_DIGITS[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)
_CODES = np.frombuffer(b"0123456789abcdef", np.uint8)
_SHIFTS = np.arange(60, -4, -4, dtype=np.uint64)
_WITHOUT_ROTATION = {b"", b"nan", b"NaN"}


def read_openimages(source: Source) -> RawAnnotations:
    """Read OpenImages boxes; an image's file is its id and ``.jpg``, directly in the images folder.

    The images are those that have a row, in the order of the file. The vocabulary is that of the
    class descriptions, in their order; other labels are counted as unknown categories.
    """
    if source.options.classes_path is None:
        raise ConfigError("OpenImages needs --annotations.classes_path.")
    labels_of, vocabulary, classes_sha256 = read_classes(source.options.classes_path)
    table = CsvTable(source.path, _COLUMNS, describe=_describe)
    columns = GrowingColumns(
        ids=np.int64,
        labels=np.int32,
        boxes_xyxy=(np.float32, 4),
        faults=np.int8,
        **dict.fromkeys(_MARKS, np.bool_),
    )
    for block in table.blocks():
        sides = np.stack([block.numbers(name) for name in _SIDES], axis=1)
        boxes_xyxy, faults = check_boxes(sides, "xyxy")
        columns.add(
            ids=image_ids(block),
            labels=[labels_of.get(mid, -1) for mid in block.columns["LabelName"].short_values()],
            boxes_xyxy=boxes_xyxy,
            faults=faults,
            **{name: _marks(block, name) for name in _MARKS},
        )
    ids, image_rows = _in_order_of_appearance(columns.pop("ids"))
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
        **columns.pop_all("labels", "boxes_xyxy", "faults"),
        marks={reason: columns.pop(name) for name, reason in _MARKS.items()},
        sha256s=(table.sha256, classes_sha256),
        box_unit="relative",
        box_layout="xyxy",
        entries="rows",
        show=partial(row_text, source.path),
        notes=tuple(notes),
    )


def image_ids(block: CsvBlock) -> NDArray[np.int64]:
    """Return the column ``ImageID`` as numbers, (A,).

    An id is 16 hex digits, which is 64 bits; the cache stores signed 64-bit integers. The bits are
    kept (two's complement), so that ids stay distinct and ``id & 0xffffffffffffffff`` in hex is the
    id again; ids from ``8000000000000000`` on are negative.
    """
    codes = block.columns["ImageID"].padded(_NUM_DIGITS)
    digits = None if codes is None else _DIGITS[codes]
    if digits is not None and (digits != _NOT_A_DIGIT).all():
        halves = digits[:, 0::2] << 4 | digits[:, 1::2]  # the 8 bytes of the number, in order
        return halves.view(">i8")[:, 0].astype(np.int64)
    raise block.wrong_value("ImageID", _is_id, f"{_NUM_DIGITS} digits of 0-9 and a-f")


def id_digits(ids: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return ids as the ASCII codes of their 16 digits, (N, 16)."""
    digits = (ids.view(np.uint64)[:, None] >> _SHIFTS) & np.uint64(15)
    return _CODES[digits.astype(np.intp)]


def read_classes(path: Path) -> tuple[dict[bytes, int], Vocabulary, str]:
    """Read class descriptions, such as ``class-descriptions-boxable.csv``.

    Each line is ``MID,name``; a first line that does not start with a MID is a header, which
    version 6 has and version 5 has not. Returns the label of each MID, the class names in the order
    of the file, and its SHA-256.
    """
    labels: dict[bytes, int] = {}
    names: list[str] = []
    role = replace(ANNOTATIONS, option="--annotations.classes_path")
    with open_hashed(path, "csv", role=role) as file:
        data = file.read(-1).removeprefix(UTF8_MARK)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise AnnotationError(
            f"{path}: byte {error.start} is not UTF-8 text. Set --annotations.classes_path to the"
            " class descriptions."
        ) from error
    for number, row in enumerate(csv.reader(io.StringIO(text, newline="")), start=1):
        is_header = number == 1 and len(row) > 1 and not row[0].startswith("/")
        if not row or is_header:
            continue
        if len(row) != 2 or not row[0].startswith("/"):
            raise AnnotationError(
                f"{path}, line {number} is {','.join(row)[:60]!r}; wanted a MID and a name, such as"
                " /m/0cmf2,Airplane. Set --annotations.classes_path to the class descriptions."
            )
        mid = row[0].strip().encode()
        if mid in labels:
            raise AnnotationError(
                f"{path}, line {number}: {row[0]} already stands for {names[labels[mid]]!r}. Give"
                " each MID one line."
            )
        labels[mid] = len(names)
        names.append(row[1].strip())
    try:
        return labels, Vocabulary.from_names(names), file.sha256
    except VocabularyError as error:
        raise VocabularyError(
            f"{path}: class names in the order of the file: {error} OpenImages boxes need the"
            " boxable classes only."
        ) from error


def count_rotated(path: Path, ids: NDArray[np.int64]) -> tuple[int, int]:
    """Return how many of some images a list with a column ``Rotation`` marks as rotated, or lacks.

    The list is one such as ``train-images-boxable-with-rotation.csv``.
    """
    columns = GrowingColumns(listed=np.int64, rotated=np.int64)
    for block in CsvTable(path, ("ImageID", "Rotation"), option="rotations_path").blocks():
        numbers = image_ids(block)
        columns.add(listed=numbers, rotated=numbers[_is_rotated(block)])
    num_rotated = int(np.isin(ids, columns.pop("rotated")).sum())
    return num_rotated, int((~np.isin(ids, columns.pop("listed"))).sum())


def _is_rotated(block: CsvBlock) -> NDArray[np.bool_]:
    values = block.columns["Rotation"].short_values()
    known = {value: _is_turn(value) for value in set(values)}
    if None in known.values():
        raise block.wrong_value(
            "Rotation", lambda value: known[value] is not None, "0, 90, 180, 270 or nan"
        )
    return np.array([bool(known[value]) for value in values], np.bool_)


def _is_turn(value: bytes) -> bool | None:
    if value in _WITHOUT_ROTATION:
        return False
    try:
        degrees = float(value)
    except ValueError:
        return None
    return degrees != 0 if degrees in {0, 90, 180, 270} else None


def _is_id(value: bytes) -> bool:
    return len(value) == _NUM_DIGITS and all(_DIGITS[code] != _NOT_A_DIGIT for code in value)


def _marks(block: CsvBlock, name: str) -> NDArray[np.bool_]:
    codes = block.columns[name].padded(len("-1"))
    if codes is None or not np.isin(codes.view("S2")[:, 0], list(_MARK_VALUES)).all():
        raise block.wrong_value(name, _MARK_VALUES.__contains__, "0, 1 or -1")
    return codes[:, 0] == ord(_YES)


def _in_order_of_appearance(
    ids: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the distinct ids, and the position of each id among them."""
    starts = np.flatnonzero(np.diff(ids, prepend=~ids[:1]))  # rows of an image are contiguous
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
    )


def _describe(header: Sequence[str]) -> str | None:
    if header and header[0][:1] in {"{", "["}:
        return "JSON (see --annotations.format)"
    if len(header) == len("ab") and header[0].startswith("/"):
        return "the class descriptions (see --annotations.classes_path)"
    return next((what for column, what in _OTHER_FILES.items() if column in header), None)
