"""Images in: a path, a PIL image or an array, to uint8 RGB pixels."""

import io
import logging
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regionspot.backbones.image_files import (
    MAX_PIXELS,
    ImageError,
    decode_image,
    exif_orientation,
    rgb_pixels,
)
from regionspot.backbones.presets import ExifPolicy
from regionspot.core.errors import MissingFileError, ShapeError
from regionspot.core.extras import needs_extra

with needs_extra("extract"):
    from PIL import Image

_logger = logging.getLogger(__name__)

ImageLike = str | Path | Image.Image | NDArray[np.uint8]
"""What `RegionSpot.recognize` takes for an image."""


def load_image(
    image: ImageLike,
    *,
    exif_policy: ExifPolicy = "ignore",
    rotation_log_level: int = logging.WARNING,
) -> NDArray[np.uint8]:
    """Return an image's pixels as an (H, W, 3) uint8 RGB array.

    Files are decoded by the code that makes caches, so that pixels are the same in both.

    Args:
        image: A path to an image file, a PIL image of any mode, or an (H, W, 3) uint8 RGB array
            (returned as it is).
        exif_policy: "ignore" takes the pixels as they are stored, as data sets' boxes mean them;
            "apply" turns the picture as its EXIF orientation says, as viewers show it. Arrays have
            no EXIF.
        rotation_log_level: How loudly an ignored rotation is logged. A person's own photograph
            deserves a warning; in a data set, whose boxes are in the stored frame, it is normal.

    Raises:
        MissingFileError: There is no file at the path.
        ImageError: The file is not an image, is cut short, or has more pixels than
            ``PIL.Image.MAX_IMAGE_PIXELS``, to which Pillow gives a number of its own.
        ShapeError: The array is not (H, W, 3) uint8, or it is empty.
    """
    if isinstance(image, np.ndarray):
        return _checked(image)
    if isinstance(image, Image.Image):
        _log_ignored_rotation(image, "the image", exif_policy, rotation_log_level)
        try:
            return _checked(rgb_pixels(image, exif_policy=exif_policy))
        except ImageError as error:
            raise ImageError(f"the image {error}: pass another one.") from error
    path = Path(image)
    if not path.is_file():
        raise MissingFileError(f"no image file at {path}: check the path, or pass the pixels.")
    data = path.read_bytes()
    try:
        pillows = Image.MAX_IMAGE_PIXELS
        max_pixels = sys.maxsize if pillows is None else max(pillows, MAX_PIXELS)
        pixels = decode_image(data, exif_policy=exif_policy, max_pixels=max_pixels)
    except ImageError as error:
        raise ImageError(f"{path} {error}: replace the file, or leave it out.") from error
    with Image.open(io.BytesIO(data)) as opened:
        _log_ignored_rotation(opened, str(path), exif_policy, rotation_log_level)
    return pixels


def _log_ignored_rotation(
    image: Image.Image, name: str, exif_policy: ExifPolicy, level: int
) -> None:
    if exif_policy == "ignore" and exif_orientation(image) != 1:
        _logger.log(
            level,
            "%s carries an EXIF rotation, which is ignored as it was in training: boxes must be in"
            " the stored pixels' frame, not in the one a viewer shows.",
            name,
        )


def _checked(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if pixels.dtype != np.uint8:
        raise ShapeError(
            f"the image array has dtype {pixels.dtype}; wanted uint8 from 0 to 255. Convert a"
            " float image in 0..1 by `(image * 255).round().astype(numpy.uint8)`."
        )
    if pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ShapeError(
            f"the image array has shape {pixels.shape}; wanted (height, width, 3) in RGB order,"
            " not empty. Move channels last, and repeat a grey image three times."
        )
    return pixels
