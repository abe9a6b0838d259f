"""Images in: a path, a PIL image or an array, to uint8 RGB pixels."""

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regionspot.backbones.extras import needs_extra
from regionspot.core.errors import MissingFileError, RegionSpotError, ShapeError

with needs_extra("extract"):
    from PIL import Image, ImageOps, UnidentifiedImageError

_logger = logging.getLogger(__name__)
_ORIENTATION_TAG = 0x0112

ImageLike = str | Path | Image.Image | NDArray[np.uint8]
"""What `RegionSpot.recognize` takes for an image."""


class ImageError(RegionSpotError, ValueError):
    """A file that was named as an image cannot be decoded as one."""


def load_image(
    image: ImageLike, *, exif_policy: str = "ignore", rotation_log_level: int = logging.WARNING
) -> NDArray[np.uint8]:
    """Return an image's pixels as an (H, W, 3) uint8 RGB array.

    Args:
        image: A path to an image file, a PIL image of any mode, or an (H, W, 3) uint8 RGB array
            (returned as it is).
        exif_policy: "ignore" takes the pixels as they are stored, as data sets' boxes mean them;
            any other value turns the picture as its EXIF orientation says, as viewers show it.
            Arrays have no EXIF.
        rotation_log_level: How loudly an ignored rotation is logged. A person's own photograph
            deserves a warning; in a data set, whose boxes are in the stored frame, it is normal.

    Raises:
        MissingFileError: There is no file at the path.
        ImageError: The file is not an image, or is cut short.
        ShapeError: The array is not (H, W, 3) uint8, or it is empty.
    """
    if isinstance(image, np.ndarray):
        return _checked(image)
    if isinstance(image, Image.Image):
        _log_ignored_rotation(image, "the image", exif_policy, rotation_log_level)
        return _checked(_rgb_pixels(image, exif_policy))
    path = Path(image)
    if not path.is_file():
        raise MissingFileError(f"no image file at {path}: check the path, or pass the pixels.")
    try:
        with Image.open(path) as opened:
            _log_ignored_rotation(opened, str(path), exif_policy, rotation_log_level)
            return _rgb_pixels(opened, exif_policy)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(
            f"{path} cannot be decoded as an image ({error}): replace the file, or leave it out."
        ) from error


def _rgb_pixels(image: Image.Image, exif_policy: str) -> NDArray[np.uint8]:
    upright = image if exif_policy == "ignore" else ImageOps.exif_transpose(image)
    return np.array(upright.convert("RGB"))


def _log_ignored_rotation(image: Image.Image, name: str, exif_policy: str, level: int) -> None:
    if exif_policy == "ignore" and image.getexif().get(_ORIENTATION_TAG, 1) != 1:
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
