"""Decoding: pixels are Pillow's to the bit, and whatever is wrong with a file is an ImageError."""

import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from helpers.samples import GENUINE, OURS, PHOTOS, sample_files
from regionspot.backbones import ExifPolicy
from regionspot.backbones.decode_images import (
    ImageError,
    decode_image,
    exif_orientation,
    rgb_pixels,
)

SIZE_HW = (20, 30)
ORIENTATION_TAG = 0x0112
FORMATS: dict[str, dict[str, object]] = {
    "JPEG": {"quality": 90},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {"compression": "tiff_lzw"},
}
POLICIES: tuple[ExifPolicy, ...] = ("ignore", "apply")
JPEG_MODES = ("L", "RGB", "CMYK")


def picture(size_hw: tuple[int, int] = SIZE_HW, *, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Something smooth with noise on it, so that every decoder's rounding has work to do."""
    rng = np.random.default_rng(seed)
    height, width = size_hw
    slope = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 80, width))
    levels = slope[..., None] + rng.integers(0, 56, (height, width, 3))
    return Image.fromarray(levels.astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def with_orientation(image: Image.Image, file_format: str, orientation: object) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    return encoded(image, file_format, exif=exif, **FORMATS[file_format])


def pillow_rgb(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def png(width: int, height: int, *, depth: int, colour_type: int, rows: bytes) -> bytes:
    """A PNG by its specification: Pillow writes no 16-bit colour."""

    def chunk(name: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    stride = len(rows) // height
    lines = b"".join(b"\0" + rows[y * stride : (y + 1) * stride] for y in range(height))
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"IDAT", zlib.compress(lines)),
            chunk(b"IEND", b""),
        ]
    )


# --- Pixels are Pillow's ---------------------------------------------------------------------


@given(
    size_hw=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    mode=st.sampled_from(JPEG_MODES),
    quality=st.integers(5, 100),
    subsampling=st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
    progressive=st.booleans(),
    keep_rgb=st.booleans(),
    seed=st.integers(0, 3),
)
def test_every_kind_of_jpeg_is_bit_equal_to_pillow(
    size_hw: tuple[int, int],
    mode: str,
    quality: int,
    subsampling: str,
    progressive: bool,  # noqa: FBT001
    keep_rgb: bool,  # noqa: FBT001
    seed: int,
) -> None:
    data = encoded(
        picture(size_hw, mode=mode, seed=seed),
        "JPEG",
        quality=quality,
        progressive=progressive,
        keep_rgb=keep_rgb and mode == "RGB",
        # Pillow refuses to store RGB with subsampled colours.
        subsampling="4:4:4" if keep_rgb else subsampling,
    )
    found = decode_image(data, size_hw=size_hw)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, pillow_rgb(data))


@pytest.mark.parametrize("photo", PHOTOS)
def test_a_photo_is_bit_equal_to_pillow(photo: Path) -> None:
    data = photo.read_bytes()
    np.testing.assert_array_equal(decode_image(data), pillow_rgb(data))


@pytest.mark.parametrize(
    ("file_format", "mode", "options"),
    [
        ("PNG", "1", {}),
        ("PNG", "L", {}),
        ("PNG", "P", {}),
        ("PNG", "RGB", {}),
        ("BMP", "RGB", {}),
        ("GIF", "P", {}),
        ("PPM", "RGB", {}),
        ("TIFF", "RGB", {}),
        ("TIFF", "CMYK", {}),
        ("WEBP", "RGB", {"quality": 70}),
        ("WEBP", "RGB", {"lossless": True}),
    ],
)
def test_other_opaque_files_are_what_pillow_makes_of_them(
    file_format: str, mode: str, options: dict[str, object]
) -> None:
    data = encoded(picture(mode=mode), file_format, **options)
    np.testing.assert_array_equal(decode_image(data), pillow_rgb(data))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_large_picture_is_what_pillow_makes_of_it(mode: str) -> None:
    data = encoded(picture((1501, 4100), mode=mode), "PNG", compress_level=1)  # in two bands
    np.testing.assert_array_equal(decode_image(data), pillow_rgb(data))


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(file_format: str) -> None:
    first, second = Image.new("RGB", (4, 3), "red"), Image.new("RGB", (4, 3), "blue")
    options: dict[str, object] = {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(first, file_format, save_all=True, append_images=[second], **options)
    assert decode_image(data).tolist() == [[[255, 0, 0]] * 4] * 3


# --- Transparent pixels and deep ones --------------------------------------------------------


def test_transparent_pixels_show_white() -> None:
    colours = [(200, 100, 50, 0), (200, 100, 50, 255), (200, 100, 50, 51), (0, 0, 0, 204)]
    image = Image.new("RGBA", (4, 1))
    image.putdata(colours)
    # A fifth of the colour and four fifths of white; four fifths of black and one of white.
    wanted = [[255, 255, 255], [200, 100, 50], [244, 224, 214], [51, 51, 51]]
    for file_format in ("PNG", "WEBP"):
        data = encoded(image, file_format, **FORMATS[file_format])
        assert decode_image(data)[0, 1:].tolist() == wanted[1:]
        assert decode_image(data)[0, 0].tolist() == wanted[0]


@pytest.mark.parametrize(
    ("mode", "levels", "transparency", "wanted"),
    [
        ("L", [10, 20, 30], 20, [10, 255, 30]),
        ("1", [0, 255, 0], 0, [255, 255, 255]),
        ("P", [10, 20, 30], 30, [10, 20, 255]),
    ],
)
def test_a_colour_that_a_png_declares_transparent_shows_white(
    mode: str, levels: list[int], transparency: int, wanted: list[int]
) -> None:
    image = Image.new(mode, (3, 1))
    image.putdata(levels)
    if mode == "P":
        image.putpalette([level for grey in range(256) for level in (grey, grey, grey)])
    data = encoded(image, "PNG", transparency=transparency)
    assert decode_image(data)[0].tolist() == [[level] * 3 for level in wanted]


def test_half_transparent_grey_shows_the_white_behind_it() -> None:
    image = Image.new("LA", (2, 1))
    image.putdata([(100, 51), (100, 255)])
    assert decode_image(encoded(image, "PNG")).tolist() == [[[224] * 3, [100] * 3]]


def test_of_16_bit_colour_the_upper_eight_bits_are_kept() -> None:
    levels = [0x0000, 0x00FF, 0x0100, 0x12FF, 0x8000, 0xFFFF]
    data = png(2, 1, depth=16, colour_type=2, rows=struct.pack(">6H", *levels))
    assert decode_image(data).tolist() == [[[0x00, 0x00, 0x01], [0x12, 0x80, 0xFF]]]


@given(levels=st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=12))
def test_of_16_bit_grey_the_upper_eight_bits_are_kept(levels: list[int]) -> None:
    wanted = [[level >> 8] * 3 for level in levels]
    big_endian = struct.pack(f">{len(levels)}H", *levels)
    image = Image.fromarray(np.array([levels], np.uint16))
    files = {
        "png": encoded(image, "PNG"),
        "tiff": encoded(image, "TIFF"),
        "pgm": b"P5 %d 1 65535\n" % len(levels) + big_endian,
    }
    for name, data in files.items():
        assert decode_image(data)[0].tolist() == wanted, name


@pytest.mark.parametrize(
    ("levels", "reason"),
    [
        (np.array([[-1, 5]], np.int32), "has mode I with values outside 16 bits"),
        (np.array([[0, 70_000]], np.int32), "has mode I with values outside 16 bits"),
        (np.array([[0.5, 1.0]], np.float32), r"has mode F \(floating point\), whose white level"),
    ],
)
def test_numbers_without_a_known_white_level_are_refused(
    levels: NDArray[np.generic], reason: str
) -> None:
    image = Image.fromarray(levels)
    with pytest.raises(ImageError, match=f"^{reason}"):
        decode_image(encoded(image, "TIFF"))
    with pytest.raises(ImageError, match=f"^{reason}"):
        rgb_pixels(image)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV"])
def test_an_opened_image_of_any_mode_is_what_pillow_converts_it_to(mode: str) -> None:
    image = picture(mode=mode)
    np.testing.assert_array_equal(rgb_pixels(image), np.asarray(image.convert("RGB")))


# --- EXIF ------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_applied_orientation_is_pillows_exif_transpose(
    file_format: str, orientation: int
) -> None:
    data = with_orientation(picture(), file_format, orientation)
    theirs = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    height, width = SIZE_HW if orientation < 5 else SIZE_HW[::-1]
    assert theirs.shape == (height, width, 3)
    ours = decode_image(data, size_hw=(height, width), exif_policy="apply")
    np.testing.assert_array_equal(ours, theirs)
    assert ours.flags.c_contiguous
    opened = Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(rgb_pixels(opened, exif_policy="apply"), theirs)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_ignored_orientation_leaves_the_pixels_as_they_are_stored(
    file_format: str, orientation: int
) -> None:
    stored = pillow_rgb(encoded(picture(), file_format, **FORMATS[file_format]))
    data = with_orientation(picture(), file_format, orientation)
    np.testing.assert_array_equal(decode_image(data, size_hw=SIZE_HW), stored)
    np.testing.assert_array_equal(rgb_pixels(Image.open(io.BytesIO(data))), stored)


def test_a_grey_jpeg_is_turned_like_any_other() -> None:
    data = with_orientation(picture(mode="L"), "JPEG", 6)
    theirs = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    np.testing.assert_array_equal(decode_image(data, exif_policy="apply"), np.asarray(theirs))


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_an_orientation_that_means_nothing_turns_nothing(orientation: int) -> None:
    data = with_orientation(picture(), "JPEG", orientation)
    np.testing.assert_array_equal(decode_image(data, exif_policy="apply"), pillow_rgb(data))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # it tells of corrupt EXIF data
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "exif", [b"MM", b"garbage!", b"MM\0*\0\0\0\x08\0", b"II*\0\xff\xff\xff\x7f"]
)
def test_exif_that_is_garbage_turns_nothing_and_breaks_nothing(
    file_format: str, exif: bytes
) -> None:
    data = encoded(picture(), file_format, exif=b"Exif\0\0" + exif, **FORMATS[file_format])
    stored = pillow_rgb(data)
    np.testing.assert_array_equal(decode_image(data), stored)
    np.testing.assert_array_equal(decode_image(data, exif_policy="apply"), stored)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(content=st.data(), file_format=st.sampled_from(["JPEG", "PNG"]))
def test_no_exif_data_keep_an_image_from_being_read(
    content: st.DataObject, file_format: str
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6
    damaged = bytearray(exif.tobytes())
    for _ in range(content.draw(st.integers(1, 4))):
        damaged[content.draw(st.integers(6, len(damaged) - 1))] = content.draw(st.integers(0, 255))
    cut = content.draw(st.integers(7, len(damaged)))
    data = encoded(picture((4, 6)), file_format, exif=bytes(damaged[:cut]))
    with Image.open(io.BytesIO(data)) as image:
        assert exif_orientation(image) in range(1, 9)
    assert decode_image(data).shape == (4, 6, 3)
    assert decode_image(data, exif_policy="apply").shape in {(4, 6, 3), (6, 4, 3)}


# --- Size ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("orientation", "exif_policy", "size_hw", "hint"),
    [
        (1, "ignore", (20, 31), ""),
        (1, "ignore", (30, 20), ""),  # turned, but no EXIF says so
        (3, "ignore", (30, 20), ""),  # upside down keeps the sides
        (6, "ignore", (30, 20), "; with exif_policy apply it would fit"),
        (8, "ignore", (30, 20), "; with exif_policy apply it would fit"),
        (6, "ignore", (31, 20), ""),
        (6, "apply", (20, 30), "; with exif_policy ignore it would fit"),
        (1, "apply", (30, 20), ""),
    ],
)
@pytest.mark.parametrize("file_format", FORMATS)
def test_another_size_than_annotated_is_told_with_the_policy_that_would_fit(
    file_format: str,
    orientation: int,
    exif_policy: ExifPolicy,
    size_hw: tuple[int, int],
    hint: str,
) -> None:
    data = with_orientation(picture(), file_format, orientation)
    found_wh = "20 x 30" if exif_policy == "apply" and orientation == 6 else "30 x 20"
    wanted = (
        f"is {found_wh} pixels (width x height), annotated as {size_hw[1]} x {size_hw[0]}{hint}"
    )
    with pytest.raises(ImageError) as caught:
        decode_image(data, size_hw=size_hw, exif_policy=exif_policy)
    assert str(caught.value) == wanted


def blank_png(width: int, height: int) -> bytes:
    """A header, as PNG's standard has it, and no pixel behind it."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    parts = (b"\x89PNG\r\n\x1a\n", struct.pack(">I", 13), header)
    end = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    return b"".join(parts) + struct.pack(">I", zlib.crc32(header)) + end


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_500, 13_000, 20_000, 2**31 - 1])
def test_an_image_made_to_fill_the_memory_is_refused_by_its_header(side: int) -> None:
    data = blank_png(side, side)
    with pytest.raises(ImageError, match=r"more than 89,478,485.*--max_image_pixels"):
        decode_image(data)


def test_as_many_pixels_as_are_asked_for_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data = encoded(picture(), "PNG")
    with pytest.raises(ImageError, match=r"has more than 599 pixels"):
        decode_image(data, max_pixels=599)
    assert decode_image(data, max_pixels=600).shape == (*SIZE_HW, 3)


def test_the_size_is_checked_before_any_pixel_is_decoded() -> None:
    header_only = b"P6 10000 8000 255\n"
    with pytest.raises(ImageError, match=r"^is 10000 x 8000 pixels .* annotated as 30 x 20$"):
        decode_image(header_only, size_hw=SIZE_HW)
    with pytest.raises(ImageError, match=r"^cannot be decoded: "):
        decode_image(header_only)


# --- Damage ----------------------------------------------------------------------------------


def _as_pillow_opens_it(data: bytes) -> NDArray[np.uint8]:
    return pillow_rgb(data)


def _upper_bits(data: bytes) -> NDArray[np.uint8]:
    levels = np.asarray(Image.open(io.BytesIO(data)))
    return np.repeat((levels // 256).astype(np.uint8)[..., None], 3, axis=2)


def _white_where_transparent(data: bytes) -> NDArray[np.uint8]:
    image = Image.open(io.BytesIO(data))
    pixels = np.array(image.convert("RGB"))
    pixels[(pixels == image.info["transparency"]).all(axis=2)] = 255
    return pixels


Wanted = str | Callable[[bytes], NDArray[np.uint8]]
NO_PNG = r"^is no image that Pillow can open: it starts with b'\\x89PNG"
NO_GIF = r"^is no image that Pillow can open: it starts with b'GIF8"
CUT = r"^cannot be decoded: OSError: image file is truncated"
BOMB = r"^has more than 89,478,485 pixels \(Image size"
ODD_IMAGES: dict[Path, dict[str, Wanted]] = {
    OURS / "odd_images": {
        "bad_exif.jpg": _as_pillow_opens_it,
        "broken.png": NO_PNG,
        "cmyk.jpg": _as_pillow_opens_it,
        "decompression_bomb.gif": rf"{BOMB} \(196605000",  # 65,535 x 3,000
        "grey_16_bits.pgm": _upper_bits,
        "orientation_6.jpg": _as_pillow_opens_it,
        "transparent_colour.png": _white_where_transparent,
        "truncated.jpg": CUT,
        "zero_width.gif": NO_GIF,
        "zero_width_screen.gif": r"^cannot be decoded: ValueError",
    },
    GENUINE / "odd_images": {
        "broken.png": NO_PNG,
        "decompression_bomb.gif": rf"{BOMB} \(4364",
        "hopper_16bit.pgm": _upper_bits,
        "hopper_bad_exif.jpg": _as_pillow_opens_it,
        "hopper_orientation_6.jpg": _as_pillow_opens_it,
        "pil_sample_cmyk.jpg": _as_pillow_opens_it,
        "rgb_trns.png": _white_where_transparent,
        "truncated_jpeg.jpg": CUT,
        "zero_width.gif": NO_GIF,
    },
}


@pytest.mark.parametrize(
    ("path", "wanted"),
    sample_files(
        *((folder / name, of) for folder, rows in ODD_IMAGES.items() for name, of in rows.items())
    ),
)
def test_an_odd_file_is_what_pillow_makes_of_it_or_refused_with_a_reason(
    path: Path, wanted: Wanted
) -> None:
    data = path.read_bytes()
    if isinstance(wanted, str):
        with pytest.raises(ImageError, match=wanted):
            decode_image(data)
    else:
        np.testing.assert_array_equal(decode_image(data), wanted(data))


def test_every_odd_file_has_its_line_in_the_table() -> None:
    for folder, rows in ODD_IMAGES.items():
        if folder.is_relative_to(OURS) or folder.is_dir():
            assert sorted(path.name for path in folder.iterdir()) == sorted(rows)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # it tells of corrupt EXIF data
@pytest.mark.parametrize(
    "path",
    sample_files(
        (OURS / "odd_images/orientation_6.jpg",),
        (OURS / "odd_images/bad_exif.jpg",),
        (GENUINE / "odd_images/hopper_orientation_6.jpg",),
        (GENUINE / "odd_images/hopper_bad_exif.jpg",),
    ),
)
def test_the_exif_data_of_files_are_applied_as_pillow_does(path: Path) -> None:
    data = path.read_bytes()
    theirs = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    np.testing.assert_array_equal(decode_image(data, exif_policy="apply"), np.asarray(theirs))


@pytest.mark.parametrize(
    "blemished",
    [
        encoded(picture(), "JPEG") + b"something after the end",
        encoded(picture(), "JPEG").replace(b"\xff\xda", b"?\xff\xda", 1),  # between two segments
        encoded(picture(), "JPEG").replace(b"JFIF", b"JUNK"),
    ],
    ids=["after the end", "between segments", "another signature"],
)
def test_a_jpeg_with_a_blemish_that_pillow_tolerates_is_taken(blemished: bytes) -> None:
    assert blemished not in WHOLE.values()
    np.testing.assert_array_equal(decode_image(blemished), pillow_rgb(blemished))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", r"^is empty$"),
        (
            b"<!DOCTYPE html><html>",
            r"^is no image that Pillow can open: it starts with b'<!DOCTYPE",
        ),
        (b"\xff\xd8\xff", r"^is no image that Pillow can open: it starts with b'\\xff\\xd8\\xff'$"),
        (
            encoded(picture((60, 80)), "JPEG")[:-999],
            r"^cannot be decoded: OSError: image file is truncated",
        ),
        (encoded(picture(), "PNG")[:300], r"^cannot be decoded: OSError: image file is truncated"),
    ],
    ids=["empty", "web page", "first bytes of a JPEG", "cut JPEG", "cut PNG"],
)
def test_what_is_no_whole_image_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode_image(data)


WHOLE = {
    "jpeg": encoded(picture(), "JPEG"),
    "progressive": encoded(picture(), "JPEG", progressive=True),
    "exif": with_orientation(picture(), "JPEG", 6),
    "png": encoded(picture(), "PNG"),
    "gif": encoded(picture(mode="P"), "GIF"),
    "webp": encoded(picture(), "WEBP"),
    "tiff": with_orientation(picture(), "TIFF", 6),
    "bmp": encoded(picture(), "BMP"),
}
STARTS = (
    *(b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\x40\0\0\0WEBPVP8 "),
    *(b"II*\0", b"MM\0*", b"BM", b"P6 30 20 255\n", b"\0\0\0\x0cjP  \r\n\x87\n"),
)


def only_image_errors(data: bytes) -> str | None:
    """Decode; return the reason for which it failed, if it did; anything else is raised."""
    reasons = []
    for exif_policy in POLICIES:
        try:
            pixels = decode_image(data, size_hw=SIZE_HW, exif_policy=exif_policy)
        except ImageError as error:
            reasons.append(str(error))
        else:
            assert pixels.shape == (*SIZE_HW, 3)
            assert pixels.dtype == np.uint8
            if data.startswith(b"\xff\xd8\xff") and exif_policy == "ignore":
                np.testing.assert_array_equal(pixels, pillow_rgb(data))
    # A cache stores reasons: they must be the same in every run, so name no place in memory.
    assert not re.search(r"0x[0-9a-f]{6}", "".join(reasons))
    return reasons[0] if reasons else None


@pytest.mark.parametrize("kind", WHOLE)
def test_a_file_cut_anywhere_is_read_or_refused(kind: str) -> None:
    whole = WHOLE[kind]
    cuts = {*range(0, len(whole), max(1, len(whole) // 60)), *range(len(whole) - 12, len(whole))}
    reasons = [only_image_errors(whole[:cut]) for cut in sorted(cuts)]
    assert reasons[0] == "is empty"
    assert sum(reason is not None for reason in reasons) > len(reasons) / 2


fuzzed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@fuzzed
@given(
    kind=st.sampled_from(sorted(WHOLE)),
    flips=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=6
    ),
)
def test_a_file_with_flipped_bits_is_read_or_refused(
    kind: str, flips: list[tuple[float, int]]
) -> None:
    data = bytearray(WHOLE[kind])
    for place, bits in flips:
        data[int(place * len(data))] ^= bits
    only_image_errors(bytes(data))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@fuzzed
@given(start=st.sampled_from(STARTS), rest=st.binary(max_size=300))
def test_random_bytes_are_refused(start: bytes, rest: bytes) -> None:
    reason = only_image_errors(start + rest)
    assert reason is not None or start.startswith(b"P6")
