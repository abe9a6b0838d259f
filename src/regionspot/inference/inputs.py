"""Reads what users pass: numbers as arrays, tensors or lists, and images of any kind as pixels."""

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

with needs_extra("extract"):
    from PIL import Image


def as_array(values: object, *, name: str, dtype: DTypeLike | None = None) -> NDArray[Any]:
    """Turn numbers into an array.

    Args:
        values: An array, a tensor, or a list or generator of these or of numbers.
        name: The argument they were given for, for the message.
        dtype: Type of the numbers; None keeps theirs.

    Raises:
        ShapeError: They are no numbers, or rows differ in length.
    """
    try:
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and told so
            return np.asarray(_plain(values), dtype=dtype)
    except (TypeError, ValueError) as error:
        raise ShapeError(
            f"{name}= makes no array ({error}). Wanted numbers, and equally many for every region:"
            " where points differ in number, pad them with the label -1."
        ) from error


def tensor_to_array(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor of any device and any number type as an array."""
    on_cpu = tensor.detach().cpu()
    try:
        return on_cpu.numpy()
    except TypeError:  # numpy has no bfloat16
        return on_cpu.float().numpy()


def as_count(value: object, *, name: str) -> int:
    """Check that a value is a whole number of 1 or more.

    Raises:
        ConfigError: It is not.
    """
    try:
        count = 0 if isinstance(value, bool) else index(value)  # type: ignore[arg-type]
    except TypeError:
        count = 0
    if count < 1:
        raise ConfigError(f"{name} is {value!r}; wanted a whole number of at least 1.")
    return count


def _plain(values: object) -> object:
    if isinstance(values, Tensor):
        return tensor_to_array(values)
    if isinstance(values, list | tuple | Iterator):
        return [_plain(value) for value in values]
    return values


_logger = logging.getLogger(__name__)

ImageLike = str | Path | bytes | BinaryIO | Image.Image | NDArray[np.uint8] | Tensor
"""What `RegionSpot.recognize` takes for an image."""

_CHANNELS = (1, 3, 4)
"""Grey, RGB, RGBA."""


def is_one_image(image: object) -> bool:
    """Say whether something is meant to be a single image, and not a list or generator of some."""
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray, Tensor)
    return isinstance(image, kinds) or hasattr(image, "read")


def load_image(
    image: ImageLike,
    *,
    exif_policy: ExifPolicy = "ignore",
    rotation_log_level: int = logging.WARNING,
) -> NDArray[np.uint8]:
    """Return an image's pixels as an (H, W, 3) uint8 RGB array.

    Files are decoded by the code that makes caches, so that pixels are the same in both.

    Args:
        image: A path to an image file, its bytes, an open file, a PIL image of any mode, or pixels
            as uint8: an array (H, W, 3) in RGB order (returned as it is), (H, W) or (H, W, 1) in
            grey, or (H, W, 4) in RGBA; or a tensor of these forms or with channels first.
            Transparent pixels show white.
        exif_policy: "ignore" takes the pixels as they are stored, as data sets' boxes mean them;
            "apply" turns the picture as its EXIF orientation says, as viewers show it. Arrays have
            no EXIF.
        rotation_log_level: How loudly an ignored rotation is logged. A person's own photograph
            deserves a warning; in a data set, whose boxes are in the stored frame, it is normal.

    Raises:
        MissingFileError: There is no file at the path.
        ImageError: The file is not an image, is cut short, or has more pixels than
            ``PIL.Image.MAX_IMAGE_PIXELS``, to which Pillow gives a number of its own.
        ShapeError: It is none of these, or an array or tensor has another shape or type, or is
            empty.
    """
    if isinstance(image, np.ndarray):
        return _rgb(image)
    if isinstance(image, Tensor):
        return _rgb(_channels_last(tensor_to_array(image)))
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
    """Return an image file's bytes, and what to call it."""
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
            "%s carries an EXIF rotation, which is ignored as it was in training: boxes must be in"
            " the stored pixels' frame, not in the one a viewer shows.",
            name,
        )


def _channels_last(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Move the channels of a tensor's pixels to where arrays have them."""
    if pixels.ndim != 3 or pixels.shape[0] not in _CHANNELS:
        return pixels
    if pixels.shape[2] in _CHANNELS:
        raise ShapeError(
            f"the image tensor has shape {pixels.shape}, in which channels may come first or last;"
            " pass an array (height, width, channels)."
        )
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def _rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Check pixels, (H, W) or (H, W, channels), and bring them to RGB."""
    if pixels.dtype != np.uint8:
        raise ShapeError(
            f"the image array has dtype {pixels.dtype}; wanted uint8 from 0 to 255. Convert a"
            " float image in 0..1 by `(image * 255).round().astype(numpy.uint8)`."
        )
    num_channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.ndim not in {2, 3} or num_channels not in _CHANNELS or 0 in pixels.shape:
        remedy = (
            " Pass several images as a list, one array each."
            if pixels.ndim == 4
            else " Move channels last."
        )
        raise ShapeError(
            f"the image array has shape {pixels.shape}; wanted (height, width, 3) in RGB order,"
            f" (height, width) in grey or (height, width, 4) in RGBA, not empty.{remedy}"
        )
    if num_channels == 3:
        return pixels
    if num_channels == 1:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    return rgb_pixels(Image.fromarray(pixels))
