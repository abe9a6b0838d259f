"""Decodes image files to RGB, the way Pillow does, faster where the result is the same to the bit.

What a file may be: JPEG, PNG and whatever else Pillow reads; grey, palette, CMYK, 16 bits a
channel, transparent. What comes out is always (H, W, 3) uint8. Colour profiles are not applied, as
they are not in the pipelines that SAM and CLIP were trained with.
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
"""Pixels of an image that is decoded without being asked for; Pillow warns of more by default. To
decode takes up to 14 bytes a pixel, and half a megabyte may hold 170 million of them."""

_BAND_PIXELS = 1 << 22
"""Pixels that are copied out of Pillow at once."""
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
    " the command, or PIL.Image.MAX_IMAGE_PIXELS in Python"
)


class ImageError(RegionSpotError, ValueError):
    """An image that cannot be used; the message says why, as a predicate of the file."""


def decode_image(
    data: bytes,
    *,
    size_hw: tuple[int, int] | None = None,
    exif_policy: ExifPolicy = "ignore",
    max_pixels: int = MAX_PIXELS,
) -> Pixels:
    """Decode an image file to RGB.

    The size is checked before any pixel is decoded, so that a file made to fill the memory does no
    harm. Transparent pixels show white. Of 16 bits the upper eight are kept. Of an animation the
    first frame is taken.

    Args:
        data: The file's bytes.
        size_hw: The height and width in pixels that the image must have, as its annotations say;
            None takes any.
        exif_policy: Whether to turn the image as its EXIF orientation says.
        max_pixels: Height times width at most. More than Pillow's own limit
            (``PIL.Image.MAX_IMAGE_PIXELS``) raises that one.

    Returns:
        Pixels, (H, W, 3).

    Raises:
        ImageError: The bytes are no image, are damaged, too large, or have another size.
    """
    try:
        return _decode(data, size_hw, exif_policy, max_pixels)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        # Pillow's message names a place in memory, but reasons go into caches, equal in every run.
        raise ImageError(
            f"is no image that Pillow can open: it starts with {data[:16]!r}"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"has more than {max_pixels:,} pixels ({error}). {_MORE}") from error
    except Exception as error:  # decoders raise anything on damaged bytes; it gets counted
        raise ImageError(f"cannot be decoded: {_summary(error)}") from error


def _decode(
    data: bytes, size_hw: tuple[int, int] | None, exif_policy: ExifPolicy, max_pixels: int
) -> Pixels:
    if not data:
        raise ImageError("is empty")
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels  # it would refuse what was asked for
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


def read_size_hw(path: Path, *, exif_policy: ExifPolicy = "ignore") -> tuple[int, int] | None:
    """Return the height and width in pixels that `decode_image` would give, from a file's header.

    None where the file is missing or no image; decoding it says why.
    """
    try:
        with Image.open(path) as image:
            is_turned = _turn_to_undo(image, exif_policy) in TURNED_ON_THEIR_SIDE
            return (image.width, image.height) if is_turned else (image.height, image.width)
    except Exception:  # noqa: BLE001 - Pillow raises anything on damaged bytes
        return None


def rgb_pixels(image: Image.Image, *, exif_policy: ExifPolicy = "ignore") -> Pixels:
    """Convert an opened image of any mode to RGB by the rules of `decode_image`.

    Raises:
        ImageError: Its mode has no known white level, or its file is damaged.
    """
    turn = _turn_to_undo(image, exif_policy)
    try:
        return _turned(_to_rgb(image), turn)
    except ImageError:
        raise
    except Exception as error:  # a file that was opened and is cut short shows only now
        raise ImageError(f"cannot be decoded: {_summary(error)}") from error


def stored_orientation(data: bytes) -> int:
    """Return the `exif_orientation` of an image file that can be decoded."""
    with Image.open(io.BytesIO(data)) as image:
        return exif_orientation(image)


def exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1, upright, where there is none or it is nonsense."""
    try:
        value: Any = image.getexif().get(_ORIENTATION_TAG, UPRIGHT)
    except (SyntaxError, ValueError, struct.error):  # what Pillow raises on damaged EXIF data
        return UPRIGHT
    return value if isinstance(value, int) and 1 <= value <= 8 else UPRIGHT


def _turn_to_undo(image: Image.Image, exif_policy: ExifPolicy) -> int:
    """Return, as an EXIF orientation, how the pixels that Pillow will load are turned from wanted.

    It loads pixels as they are stored, but those of a TIFF upright.
    """
    if image.format == "TIFF":
        if exif_policy == "apply":
            return UPRIGHT
        orientation = exif_orientation(image)
        return _QUARTER_TURNS.get(orientation, orientation)
    return exif_orientation(image) if exif_policy == "apply" else UPRIGHT


def _decode_simple_jpeg(data: bytes) -> Pixels | None:
    """Decode the usual JPEGs, bit-equal to Pillow and in half the time; None for all others."""
    if not data.startswith(_JPEG_START):
        return None
    try:
        *_, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        if colorspace not in {"YCbCr", "Gray"}:  # CMYK comes out two levels off
            return None
        pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError:  # it refuses blemishes that Pillow tolerates: let Pillow judge
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
    """Copy the pixels of an RGB image, in bands: to hand over a copy, Pillow makes two."""
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
