"""Converts boxes and points between frames and formats, as float32 numpy arrays.

Frames: *original* pixels of the image file, and that of the localizer. *SAM's frame* is the image
resized so that its long side is SAM's input size, with the origin at the top left; zero padding to
the right and below does not move it. SAM 2's is the image squashed to its square input. Boxes are
half-open: a box over the whole image is ``(0, 0, width, height)``.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from regionspot.core.errors import ShapeError

FloatArray = NDArray[np.float32]

_LARGEST_RELATIVE = 1.5
"""Relative coordinates end at 1, but boxes overshoot their image a little."""


def as_boxes(boxes: object, *, name: str = "boxes_xyxy") -> FloatArray:
    """Convert anything array-like to float32 boxes (R, 4); empty input gives (0, 4).

    Raises:
        ShapeError: The array is not (R, 4), or a value is not finite.
    """
    array = np.asarray(boxes, dtype=np.float32)
    if array.size == 0:
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ShapeError(
            f"{name} has shape {array.shape}; wanted (R, 4), one row (x1, y1, x2, y2) per region."
        )
    if not np.isfinite(array).all():
        row = int(np.isfinite(array).all(axis=1).argmin())
        raise ShapeError(
            f"{name} holds values that are not finite, first in row {row}:"
            f" {format_numbers(array[row])}."
        )
    return array


def xywh_to_xyxy(boxes_xywh: FloatArray) -> FloatArray:
    """Turn (x, y, width, height) boxes, (R, 4), into (x1, y1, x2, y2) boxes."""
    boxes = as_boxes(boxes_xywh, name="boxes_xywh")
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def xyxy_to_xywh(boxes_xyxy: FloatArray) -> FloatArray:
    """Turn (x1, y1, x2, y2) boxes, (R, 4), into (x, y, width, height) boxes."""
    boxes = as_boxes(boxes_xyxy)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def clip_boxes_xyxy(
    boxes_xyxy: FloatArray, size_hw: tuple[int, int] | NDArray[np.integer | np.floating]
) -> FloatArray:
    """Clip boxes, (R, 4), to an image of ``size_hw`` pixels, or each to its own, (R, 2)."""
    limits_xyxy = np.asarray(size_hw, np.float32)[..., [1, 0, 1, 0]]
    return np.clip(as_boxes(boxes_xyxy), 0, limits_xyxy)


def check_corners(boxes_xyxy: FloatArray) -> FloatArray:
    """Return boxes, (R, 4); raise `ShapeError` if one ends before it starts."""
    boxes = as_boxes(boxes_xyxy)
    inverted = (boxes[:, 2:] < boxes[:, :2]).any(axis=1)
    if not inverted.any():
        return boxes
    row = int(inverted.argmax())
    raise ShapeError(
        f"box {row} {format_numbers(boxes[row])} ends before it starts; wanted the corners"
        " (x1, y1, x2, y2) with x1 < x2 and y1 < y2."
    )


def look_relative(boxes_xyxy: FloatArray) -> bool:
    """Return whether boxes, (R, 4), must be relative to the image's size.

    All of their coordinates are below 1.5: in pixels, no box would contain more than the first one.
    """
    boxes = as_boxes(boxes_xyxy)
    return len(boxes) > 0 and bool((boxes < _LARGEST_RELATIVE).all())


def format_numbers(values: Iterable[float | np.floating]) -> str:
    """Format numbers as one would type them: ``(10, 20.5, 30, 40)``."""
    return f"({', '.join(np.format_float_positional(np.float32(v), trim='-') for v in values)})"


def relative_to_pixels(boxes_xyxy: FloatArray, size_hw: tuple[int, int]) -> FloatArray:
    """Turn boxes, (R, 4), relative to the image's width and height into pixels."""
    height, width = size_hw
    return as_boxes(boxes_xyxy) * np.array([width, height, width, height], np.float32)


def pixels_to_relative(
    boxes_xyxy: FloatArray, size_hw: tuple[int, int] | NDArray[np.integer | np.floating]
) -> FloatArray:
    """Turn boxes, (R, 4), in pixels of an image into ones that count its width and height as 1."""
    return as_boxes(boxes_xyxy) / np.asarray(size_hw, np.float32)[..., [1, 0, 1, 0]]


def box_area(boxes_xyxy: FloatArray) -> FloatArray:
    """Return the areas of boxes (R, 4) in square pixels, (R,); 0 for an inverted box."""
    boxes = as_boxes(boxes_xyxy)
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    return sides[:, 0] * sides[:, 1]


def resized_size_hw(size_hw: tuple[int, int], long_side: int) -> tuple[int, int]:
    """Return the size of an image resized so that its long side is ``long_side`` pixels.

    Rounds as ``segment_anything.utils.transforms.ResizeLongestSide.get_preprocess_shape`` does.
    """
    height, width = size_hw
    scale = long_side / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def resize_points_xy(
    points_xy: FloatArray, size_hw: tuple[int, int], resized_hw: tuple[int, int]
) -> FloatArray:
    """Map points (x, y), (..., 2), in pixels of an image to pixels of the resized image.

    Each axis has its own ratio of ``resized_hw`` to ``size_hw``, both (height, width) in pixels.
    """
    (height, width), (new_height, new_width) = size_hw, resized_hw
    ratio_xy = np.array([new_width / width, new_height / height], np.float64)
    return (np.asarray(points_xy, np.float64) * ratio_xy).astype(np.float32)


def resize_boxes_xyxy(
    boxes_xyxy: FloatArray, size_hw: tuple[int, int], resized_hw: tuple[int, int]
) -> FloatArray:
    """Map boxes (R, 4) in pixels of an image to the resized image; see `resize_points_xy`."""
    corners = as_boxes(boxes_xyxy).reshape(-1, 2, 2)
    return resize_points_xy(corners, size_hw, resized_hw).reshape(-1, 4)


def to_sam_frame(boxes_xyxy: FloatArray, size_hw: tuple[int, int], long_side: int) -> FloatArray:
    """Map boxes (R, 4) in original pixels to SAM's frame.

    Each axis is scaled by its own rounded ratio, as in ``ResizeLongestSide.apply_coords``.

    Args:
        boxes_xyxy: Boxes, (R, 4), pixels of the original image.
        size_hw: Height and width of the original image in pixels.
        long_side: SAM's input size in pixels (1024 for the released models).
    """
    return resize_boxes_xyxy(boxes_xyxy, size_hw, resized_size_hw(size_hw, long_side))
