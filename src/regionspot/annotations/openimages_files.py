"""The small files that come with OpenImages boxes: class descriptions and rotations."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations.csv_block import CsvBlock
from regionspot.annotations.csv_table import CsvTable
from regionspot.annotations.files import ANNOTATIONS, open_hashed
from regionspot.annotations.json_errors import UTF8_MARK
from regionspot.core.errors import AnnotationError, VocabularyError
from regionspot.core.vocabulary import Vocabulary

NUM_DIGITS = 16
"""Hex digits of an image id."""

_BYTES_AT_ONCE = 1 << 20
_NOT_A_DIGIT = 255
_DIGITS = np.full(256, _NOT_A_DIGIT, np.uint8)
_DIGITS[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)
_CODES = np.frombuffer(b"0123456789abcdef", np.uint8)
_SHIFTS = np.arange(60, -4, -4, dtype=np.uint64)
_WITHOUT_ROTATION = {b"", b"nan", b"NaN"}


def image_ids(block: CsvBlock) -> NDArray[np.int64]:
    """Return the column ``ImageID`` as numbers, (A,).

    An id is 16 hex digits, which is 64 bits; the cache stores 64-bit integers with a sign. The bits
    are kept (two's complement), so that no two ids meet and ``id & 0xffffffffffffffff`` in hex is
    the id again; ids from ``8000000000000000`` on are negative.

    Raises:
        AnnotationError: A value is not 16 hex digits in lower case.
    """
    codes = block.columns["ImageID"].padded(NUM_DIGITS)
    digits = None if codes is None else _DIGITS[codes]
    if digits is not None and (digits != _NOT_A_DIGIT).all():
        halves = digits[:, 0::2] << 4 | digits[:, 1::2]  # the 8 bytes of the number, in order
        return halves.view(">i8")[:, 0].astype(np.int64)
    raise block.wrong_value("ImageID", _is_id, f"{NUM_DIGITS} digits of 0-9 and a-f")


def id_digits(ids: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return ids as the ASCII codes of their 16 digits, (N, 16)."""
    digits = (ids.view(np.uint64)[:, None] >> _SHIFTS) & np.uint64(15)
    return _CODES[digits.astype(np.intp)]


def read_classes(path: Path) -> tuple[dict[bytes, int], Vocabulary, str]:
    """Read class descriptions, such as ``class-descriptions-boxable.csv``.

    Each line is ``MID,name``; a first line that does not start with a MID is a header, which
    version 6 has and version 5 has not.

    Returns:
        Label of each MID; the class names in the order of the file; SHA-256 of the file.

    Raises:
        MissingFileError: There is no such file.
        AnnotationError: A line is not a MID and a name, or a MID has two names.
        VocabularyError: A name is empty or occurs twice.
    """
    labels: dict[bytes, int] = {}
    names: list[str] = []
    text, sha256 = _text_of(path)
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
                f"{path}, line {number}: {row[0]} stands already for {names[labels[mid]]!r}. Give"
                " each MID one line."
            )
        labels[mid] = len(names)
        names.append(row[1].strip())
    try:
        return labels, Vocabulary.from_names(names), sha256
    except VocabularyError as error:
        raise VocabularyError(
            f"{path}: class names in the order of the file: {error} OpenImages boxes need the"
            " boxable classes only."
        ) from error


def count_rotated(path: Path, ids: NDArray[np.int64]) -> tuple[int, int]:
    """Count how many images a list with a column ``Rotation`` says are stored rotated.

    Args:
        path: The list, such as ``train-images-boxable-with-rotation.csv``.
        ids: The images to count among.

    Returns:
        Number of rotated images, and number of images that the list does not have.

    Raises:
        MissingFileError: There is no such file.
        AnnotationError: A line cannot be read; names it.
    """
    table = CsvTable(path, ("ImageID", "Rotation"), option="rotations_path")
    listed = [np.zeros(0, np.int64)]
    rotated = [np.zeros(0, np.int64)]
    for block in table.blocks():
        numbers = image_ids(block)
        listed.append(numbers)
        rotated.append(numbers[_is_rotated(block)])
    num_rotated = int(np.isin(ids, np.concatenate(rotated)).sum())
    num_unlisted = int((~np.isin(ids, np.concatenate(listed))).sum())
    return num_rotated, num_unlisted


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
    return len(value) == NUM_DIGITS and all(_DIGITS[code] != _NOT_A_DIGIT for code in value)


def _text_of(path: Path) -> tuple[str, str]:
    parts = []
    role = replace(ANNOTATIONS, option="--annotations.classes_path")
    with open_hashed(path, "csv", role=role) as file:
        while part := file.read(_BYTES_AT_ONCE):
            parts.append(part)
        try:
            return b"".join(parts).removeprefix(UTF8_MARK).decode(), file.sha256
        except UnicodeDecodeError as error:
            raise AnnotationError(
                f"{path}: byte {error.start} is not UTF-8 text. Set --annotations.classes_path to"
                " the class descriptions."
            ) from error
