"""Reads results files of detectors and other systems: LVIS and COCO results, as columns.

A file is a JSON list of ``{"image_id", "category_id", "bbox": [x, y, width, height], "score"}``;
for mask AP, the box is replaced by ``"segmentation": {"size": [height, width], "counts": ".."}``.
The list may also be ``annotations`` or ``results`` of an object, beside the ``categories`` that its
ids stand for. Further keys are ignored.

`msgspec` decodes it into typed rows. A file that does not fit is read again entry by entry, which
takes longer and finds what to tell.

Shape letter: N predictions.
"""

import gc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from regionspot.annotations import encode_mask, segmentation_text
from regionspot.core.errors import AnnotationError, MissingFileError
from regionspot.core.json_text import load_json
from regionspot.core.rle_masks import RleMasks
from regionspot.core.shown import shown
from regionspot.scoring.ap_scores import IouType

_REGION: dict[IouType, tuple[str, str]] = {
    "bbox": ("bbox", '"bbox": [x, y, width, height]'),
    "segm": ("segmentation", '"segmentation": {"size": [height, width], "counts": ".."}'),
}
_LISTS = ("annotations", "results")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResultsFile:
    """The content of a results file; row ``i`` of the columns is entry ``i``."""

    image_ids: NDArray[np.int64]
    """Image of each entry, (N,)."""
    category_ids: NDArray[np.int64]
    """Its category, (N,)."""
    boxes_xywh: NDArray[np.float64]
    """Its box, (N, 4): that around its mask if masks were read."""
    scores: NDArray[np.float64]
    """Its confidence, (N,)."""
    masks: RleMasks | None
    """Its mask, N in all; None if boxes were read."""
    categories: dict[int, str] | None
    """Names of the categories by id; None if the file does not say."""


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str


class _BoxRow(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


class _Rle(msgspec.Struct, gc=False, frozen=True):
    size: tuple[int, int]
    counts: str


class _MaskRow(msgspec.Struct, gc=False):
    image_id: int
    category_id: int
    segmentation: _Rle
    score: float


_Rows = Sequence[_BoxRow] | Sequence[_MaskRow]


class _BoxFile(msgspec.Struct):
    annotations: list[_BoxRow] | None = None
    results: list[_BoxRow] | None = None
    categories: list[_Category] | None = None


class _MaskFile(msgspec.Struct):
    annotations: list[_MaskRow] | None = None
    results: list[_MaskRow] | None = None
    categories: list[_Category] | None = None


_DECODERS: dict[IouType, "msgspec.json.Decoder[Any]"] = {
    "bbox": msgspec.json.Decoder(list[_BoxRow] | _BoxFile),
    "segm": msgspec.json.Decoder(list[_MaskRow] | _MaskFile),
}


def read_results_file(path: Path, *, iou_type: IouType = "bbox") -> ResultsFile:
    """Read a results file.

    Args:
        path: The file.
        iou_type: Whether to read boxes or masks.

    Raises:
        MissingFileError: There is no such file.
        AnnotationError: The file is not JSON, holds no list of results, or an entry lacks a key or
            has a mask that is none.
        MissingExtraError: Masks are to be read, and pycocotools is not installed.
    """
    if not path.is_file():
        raise MissingFileError(f"no results file at {path}.")
    content = path.read_bytes()
    was_enabled = gc.isenabled()
    gc.disable()  # a million rows make it search for cycles again and again, and there are none
    try:
        rows, categories = _decode(content, path, iou_type)
        count = len(rows)
        masks = _masks(cast("Sequence[_MaskRow]", rows), path) if iou_type == "segm" else None
        if masks is None:
            sides = chain.from_iterable(row.bbox for row in cast("Sequence[_BoxRow]", rows))
            boxes_xywh = np.fromiter(sides, np.float64, 4 * count).reshape(-1, 4)
        else:
            boxes_xywh = masks.boxes_xywh()
        return ResultsFile(
            image_ids=np.fromiter((row.image_id for row in rows), np.int64, count),
            category_ids=np.fromiter((row.category_id for row in rows), np.int64, count),
            boxes_xywh=boxes_xywh,
            scores=np.fromiter((row.score for row in rows), np.float64, count),
            masks=masks,
            categories=None if categories is None else {one.id: one.name for one in categories},
        )
    except OverflowError as error:
        raise AnnotationError(
            f"{path} holds a number that cannot be: {error}. Wanted boxes in pixels, and ids of"
            " images and categories as in the ground truth."
        ) from error
    finally:
        if was_enabled:
            gc.enable()


def _decode(
    content: bytes, path: Path, iou_type: IouType
) -> tuple[_Rows, Sequence[_Category] | None]:
    try:
        found = _DECODERS[iou_type].decode(content)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return _decode_by_entry(content, path, iou_type)
    if isinstance(found, list):
        return found, None
    if (found.annotations is None) == (found.results is None):
        raise _no_list_error(path, iou_type)
    rows = found.results if found.annotations is None else found.annotations
    return rows, found.categories


def _masks(rows: Sequence[_MaskRow], path: Path) -> RleMasks:
    """Check the masks, each once however many classes it is predicted as."""
    counts_of: dict[_Rle, bytes] = {}
    for index, row in enumerate(rows):
        mask = row.segmentation
        if mask not in counts_of:
            text = segmentation_text(msgspec.json.encode(mask))
            counts = encode_mask(text, mask.size) if text else None
            if counts is None:
                raise AnnotationError(
                    f"{path}: the mask of entry {index}, {shown(mask.counts)}, does not describe"
                    f" the pixels of an image of {mask.size[0]} x {mask.size[1]} (height x width)."
                    " Write masks with pycocotools.mask.encode, at the size of their image."
                )
            counts_of[mask] = counts
    return RleMasks.of_lists(
        [counts_of[row.segmentation] for row in rows], [row.segmentation.size for row in rows]
    )


def _decode_by_entry(
    content: bytes, path: Path, iou_type: IouType
) -> tuple[_Rows, Sequence[_Category] | None]:
    def row_of(entry: dict[str, object]) -> _BoxRow | _MaskRow | dict[str, object]:
        # Every entry becomes a row while it is parsed: a sixth of the memory of dicts.
        return _row_of(entry, iou_type) if "image_id" in entry else entry

    try:
        found = load_json(content, object_hook=row_of)
        categories = None
        if isinstance(found, dict):
            lists = [found[name] for name in _LISTS if name in found]
            if "categories" in found:
                categories = _categories_of(found["categories"])
            found = lists[0] if len(lists) == 1 else None
        if isinstance(found, list):
            for entry in found:
                if isinstance(entry, dict):
                    _row_of(entry, iou_type)
    except ValueError as error:
        raise AnnotationError(f"{path} is not JSON ({error}); is it cut off?") from error
    except _NotAResultError as error:
        what = "box" if iou_type == "bbox" else "mask"
        raise AnnotationError(
            f"{path} is not a file of {what} results: {error}. Wanted {_wanted(iou_type)}."
        ) from error
    if not isinstance(found, list) or not all(isinstance(row, _BoxRow | _MaskRow) for row in found):
        raise _no_list_error(path, iou_type)
    return cast("_Rows", found), categories


def _no_list_error(path: Path, iou_type: IouType) -> AnnotationError:
    return AnnotationError(
        f"{path} holds no list of results. Wanted the LVIS results format: {_wanted(iou_type)}, or"
        ' an object with that list as "annotations" or "results", and "categories".'
    )


def _wanted(iou_type: IouType) -> str:
    region = _REGION[iou_type][1]
    return f'a JSON list of {{"image_id": 1, "category_id": 2, {region}, "score": 0.5}}'


class _NotAResultError(Exception):
    """An entry of a results file lacks what a result needs."""


def _row_of(entry: dict[str, object], iou_type: IouType) -> _BoxRow | _MaskRow:
    """Turn one parsed JSON object into a row; further keys may hold anything."""
    region = _REGION[iou_type][0]
    missing = [key for key in ("image_id", "category_id", region, "score") if key not in entry]
    if missing:
        raise _NotAResultError(f"an entry has the keys {sorted(entry)} and lacks {missing}")
    numbers = (entry["image_id"], entry["category_id"], entry["score"])
    _check_numbers(numbers)
    image_id, category_id = (_whole(cast("float", number)) for number in numbers[:2])
    score = float(cast("float", entry["score"]))
    value = entry[region]
    if iou_type == "segm":
        try:
            mask = msgspec.convert(value, _Rle)
        except msgspec.ValidationError as error:
            raise _NotAResultError(
                f"an entry's segmentation is {shown(value)}, not a compressed RLE ({error})"
            ) from error
        return _MaskRow(image_id=image_id, category_id=category_id, segmentation=mask, score=score)
    if not isinstance(value, list) or len(value) != 4:
        raise _NotAResultError(f"an entry's bbox is {shown(value)}, not four numbers")
    _check_numbers(value)
    box = tuple(float(number) for number in value)
    return _BoxRow(image_id=image_id, category_id=category_id, bbox=cast("Any", box), score=score)


def _check_numbers(values: Sequence[object]) -> None:
    if any(not isinstance(number, int | float) for number in values):
        raise _NotAResultError(f"an entry holds something that is not a number: {shown(values)}")


def _whole(value: float) -> int:
    if not (math.isfinite(value) and value == int(value) and abs(value) < 2**63):
        raise OverflowError(f"the id {shown(value)} is no whole one of 64 bits")
    return int(value)


def _categories_of(value: object) -> list[_Category]:
    try:
        return msgspec.convert(value, list[_Category], strict=False)
    except msgspec.ValidationError as error:
        raise _NotAResultError(
            f'its categories are no list of {{"id": 1, "name": ".."}} ({error})'
        ) from error
