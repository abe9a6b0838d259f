"""Checks images, and resizes them with Pillow as both frozen models expect.

Pillow's bilinear filter antialiases and rounds to whole levels. ``segment_anything`` uses it, and
one version of Pillow gives the same bytes on every machine.
"""

import numpy as np
from numpy.typing import NDArray

from regionspot.core.errors import ShapeError
from regionspot.core.text import needs_extra

ImageArray = NDArray[np.uint8]


def check_image(image: ImageArray) -> tuple[int, int]:
    """Return the height and width of an RGB image.

    Raises:
        ShapeError: The image is not (H, W, 3) uint8, or has no pixel.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ShapeError(
            f"found an image of shape {image.shape} and dtype {image.dtype}; wanted (H, W, 3) uint8"
            " RGB with at least one pixel. Convert it first: PIL's Image.convert('RGB') handles"
            " grey, palette and CMYK images."
        )
    return image.shape[0], image.shape[1]


def resize_bilinear(image: ImageArray, size_hw: tuple[int, int]) -> ImageArray:
    """Resize an RGB image, bilinear with antialias, in whole levels.

    Args:
        image: (H, W, 3) uint8.
        size_hw: New height and width in pixels.

    Returns:
        (h, w, 3) uint8, always a copy.

    Raises:
        ShapeError: The image is not (H, W, 3) uint8, or one of the new sides is 0.
    """
    found_hw = check_image(image)
    height, width = size_hw
    if min(size_hw) < 1:
        raise ShapeError(
            f"an image of {found_hw[0]} x {found_hw[1]} pixels (height x width) would become"
            f" {height} x {width}: it is too elongated for the model. Crop it, or leave it out."
        )
    if found_hw == size_hw:
        return image.copy()
    with needs_extra("extract"):
        from PIL import Image
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.array(resized)
