"""Cutting regions out of images, the way the CLIP baselines of the paper look at them.

All functions take and return uint8 RGB arrays (H, W, 3) and boxes in pixels of the original image.
A box is widened to whole pixels, so that nothing of the region is cut away, and always covers at
least one pixel of the image: a box thinner than a pixel, or outside the image, becomes the nearest
pixel row or column.
"""

import math

import numpy as np
from numpy.typing import NDArray

from regionspot.core.geometry import FloatArray

ImageArray = NDArray[np.uint8]
MaskArray = NDArray[np.bool_]
PixelBox = tuple[int, int, int, int]
"""Whole pixels ``(x1, y1, x2, y2)``, half-open: ``image[y1:y2, x1:x2]``."""


def pixel_box(box_xyxy: FloatArray, size_hw: tuple[int, int]) -> PixelBox:
    """Widen one box, (4,), to the whole pixels it touches, at least one pixel inside the image."""
    height, width = size_hw
    x1, x2 = _pixel_range(float(box_xyxy[0]), float(box_xyxy[2]), width)
    y1, y2 = _pixel_range(float(box_xyxy[1]), float(box_xyxy[3]), height)
    return x1, y1, x2, y2


def box_crop(image: ImageArray, box_xyxy: FloatArray) -> ImageArray:
    """Cut the box out of the image: a view of at least (1, 1, 3)."""
    x1, y1, x2, y2 = pixel_box(box_xyxy, (image.shape[0], image.shape[1]))
    return image[y1:y2, x1:x2]


def mask_crop(
    image: ImageArray, box_xyxy: FloatArray, mask: MaskArray, grey: ImageArray
) -> ImageArray:
    """Cut the box out of the image and paint what lies outside the mask grey.

    A mask without a pixel in the box says nothing about the region; the plain crop is returned
    then.

    Args:
        image: The whole image, (H, W, 3) uint8 RGB.
        box_xyxy: One box, (4,), original pixels.
        mask: The region at the image's size, (H, W) bool.
        grey: The colour to fill with, (3,) uint8 RGB.
    """
    x1, y1, x2, y2 = pixel_box(box_xyxy, (image.shape[0], image.shape[1]))
    inside = mask[y1:y2, x1:x2]
    crop = image[y1:y2, x1:x2]
    return np.where(inside[..., None], crop, grey) if inside.any() else crop


def grey_outside_mask(
    image: ImageArray, box_xyxy: FloatArray, mask: MaskArray, grey: ImageArray
) -> ImageArray:
    """Keep the image's size and the region's place and scale, and paint all outside the mask grey.

    The mask counts beyond the box too. An empty mask is replaced by the box, so that something of
    the region stays visible. Arguments as in `mask_crop`.
    """
    if mask.any():
        return np.where(mask[..., None], image, grey)
    x1, y1, x2, y2 = pixel_box(box_xyxy, (image.shape[0], image.shape[1]))
    kept = np.empty_like(image)
    kept[:] = grey
    kept[y1:y2, x1:x2] = image[y1:y2, x1:x2]
    return kept


def mean_grey(mean: tuple[float, float, float]) -> ImageArray:
    """Return the colour, (3,) uint8 RGB, that a CLIP with this input mean sees as (nearly) zero.

    Args:
        mean: The encoder's input mean by channel, as fractions of full brightness.
    """
    return np.rint(np.array(mean) * 255).astype(np.uint8)


def _pixel_range(low: float, high: float, length: int) -> tuple[int, int]:
    start = min(max(math.floor(low), 0), length - 1)
    return start, min(max(math.ceil(high), start + 1), length)
