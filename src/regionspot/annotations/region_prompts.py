"""What SAM may be shown of a region in place of its box: its segmentation, or points.

Both are kept as short JSON texts of one form, so that millions of them stay small, and are decoded
when their image's turn comes. A text is empty where an annotation has nothing that could be shown.
Shape letter: K points.
"""

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from regionspot.annotations.report import Reason
from regionspot.annotations.run_lengths import Rle, draw_runs, run_lengths
from regionspot.core.text import needs_extra

Prompt = Literal["box", "points", "mask", "box_and_mask"]
"""What of a region SAM is shown."""

Mask = NDArray[np.bool_]

_MIN_POLYGON = 6  # three corners; pycocotools takes a list of four numbers for a box
_MAX_COORDINATE = 1 << 16  # above the largest JPEG; pycocotools computes in 32-bit integers
_MAX_OUTLINE = 1 << 22  # pixels along a polygon: pycocotools keeps five points for each
_NOTHING = {b"null", b"[]", b"[[]]"}

_SEGMENTATION: "msgspec.json.Decoder[list[list[float]] | Rle]" = msgspec.json.Decoder(
    list[list[float]] | Rle
)
_RLE_SIZE = re.compile(r'\{"size":\[(\d+),(\d+)\]')
_PAIRS = msgspec.json.Decoder(list[tuple[float, float]])
_NUMBERS = msgspec.json.Decoder(list[float])
_TRIPLES = msgspec.json.Decoder(list[tuple[float, float, int]])


def segmentation_text(segmentation: bytes) -> str:
    """Return the text of a COCO segmentation; empty if it cannot be drawn.

    That is: a run-length encoding that does not describe just the pixels of its size; polygons with
    half a corner, a corner far outside every image, or fewer than three corners. A polygon of one
    or two corners beside larger ones has no pixel and is left out.

    Args:
        segmentation: The annotation's JSON value.
    """
    try:
        found = _SEGMENTATION.decode(segmentation)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return ""
    if isinstance(found, Rle):
        return "" if run_lengths(found) is None else msgspec.json.encode(found).decode()
    polygons = [polygon for polygon in found if len(polygon) >= _MIN_POLYGON]
    if not polygons or not all(map(_is_drawable, found)):
        return ""
    return msgspec.json.encode(polygons).decode()


def segmentation_fault(segmentation: bytes, text: str) -> Reason | None:
    """Return why there is no mask of an annotation, None if there is one.

    Args:
        segmentation: The annotation's JSON value.
        text: What `segmentation_text` makes of it.
    """
    if text:
        return None
    is_nothing = b"".join(segmentation.split()) in _NOTHING
    return Reason.NO_MASK if is_nothing else Reason.BAD_MASK


def rle_size_hw(text: str) -> tuple[int, int] | None:
    """Return the image size that a segmentation states, (height, width); polygons state none."""
    found = _RLE_SIZE.match(text)
    return None if found is None else (int(found[1]), int(found[2]))


def _is_drawable(polygon: Sequence[float]) -> bool:
    if not polygon:
        return True
    lowest, highest = min(polygon), max(polygon)
    if len(polygon) % 2 or lowest < -_MAX_COORDINATE or highest > _MAX_COORDINATE:
        return False
    if len(polygon) * (highest - lowest) <= _MAX_OUTLINE:  # nearly always, and quickly told
        return True
    corners = [*zip(polygon[::2], polygon[1::2], strict=True)]
    outline = sum(max(abs(x2 - x1), abs(y2 - y1)) for (x1, y1), (x2, y2) in pairwise(corners))
    return outline <= _MAX_OUTLINE


def points_text(point_coords: bytes, point_labels: bytes, keypoints: bytes) -> str:
    """Return the text of an annotation's points, as triples (x, y, label).

    Args:
        point_coords: JSON of ``[[x, y], ...]``, the name of SA-1B and of ``SamPredictor``.
        point_labels: JSON of 1 (in the region) or 0 (not in it) for each; all 1 if null.
        keypoints: COCO's JSON of ``[x, y, v, ...]``, used where there are no ``point_coords``;
            those that are annotated (v above 0) are points in the region.
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
        The mask; None if no pixel is left of it, or it was made for an image of another size.

    Raises:
        MissingExtraError: pycocotools is not installed.
    """
    found = _SEGMENTATION.decode(text.encode())
    if isinstance(found, Rle):
        counts = run_lengths(found) if found.size == size_hw else None
        mask = None if counts is None else draw_runs(counts, size_hw)
    else:
        mask = _draw_polygons(found, size_hw)
    return mask if mask is not None and mask.any() else None


def _draw_polygons(polygons: Sequence[Sequence[float]], size_hw: tuple[int, int]) -> Mask:
    with needs_extra("extract"):
        from pycocotools import mask as coco_mask
    encoded = coco_mask.merge(coco_mask.frPyObjects(polygons, *size_hw))
    return np.asarray(coco_mask.decode(encoded), np.bool_)


def decode_points(
    text: str, size_hw: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
    """Return a region's points, (K, 2) in pixels, and their labels, (K,).

    Args:
        text: From `points_text`.
        size_hw: Height and width of the image in pixels.

    Returns:
        Points and labels; None if a point lies outside the image.
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
