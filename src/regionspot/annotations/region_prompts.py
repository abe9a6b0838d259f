"""SAM's prompts for regions other than their boxes: segmentations and points.

Both are kept as short JSON texts, so that millions of them stay small, and decoded with their
image. A text is empty if an annotation has no such prompt.
"""

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from regionspot.annotations.report import Reason
from regionspot.core.run_lengths import draw_runs, run_lengths
from regionspot.core.text import needs_extra

Prompt = Literal["box", "points", "mask", "box_and_mask"]
"""SAM's prompt for a region."""

Mask = NDArray[np.bool_]

_MIN_POLYGON = 6  # three corners; pycocotools takes four numbers for a box
_MAX_COORDINATE = 1 << 16  # above the largest JPEG; pycocotools computes in 32-bit integers
_MAX_OUTLINE = 1 << 22  # pixels along a polygon: pycocotools keeps five points for each
_NOTHING = {b"null", b"[]", b"[[]]"}


class _Rle(msgspec.Struct):
    """A segmentation as a run-length encoding."""

    size: tuple[int, int]
    """Height and width of the image."""
    counts: str | list[int]
    """Lengths of the runs, or COCO's compressed text of them."""


_SEGMENTATION: "msgspec.json.Decoder[list[list[float]] | _Rle]" = msgspec.json.Decoder(
    list[list[float]] | _Rle
)
_RLE_SIZE = re.compile(r'\{"size":\[(\d+),(\d+)\]')
_PAIRS = msgspec.json.Decoder(list[tuple[float, float]])
_NUMBERS = msgspec.json.Decoder(list[float])
_TRIPLES = msgspec.json.Decoder(list[tuple[float, float, int]])


def segmentation_text(segmentation: bytes) -> str:
    """Return the text of a COCO segmentation, given as JSON; empty if it cannot be drawn.

    That is: an RLE whose counts do not add up to its size; polygons with half a corner, a corner
    far outside every image, or fewer than three corners. A polygon of one or two corners beside
    larger ones has no pixel and is ignored.
    """
    try:
        found = _SEGMENTATION.decode(segmentation)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return ""
    if isinstance(found, _Rle):
        return (
            ""
            if run_lengths(found.counts, found.size) is None
            else msgspec.json.encode(found).decode()
        )
    polygons = [polygon for polygon in found if len(polygon) >= _MIN_POLYGON]
    if not polygons or not all(map(_is_drawable, found)):
        return ""
    return msgspec.json.encode(polygons).decode()


def segmentation_fault(segmentation: bytes, text: str) -> Reason | None:
    """Return why `segmentation_text` gave the text it did; None if there is a mask."""
    if text:
        return None
    is_nothing = b"".join(segmentation.split()) in _NOTHING
    return Reason.NO_MASK if is_nothing else Reason.BAD_MASK


def rle_size_hw(text: str) -> tuple[int, int] | None:
    """Return the image size (height, width) in a segmentation's text; polygons have none."""
    found = _RLE_SIZE.match(text)
    return None if found is None else (int(found[1]), int(found[2]))


def encode_mask(text: str, size_hw: tuple[int, int]) -> bytes | None:
    """Return the counts of a segmentation's mask in COCO's compressed RLE, as pycocotools does.

    Args:
        text: From `segmentation_text`.
        size_hw: Height and width of the image in pixels.

    Returns:
        The counts; None if the mask was made for an image of another size, or no image is as large.

    Raises:
        MissingExtraError: pycocotools is not installed.
    """
    with needs_extra("extract"):
        from pycocotools import mask as coco_mask
    if min(size_hw) < 1 or max(size_hw) > _MAX_COORDINATE:
        return None
    found = _SEGMENTATION.decode(text.encode())
    if not isinstance(found, _Rle):
        return _polygons_rle(found, size_hw)["counts"]
    if found.size != size_hw:
        return None
    if isinstance(found.counts, str):
        return found.counts.encode()
    return coco_mask.frPyObjects({"size": size_hw, "counts": found.counts}, *size_hw)["counts"]


def _is_drawable(polygon: Sequence[float]) -> bool:
    if not polygon:
        return True
    lowest, highest = min(polygon), max(polygon)
    if len(polygon) % 2 or lowest < -_MAX_COORDINATE or highest > _MAX_COORDINATE:
        return False
    if len(polygon) * (highest - lowest) <= _MAX_OUTLINE:  # nearly always
        return True
    corners = [*zip(polygon[::2], polygon[1::2], strict=True)]
    outline = sum(max(abs(x2 - x1), abs(y2 - y1)) for (x1, y1), (x2, y2) in pairwise(corners))
    return outline <= _MAX_OUTLINE


def points_text(point_coords: bytes, point_labels: bytes, keypoints: bytes) -> str:
    """Return the text of an annotation's points, as triples (x, y, label); empty if invalid.

    Args:
        point_coords: JSON of ``[[x, y], ...]``, as in SA-1B and ``SamPredictor``.
        point_labels: JSON of 1 (in the region) or 0 (not in it) for each; all 1 if null.
        keypoints: COCO's JSON of ``[x, y, v, ...]``, used if there are no ``point_coords``; those
            that are annotated (v above 0) are points in the region.
    """
    try:
        if point_coords != b"null":
            pairs = _PAIRS.decode(point_coords)
            labels = (
                [1.0] * len(pairs) if point_labels == b"null" else _NUMBERS.decode(point_labels)
            )
            points = [(x, y, label) for (x, y), label in zip(pairs, labels, strict=True)]
        elif keypoints != b"null":
            numbers = _NUMBERS.decode(keypoints)
            triples = zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
            points = [(x, y, 1.0) for x, y, visibility in triples if visibility > 0]
        else:
            return ""
    except (msgspec.DecodeError, ValueError):  # ValueError: lists of unequal length
        return ""
    labels_found = {label for _, _, label in points}
    if 1.0 not in labels_found or not labels_found <= {0.0, 1.0}:
        return ""
    return msgspec.json.encode([(x, y, int(label)) for x, y, label in points]).decode()


def decode_mask(text: str, size_hw: tuple[int, int]) -> Mask | None:
    """Return a segmentation's mask, (H, W), as pycocotools draws it.

    Args:
        text: From `segmentation_text`.
        size_hw: Height and width of the image in pixels.

    Returns:
        The mask; None if it is empty, or was made for an image of another size.

    Raises:
        MissingExtraError: pycocotools is not installed.
    """
    found = _SEGMENTATION.decode(text.encode())
    if isinstance(found, _Rle):
        counts = run_lengths(found.counts, size_hw) if found.size == size_hw else None
        mask = None if counts is None else draw_runs(counts, size_hw)
    else:
        with needs_extra("extract"):
            from pycocotools import mask as coco_mask
        mask = np.asarray(coco_mask.decode(_polygons_rle(found, size_hw)), np.bool_)
    return mask if mask is not None and mask.any() else None


def _polygons_rle(polygons: Sequence[Sequence[float]], size_hw: tuple[int, int]) -> dict[str, Any]:
    with needs_extra("extract"):
        from pycocotools import mask as coco_mask
    return coco_mask.merge(coco_mask.frPyObjects(polygons, *size_hw))


def decode_points(
    text: str, size_hw: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
    """Return a region's K points, (K, 2) in pixels, and their labels, (K,).

    Args:
        text: From `points_text`.
        size_hw: Height and width of the image in pixels.

    Returns:
        Points and labels; None if a point is outside the image.
    """
    triples = _TRIPLES.decode(text.encode())
    height, width = size_hw
    if not all(
        0 <= x <= width and 0 <= y <= height and math.isfinite(x + y) for x, y, _ in triples
    ):
        return None
    return (
        np.array([(x, y) for x, y, _ in triples], np.float32),
        np.array([label for _, _, label in triples], np.int64),
    )
