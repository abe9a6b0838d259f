"""Converts user input: numbers to arrays, and images of any kind to pixels."""

import io
import logging
import os
import sys
from collections.abc import Iterator
from operator import index
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from regionspot.backbones.decode_images import (
    MAX_PIXELS,
    ImageError,
    decode_image,
    exif_orientation,
    rgb_pixels,
)
from regionspot.backbones.presets import ExifPolicy
from regionspot.core.errors import ConfigError, MissingFileError, ShapeError
from regionspot.core.files import is_file
from regionspot.core.text import needs_extra
from regionspot.inference.encoded_image import EncodedImage
from regionspot.inference.fetch_image import fetch_image
from regionspot.storage import is_url

with needs_extra("extract"):
    from PIL import Image


_logger = logging.getLogger(__name__)

ImageLike = str | Path | bytes | BinaryIO | Image.Image | NDArray[np.uint8] | Tensor | EncodedImage
"""An image as `RegionSpot.recognize` accepts it."""

_CHANNELS = (1, 3, 4)
"""Grey, RGB, RGBA."""


def as_array(values: object, *, name: str, dtype: DTypeLike | None = None) -> NDArray[Any]:
    """Convert numbers to an array.

    Args:
        values: An array, a tensor, or a list or generator of these or of numbers.
        name: The argument's name, for the message.
        dtype: Type of the numbers; None keeps theirs.

    Raises:
        ShapeError: They are not numbers, or rows differ in length.
    """
    try:
        with np.errstate(over="ignore"):  # a number too large for float32 is reported as infinite
            return np.asarray(_plain(values), dtype=dtype)
    except (TypeError, ValueError) as error:
        raise ShapeError(
            f"{name}= makes no array ({error}). Wanted numbers, and equally many for every region:"
            " where points differ in number, pad them with the label -1."
        ) from error


def as_count(value: object, *, name: str) -> int:
    """Return a whole number of 1 or more; raise `ConfigError` if the value is not one."""
    try:
        count = 0 if isinstance(value, bool) else index(value)  # type: ignore[arg-type]
    except TypeError:
        count = 0
    if count < 1:
        raise ConfigError(f"{name} is {value!r}; wanted a whole number of at least 1.")
    return count


def _plain(values: object) -> object:
    if isinstance(values, Tensor):
        return _tensor_to_array(values)
    if isinstance(values, list | tuple | Iterator):
        return [_plain(value) for value in values]
    return values


def _tensor_to_array(tensor: Tensor) -> NDArray[Any]:
    on_cpu = tensor.detach().cpu()
    try:
        return on_cpu.numpy()
    except TypeError:  # numpy has no bfloat16
        return on_cpu.float().numpy()


def is_one_image(image: object) -> bool:
    """Return whether this is a single image, or a dict, not a list or generator of images."""
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray, Tensor, dict)
    return isinstance(image, (*kinds, EncodedImage)) or hasattr(image, "read")


def load_image(
    image: ImageLike,
    *,
    exif_policy: ExifPolicy = "ignore",
    rotation_log_level: int = logging.WARNING,
) -> NDArray[np.uint8]:
    """Return an image's pixels as an (H, W, 3) uint8 RGB array.

    Files are decoded by the same code as for caches, so pixels are the same in both.

    Args:
        image: A path or an http(s) URL of an image file, its bytes, an open file, a PIL image of
            any mode, an `EncodedImage`, or uint8 pixels: an array (H, W, 3) in RGB order (returned
            as it is), (H, W) or (H, W, 1) in grey, or (H, W, 4) in RGBA; or a tensor of these
            shapes or with channels first. Transparent pixels become white.
        exif_policy: "ignore" keeps the pixels as stored, the frame of a data set's boxes; "apply"
            rotates the image by its EXIF orientation, as viewers do. Arrays have no EXIF.
        rotation_log_level: Log level for an ignored rotation: a warning for a user's own photo, but
            normal in a data set, whose boxes are in the stored frame.

    Raises:
        MissingFileError: There is no file at the path or URL.
        StorageError: A download fails, or is too large; see `fetch_image`.
        ImageError: The file is not an image, is truncated, or has more pixels than
            ``PIL.Image.MAX_IMAGE_PIXELS`` (at least Pillow's default).
        ShapeError: It is none of these, or an array or tensor has another shape or type, or is
            empty.
    """
    if isinstance(image, EncodedImage):
        return image.pixels
    if isinstance(image, np.ndarray):
        return _rgb(image)
    if isinstance(image, Tensor):
        return _rgb(_channels_last(_tensor_to_array(image)), cast="to(torch.uint8)")
    if isinstance(image, Image.Image):
        _log_ignored_rotation(image, "the image", exif_policy, rotation_log_level)
        try:
            return _rgb(rgb_pixels(image, exif_policy=exif_policy))
        except ImageError as error:
            raise ImageError(f"the image {error}: pass another one.") from error
    data, name = _read(image)
    try:
        pillows = Image.MAX_IMAGE_PIXELS
        max_pixels = sys.maxsize if pillows is None else max(pillows, MAX_PIXELS)
        pixels = decode_image(data, exif_policy=exif_policy, max_pixels=max_pixels)
    except ImageError as error:
        raise ImageError(f"{name} {error}: replace the file, or leave it out.") from error
    with Image.open(io.BytesIO(data)) as opened:
        _log_ignored_rotation(opened, name, exif_policy, rotation_log_level)
    return pixels


def _read(image: object) -> tuple[bytes, str]:
    """Return an image file's bytes and its name for messages."""
    if isinstance(image, str) and is_url(image):
        return fetch_image(image), image
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        if not is_file(path):
            raise MissingFileError(f"no image file at {path}: check the path, or pass the pixels.")
        return path.read_bytes(), str(path)
    data = image.read() if hasattr(image, "read") else image
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ShapeError(
            f"the image is of type {type(image).__name__}; wanted a path, the bytes of an image"
            " file, a PIL image, or an array or tensor of uint8 pixels."
        )
    return bytes(data), "the image in memory"


def _log_ignored_rotation(
    image: Image.Image, name: str, exif_policy: ExifPolicy, level: int
) -> None:
    if exif_policy == "ignore" and exif_orientation(image) != 1:
        _logger.log(
            level,
            "%s has an EXIF rotation, which is ignored as in training: boxes must be in the frame"
            " of the stored pixels, not of what a viewer shows.",
            name,
        )


def _channels_last(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Move the channels of a tensor's pixels last."""
    if pixels.ndim != 3 or pixels.shape[0] not in _CHANNELS:
        return pixels
    if pixels.shape[2] in _CHANNELS:
        raise ShapeError(
            f"the image tensor has shape {pixels.shape}, in which channels may come first or last;"
            " pass an array (height, width, channels)."
        )
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def _rgb(pixels: NDArray[np.uint8], *, cast: str = "astype(numpy.uint8)") -> NDArray[np.uint8]:
    """Check pixels, (H, W) or (H, W, channels), and convert them to RGB.

    Args:
        pixels: The pixels.
        cast: How what the user passed is cast to uint8, for the message.
    """
    if pixels.dtype != np.uint8:
        raise ShapeError(
            f"the image array has dtype {pixels.dtype}; wanted uint8 from 0 to 255."
            f"{_how_to_convert(pixels, cast)}"
        )
    num_channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.ndim not in {2, 3} or num_channels not in _CHANNELS or 0 in pixels.shape:
        remedy = ""
        if pixels.ndim == 4:
            remedy = " Pass several images as a list, one array each."
        elif pixels.ndim == 3 and pixels.shape[0] in _CHANNELS:
            remedy = " Move channels last: `image.transpose(1, 2, 0)`."
        raise ShapeError(
            f"the image array has shape {pixels.shape}; wanted (height, width, 3) in RGB order,"
            f" (height, width) in grey or (height, width, 4) in RGBA, not empty.{remedy}"
        )
    if num_channels == 3:
        return pixels
    if num_channels == 1:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    return rgb_pixels(Image.fromarray(pixels))


def _how_to_convert(pixels: NDArray[Any], cast: str) -> str:
    """Return code that converts pixels of another type to uint8, as their values suggest."""
    if pixels.dtype.kind not in "biuf" or pixels.size == 0:
        return ""
    low, high = float(pixels.min()), float(pixels.max())
    if low >= 0 and high <= 1 and pixels.dtype.kind in "bf":
        return f" Convert an image in 0..1 with `(image * 255).round().{cast}`."
    if low >= 0 and high <= 255:
        return f" Convert an image in 0..255 with `image.round().{cast}`."
    return (
        f" Its values run from {low:g} to {high:g}: scale them to 0..255, or pass the image as it"
        " was before it was normalised."
    )
