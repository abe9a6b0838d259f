"""What SAM may be shown of a region in place of its box: its segmentation, or points.

Both are kept as short JSON texts of one form, so that millions of them stay small, and are decoded
when their image's turn comes. A text is empty where an annotation has nothing that could be shown.
Shape letter: K points.
"""

import math
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from regionspot.core.extras import needs_extra

Prompt = Literal["box", "points", "mask", "box_and_mask"]
"""What of a region SAM is shown."""

_MIN_POLYGON = 6  # three corners; pycocotools takes a list of four numbers for a box


class _Rle(msgspec.Struct):
    size: tuple[int, int]
    counts: str | list[int]


_SEGMENTATION: "msgspec.json.Decoder[list[list[float]] | _Rle]" = msgspec.json.Decoder(
    list[list[float]] | _Rle
)
_PAIRS = msgspec.json.Decoder(list[tuple[float, float]])
_NUMBERS = msgspec.json.Decoder(list[float])
_TRIPLES = msgspec.json.Decoder(list[tuple[float, float, int]])


def segmentation_text(segmentation: bytes) -> str:
    """Return the text of a COCO segmentation: polygons, or a run-length encoding.

    Args:
        segmentation: The annotation's JSON value. Polygons of fewer than three corners are left
            out.
    """
    try:
        found = _SEGMENTATION.decode(segmentation)
    except msgspec.DecodeError:
        return ""
    if isinstance(found, _Rle):
        return msgspec.json.encode(found).decode()
    polygons = [p for p in found if len(p) >= _MIN_POLYGON and len(p) % 2 == 0]
    return msgspec.json.encode(polygons).decode() if polygons else ""


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


def decode_mask(text: str, size_hw: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Return a segmentation's mask, (H, W), as pycocotools draws it.

    Args:
        text: From `segmentation_text`.
        size_hw: Height and width of the image in pixels.

    Returns:
        The mask; None if no pixel is left of it, or it was made for an image of another size.

    Raises:
        MissingExtraError: pycocotools is not installed.
    """
    with needs_extra("extract"):
        from pycocotools import mask as coco_mask
    found = _SEGMENTATION.decode(text.encode())
    if isinstance(found, _Rle):
        if found.size != size_hw:
            return None
        encoded: object = {"size": list(found.size), "counts": found.counts}
        if not isinstance(found.counts, str):
            encoded = coco_mask.frPyObjects(encoded, *size_hw)
    else:
        encoded = coco_mask.merge(coco_mask.frPyObjects(found, *size_hw))
    mask = np.asarray(coco_mask.decode(encoded), np.bool_)
    return mask if mask.any() else None


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
