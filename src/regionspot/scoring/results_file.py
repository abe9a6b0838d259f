"""Reads results files of detectors and other systems: LVIS and COCO results, as columns.

A file is a JSON list of ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}``;
further keys are ignored. `msgspec` decodes it into typed rows. A file that does not fit is read
again entry by entry, which takes longer and finds what to tell.

Shape letter: N predictions.
"""

import gc
import math
from itertools import chain
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from regionspot.core.errors import AnnotationError, MissingFileError
from regionspot.core.json_text import load_json
from regionspot.core.shown import shown

_WANTED = (
    'a JSON list of {"image_id": 1, "category_id": 2, "bbox": [x, y, width, height], "score": 0.5}'
)

Columns = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]
"""Image ids (N,), category ids (N,), boxes (x, y, width, height) (N, 4) and scores (N,)."""


class _Row(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


def read_result_columns(path: Path) -> Columns:
    """Read a results file with boxes.

    Raises:
        MissingFileError: There is no such file.
        AnnotationError: The file is not JSON, not a list, or an entry lacks a key.
    """
    if not path.is_file():
        raise MissingFileError(f"no results file at {path}.")
    content = path.read_bytes()
    try:
        return _read_typed(content)
    except (msgspec.MsgspecError, OverflowError, RecursionError, UnicodeDecodeError):
        return _read_by_entry(path, content)


def _read_typed(content: bytes) -> Columns:
    was_enabled = gc.isenabled()
    gc.disable()  # a million rows make it search for cycles again and again, and there are none
    try:
        rows = msgspec.json.decode(content, type=list[_Row])
        count = len(rows)
        boxes = chain.from_iterable(row.bbox for row in rows)
        return (
            np.fromiter((row.image_id for row in rows), np.int64, count),
            np.fromiter((row.category_id for row in rows), np.int64, count),
            np.fromiter(boxes, np.float64, 4 * count).reshape(-1, 4),
            np.fromiter((row.score for row in rows), np.float64, count),
        )
    finally:
        if was_enabled:
            gc.enable()


def _read_by_entry(path: Path, content: bytes) -> Columns:
    try:
        # Every entry becomes a tuple while it is parsed: a sixth of the memory of dicts.
        rows = load_json(content, object_hook=_row_of)
    except ValueError as error:
        raise AnnotationError(f"{path} is not JSON ({error}); is it cut off?") from error
    except _NotAResultError as error:
        raise AnnotationError(
            f"{path} is not a file of box results: {error}. Wanted {_WANTED}."
        ) from error
    if not isinstance(rows, list) or any(not isinstance(row, tuple) for row in rows):
        raise AnnotationError(
            f"{path} holds no list of results. Wanted the LVIS results format: {_WANTED}."
        )
    try:
        return _columns_of(cast("list[tuple[float, ...]]", rows))
    except OverflowError as error:
        raise AnnotationError(
            f"{path} holds a number that cannot be: {error}. Wanted boxes in pixels, and ids of"
            " images and categories as in the ground truth."
        ) from error


def _columns_of(rows: list[tuple[float, ...]]) -> Columns:
    return (
        _ids([row[0] for row in rows]),
        _ids([row[1] for row in rows]),
        np.array([row[2:6] for row in rows], np.float64).reshape(-1, 4),
        np.array([row[6] for row in rows], np.float64),
    )


def _ids(values: list[float]) -> NDArray[np.int64]:
    for value in values:
        if not (math.isfinite(value) and value == int(value) and abs(value) < 2**63):
            raise OverflowError(f"the id {shown(value)} is no whole one of 64 bits")
    return np.array([int(value) for value in values], np.int64)


class _NotAResultError(Exception):
    """An entry of a results file lacks what a box result needs."""


def _row_of(entry: dict[str, object]) -> tuple[float, ...] | dict[str, object]:
    """Turn one parsed JSON object into a row; nested objects (an RLE mask) stay as they are."""
    if "counts" in entry:
        return entry
    missing = [key for key in ("image_id", "category_id", "bbox", "score") if key not in entry]
    if missing:
        raise _NotAResultError(f"an entry has the keys {sorted(entry)} and lacks {missing}")
    box = entry["bbox"]
    if not isinstance(box, list) or len(box) != 4:
        raise _NotAResultError(f"an entry's bbox is {shown(box)}, not four numbers")
    numbers = (entry["image_id"], entry["category_id"], *box, entry["score"])
    if any(not isinstance(number, int | float) for number in numbers):
        raise _NotAResultError(f"an entry holds something that is not a number: {shown(numbers)}")
    return cast("tuple[float, ...]", numbers)
