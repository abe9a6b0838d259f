"""Decodes image files to RGB, (H, W, 3) uint8: bit-equal to Pillow, but faster for usual JPEGs.

Reads all formats and modes that Pillow reads. Colour profiles are not applied, as in the training
of SAM and CLIP.
"""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regionspot.backbones.presets import ExifPolicy
from regionspot.core.errors import RegionSpotError
from regionspot.core.text import needs_extra

with needs_extra("extract"):
    import simplejpeg
    from PIL import Image, UnidentifiedImageError


Pixels = NDArray[np.uint8]

MAX_PIXELS = 89_478_485
"""The default limit of height times width, at which Pillow warns. Decoding takes up to 14 bytes a
pixel, and a file of half a megabyte can hold 170 million pixels."""

_BAND_PIXELS = 1 << 22
"""Pixels copied out of Pillow at once."""
_JPEG_START = b"\xff\xd8\xff"
_ORIENTATION_TAG = 0x0112
UPRIGHT = 1
"""EXIF orientation of images that are stored as they are shown."""
TURNED_ON_THEIR_SIDE = range(5, 9)
"""EXIF orientations of images whose width and height are swapped."""
_QUARTER_TURNS = {6: 8, 8: 6}
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")


_MORE = (
    "A small file can fill the memory with so many. To have them read, raise --max_image_pixels of"
    " `regionspot cache` or `regionspot recognize`, or PIL.Image.MAX_IMAGE_PIXELS in Python"
)


class ImageError(RegionSpotError, ValueError):
    """An image that cannot be used; the message is a predicate of the file, as in "is empty"."""


def decode_image(
    data: bytes,
    *,
    size_hw: tuple[int, int] | None = None,
    exif_policy: ExifPolicy = "ignore",
    max_pixels: int = MAX_PIXELS,
) -> Pixels:
    """Decode an image file to RGB.

    The size is checked before any pixel is decoded, so that a decompression bomb does no harm.
    Transparent pixels become white, 16 bits are reduced to the upper eight, and an animation to its
    first frame.

    Args:
        data: The file's bytes.
        size_hw: Expected height and width in pixels, from the annotations; None accepts any.
        exif_policy: Whether to rotate the image as its EXIF orientation says.
        max_pixels: Limit of height times width. Raises Pillow's own limit
            (``PIL.Image.MAX_IMAGE_PIXELS``) if that is lower.

    Returns:
        Pixels, (H, W, 3).

    Raises:
        ImageError: The data are not an image, damaged, too large, or of another size.
    """
    try:
        return _decode(data, size_hw, exif_policy, max_pixels)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        # Not Pillow's message: it holds a memory address, but caches must be reproducible.
        raise ImageError(
            f"is no image that Pillow can open: it starts with {data[:16]!r}"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"has more than {max_pixels:,} pixels ({error}). {_MORE}") from error
    except Exception as error:  # decoders raise anything on damaged data
        raise ImageError(f"cannot be decoded: {_summary(error)}") from error


def _decode(
    data: bytes, size_hw: tuple[int, int] | None, exif_policy: ExifPolicy, max_pixels: int
) -> Pixels:
    if not data:
        raise ImageError("is empty")
    raise_pillows_limit(max_pixels)
    with Image.open(io.BytesIO(data)) as image:
        if image.width * image.height > max_pixels:
            raise ImageError(
                f"is {image.width} x {image.height} pixels, more than {max_pixels:,} in all."
                f" {_MORE}"
            )
        turn = _turn_to_undo(image, exif_policy)
        found_hw = (image.height, image.width)
        if turn in TURNED_ON_THEIR_SIDE:
            found_hw = found_hw[::-1]
        if size_hw is not None and found_hw != size_hw:
            raise ImageError(_size_message(image, found_hw, size_hw, exif_policy))
        pixels = _decode_simple_jpeg(data)
        if pixels is None:
            pixels = _to_rgb(image)
    return _turned(pixels, turn)


def raise_pillows_limit(max_pixels: int) -> None:
    """Raise ``PIL.Image.MAX_IMAGE_PIXELS`` if it is lower."""
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels


def read_size_hw(path: Path, *, exif_policy: ExifPolicy = "ignore") -> tuple[int, int] | None:
    """Read the height and width in pixels of a decoded image from its file's header.

    Returns None if the file is missing or not an image; decoding it raises the error.
    """
    try:
        with Image.open(path) as image:
            is_turned = _turn_to_undo(image, exif_policy) in TURNED_ON_THEIR_SIDE
            return (image.width, image.height) if is_turned else (image.height, image.width)
    except Exception:  # noqa: BLE001 - Pillow raises anything on damaged bytes
        return None


def rgb_pixels(image: Image.Image, *, exif_policy: ExifPolicy = "ignore") -> Pixels:
    """Convert an open image of any mode to RGB as `decode_image` does."""
    turn = _turn_to_undo(image, exif_policy)
    try:
        return _turned(_to_rgb(image), turn)
    except ImageError:
        raise
    except Exception as error:  # a truncated file is only noticed now
        raise ImageError(f"cannot be decoded: {_summary(error)}") from error


def stored_orientation(data: bytes) -> int:
    """Return the `exif_orientation` of an image file that can be decoded."""
    with Image.open(io.BytesIO(data)) as image:
        return exif_orientation(image)


def exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) if it is missing or invalid."""
    try:
        value: Any = image.getexif().get(_ORIENTATION_TAG, UPRIGHT)
    except (SyntaxError, ValueError, struct.error):  # what Pillow raises on damaged EXIF data
        return UPRIGHT
    return value if isinstance(value, int) and 1 <= value <= 8 else UPRIGHT


def _turn_to_undo(image: Image.Image, exif_policy: ExifPolicy) -> int:
    """Return the EXIF orientation to undo in the pixels that Pillow will load.

    Pillow loads pixels as they are stored, except for a TIFF, which it rotates upright.
    """
    if image.format == "TIFF":
        if exif_policy == "apply":
            return UPRIGHT
        orientation = exif_orientation(image)
        return _QUARTER_TURNS.get(orientation, orientation)
    return exif_orientation(image) if exif_policy == "apply" else UPRIGHT


def _decode_simple_jpeg(data: bytes) -> Pixels | None:
    """Decode a usual JPEG, bit-equal to Pillow in half the time; None for other data."""
    if not data.startswith(_JPEG_START):
        return None
    try:
        *_, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        if colorspace not in {"YCbCr", "Gray"}:  # CMYK comes out two levels off
            return None
        pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError:  # it refuses flaws that Pillow tolerates
        return None
    return pixels


def _to_rgb(image: Image.Image) -> Pixels:
    if image.mode in _SIXTEEN_BIT_MODES:
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > np.iinfo(np.uint16).max:
            raise ImageError(f"has mode {image.mode} with values outside 16 bits")
        grey = (levels >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ImageError("has mode F (floating point), whose white level is unknown")
    if image.has_transparency_data:
        image = _on_white(image)
    return _pixels(image if image.mode == "RGB" else image.convert("RGB"))


def _pixels(image: Image.Image) -> Pixels:
    """Copy the pixels of an RGB image in bands, as Pillow makes two copies at a time."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, _BAND_PIXELS // max(1, image.width))
    for y in range(0, image.height, rows):
        band = image.crop((0, y, image.width, min(y + rows, image.height)))
        pixels[y : y + rows] = np.asarray(band)
    return pixels


def _on_white(image: Image.Image) -> Image.Image:
    opaque = Image.new("RGBA", image.size, "white")
    opaque.alpha_composite(image.convert("RGBA"))
    return opaque


def _turned(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation: 2 to 4 are mirrored or upside down, 5 to 8 lie on their side."""
    if orientation == UPRIGHT:
        return pixels
    if orientation in TURNED_ON_THEIR_SIDE:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _size_message(
    image: Image.Image,
    found_hw: tuple[int, int],
    wanted_hw: tuple[int, int],
    exif_policy: ExifPolicy,
) -> str:
    message = (
        f"is {found_hw[1]} x {found_hw[0]} pixels (width x height), annotated as"
        f" {wanted_hw[1]} x {wanted_hw[0]}"
    )
    if found_hw == wanted_hw[::-1] and exif_orientation(image) in TURNED_ON_THEIR_SIDE:
        other = "apply" if exif_policy == "ignore" else "ignore"
        message += f"; with exif_policy {other} it would fit"
    return message


def _summary(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
