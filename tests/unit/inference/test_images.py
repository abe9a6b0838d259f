"""What a person may give for an image, against Pillow; and what they are told otherwise."""

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from regionspot.backbones.decode_images import ImageError
from regionspot.core.errors import MissingFileError, RegionSpotError, ShapeError
from regionspot.inference import load_image

ORIENTATION_TAG = 0x0112
WARNING = "has an EXIF rotation, which is ignored"


@pytest.fixture
def photo_path(tmp_path: Path, pixels: NDArray[np.uint8]) -> Path:
    path = tmp_path / "photo.jpg"
    Image.fromarray(pixels).save(path)
    return path


def rotated(path: Path, orientation: int = 6) -> Path:
    """Store the picture again as a camera that is held on its side does."""
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    target = path.with_name(f"rotated_{orientation}{path.suffix}")
    with Image.open(path) as image:
        image.save(target, exif=exif)
    return target


def pillow_rgb(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def pillow_upright(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def test_a_path_a_text_and_an_opened_image_give_pillows_pixels(photo_path: Path) -> None:
    theirs = pillow_rgb(photo_path)
    np.testing.assert_array_equal(load_image(photo_path), theirs)
    np.testing.assert_array_equal(load_image(str(photo_path)), theirs)
    with Image.open(photo_path) as image:
        np.testing.assert_array_equal(load_image(image), theirs)


def test_an_array_is_returned_as_it_is(pixels: NDArray[np.uint8]) -> None:
    assert load_image(pixels) is pixels
    flipped = pixels[:, ::-1]
    assert load_image(flipped) is flipped


@given(
    mode=st.sampled_from(["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV"]),
    size_wh=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_an_image_of_any_opaque_mode_is_what_pillow_converts_it_to(
    mode: str, size_wh: tuple[int, int]
) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (*size_wh[::-1], 3), dtype=np.uint8)
    image = Image.fromarray(levels).convert(mode)
    np.testing.assert_array_equal(load_image(image), np.asarray(image.convert("RGB")))


def test_transparent_and_deep_images_show_white_and_their_upper_bits(tmp_path: Path) -> None:
    see_through = Image.new("RGBA", (2, 1), (200, 100, 50, 51))
    deep = Image.fromarray(np.array([[0x12FF, 0xFF00]], np.uint16))
    for number, (image, wanted) in enumerate(
        [(see_through, [[[244, 224, 214]] * 2]), (deep, [[[0x12] * 3, [0xFF] * 3]])]
    ):
        path = tmp_path / f"{number}.png"
        image.save(path)
        assert load_image(image).tolist() == wanted
        assert load_image(path).tolist() == wanted


def test_a_files_bytes_and_an_open_file_give_its_pixels(photo_path: Path) -> None:
    data, theirs = photo_path.read_bytes(), pillow_rgb(photo_path)
    forms: list[Any] = [data, io.BytesIO(data), bytearray(data), memoryview(data)]
    for image in forms:
        np.testing.assert_array_equal(load_image(image), theirs)
    with photo_path.open("rb") as file:
        np.testing.assert_array_equal(load_image(file), theirs)
    with pytest.raises(ImageError, match="^the image in memory is no image that Pillow can open"):
        load_image(b"no image")


@given(
    mode=st.sampled_from(["L", "RGB", "RGBA"]),
    size_wh=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    seed=st.integers(0, 99),
)
def test_pixels_of_any_unambiguous_form_are_what_pillow_shows(
    mode: str, size_wh: tuple[int, int], seed: int
) -> None:
    channels = {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    levels = np.random.default_rng(seed).integers(0, 256, (*size_wh[::-1], channels), np.uint8)
    image = Image.fromarray(levels if channels > 1 else levels[:, :, 0])
    on_white = Image.new("RGBA", size_wh, "white")
    on_white.alpha_composite(image.convert("RGBA"))
    wanted = np.asarray(on_white.convert("RGB"))
    tensor = torch.from_numpy(levels)
    forms: list[Any] = [
        levels,
        tensor,
        tensor.permute(2, 0, 1),
        tensor.permute(2, 0, 1).contiguous(),
    ]
    if channels == 1:
        forms += [levels[:, :, 0], tensor[:, :, 0]]
    for form in forms:
        np.testing.assert_array_equal(load_image(form), wanted)


def test_a_tensor_whose_channels_may_lie_on_either_side_is_asked_about() -> None:
    with pytest.raises(ShapeError, match=r"\(3, 9, 4\), in which channels may come first or last"):
        load_image(torch.zeros(3, 9, 4, dtype=torch.uint8))
    with pytest.raises(ShapeError, match=r"dtype float32; wanted uint8 from 0 to 255"):
        load_image(torch.zeros(3, 9, 9))


@pytest.mark.parametrize("image", [5, None, {"image": 1}, io.StringIO("text")])
def test_what_can_be_no_image_is_told_what_can(image: Any) -> None:
    with pytest.raises(ShapeError, match="the image is of type .*; wanted a path, the bytes of"):
        load_image(image)


# --- Rotation --------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(2, 9))
def test_an_ignored_rotation_is_warned_about(
    photo_path: Path, orientation: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = rotated(photo_path, orientation)
    np.testing.assert_array_equal(load_image(path), pillow_rgb(path))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"{path} {WARNING}")
    caplog.clear()
    with Image.open(path) as image:
        np.testing.assert_array_equal(load_image(image), pillow_rgb(path))
    (record,) = caplog.records
    assert record.getMessage().startswith(f"the image {WARNING}")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_applied_rotation_is_pillows_and_needs_no_warning(
    photo_path: Path, orientation: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = rotated(photo_path, orientation)
    np.testing.assert_array_equal(load_image(path, exif_policy="apply"), pillow_upright(path))
    with Image.open(path) as image:
        ours = load_image(image, exif_policy="apply")
    np.testing.assert_array_equal(ours, pillow_upright(path))
    assert caplog.records == []


def test_an_upright_image_needs_no_warning(
    photo_path: Path, pixels: NDArray[np.uint8], caplog: pytest.LogCaptureFixture
) -> None:
    for image in (photo_path, rotated(photo_path, 1), Image.fromarray(pixels), pixels):
        load_image(image)
    assert caplog.records == []


def test_a_data_set_may_ask_for_less_noise(
    photo_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    load_image(rotated(photo_path), rotation_log_level=logging.DEBUG)
    # Pillow itself tells of every tag on this level.
    levels = [record.levelno for record in caplog.records if WARNING in record.getMessage()]
    assert levels == [logging.DEBUG]


@pytest.mark.parametrize("exif", [b"MM", b"garbage!", b"II*\0\xff\xff\xff\x7f"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # it tells of corrupt EXIF data
def test_exif_that_is_garbage_does_not_keep_a_photo_from_being_read(
    tmp_path: Path, pixels: NDArray[np.uint8], exif: bytes, suffix: str
) -> None:
    path = tmp_path / f"garbage{suffix}"
    Image.fromarray(pixels).save(path, exif=b"Exif\0\0" + exif)
    np.testing.assert_array_equal(load_image(path), pillow_rgb(path))
    np.testing.assert_array_equal(load_image(path, exif_policy="apply"), pillow_rgb(path))


# --- Mistakes --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nowhere.jpg", ".", "long" * 100])
def test_a_path_without_a_file_is_told(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(MissingFileError) as caught:
        load_image(path)
    assert str(caught.value) == f"no image file at {path}: check the path, or pass the pixels."
    assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty.jpg", "is empty"),
        ("page.jpg", r"is no image that Pillow can open: it starts with b'<html>'"),
        ("cut.jpg", "cannot be decoded: OSError: image file is truncated"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(
    tmp_path: Path, photo_path: Path, name: str, reason: str
) -> None:
    whole = photo_path.read_bytes()
    data = {"empty.jpg": b"", "page.jpg": b"<html>", "cut.jpg": whole[: len(whole) // 2]}[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        load_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path} {reason}")
    assert message.endswith(": replace the file, or leave it out.")
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("shape", "dtype", "remedy"),
    [
        ((4, 5, 3), np.float32, r"has dtype float32; .*\(image \* 255\)\.round\(\)\.astype"),
        ((4, 5, 3), np.int64, r"has dtype int64; wanted uint8 from 0 to 255"),
        ((4,), np.uint8, r"has shape \(4,\); wanted \(height, width, 3\)"),
        ((3, 4, 5), np.uint8, r"has shape \(3, 4, 5\); .*Move channels last"),
        ((4, 5, 2), np.uint8, r"has shape \(4, 5, 2\); wanted \(height, width, 3\)"),
        ((1, 4, 5, 3), np.uint8, r"has shape \(1, 4, 5, 3\); .*several images as a list"),
        ((0, 5, 3), np.uint8, r"has shape \(0, 5, 3\); .*not empty"),
    ],
)
def test_an_array_of_another_form_is_refused_with_the_remedy(
    shape: tuple[int, ...], dtype: type[np.generic], remedy: str
) -> None:
    with pytest.raises(ShapeError, match=f"^the image array {remedy}"):
        load_image(np.zeros(shape, dtype))


@pytest.mark.parametrize(
    ("image", "code", "pixels"),
    [
        (np.array([[0, 0.5, 1]]), "(image * 255).round().astype(numpy.uint8)", [0, 128, 255]),
        (np.array([[False, True]]), "(image * 255).round().astype(numpy.uint8)", [0, 255]),
        (np.array([[0, 1.6, 255]]), "image.round().astype(numpy.uint8)", [0, 2, 255]),
        (np.array([[0, 1, 255]], np.uint16), "image.round().astype(numpy.uint8)", [0, 1, 255]),
        (torch.tensor([[0, 0.5, 1]]), "(image * 255).round().to(torch.uint8)", [0, 128, 255]),
        (torch.tensor([[7, 255]]), "image.round().to(torch.uint8)", [7, 255]),
    ],
)
def test_pixels_of_another_type_are_converted_by_the_code_in_the_message(
    image: Any, code: str, pixels: list[int]
) -> None:
    with pytest.raises(ShapeError) as caught:
        load_image(image)
    assert f"with `{code}`." in str(caught.value)
    converted = eval(code, {"numpy": np, "torch": torch, "image": image})  # noqa: S307 - ours
    assert load_image(converted)[0, :, 0].tolist() == pixels


def test_pixels_that_were_normalised_are_told_by_their_range() -> None:
    with pytest.raises(ShapeError, match=r"run from -2\.125 to 2\.5: .* before it was normalised"):
        load_image(np.array([[-2.125, 2.5]]))
    with pytest.raises(ShapeError, match="run from 0 to 65535: scale them to 0..255"):
        load_image(np.array([[0, 65535]], np.uint16))


def test_an_image_without_pixels_is_refused() -> None:
    with pytest.raises(ShapeError, match="not empty"):
        load_image(Image.new("RGB", (0, 5)))


def test_an_image_without_a_known_white_level_is_refused() -> None:
    with pytest.raises(ImageError, match=r"mode F \(floating point\), whose white level"):
        load_image(Image.new("F", (4, 5)))


@given(data=st.binary(max_size=60), start=st.sampled_from([b"", b"\xff\xd8\xff", b"GIF89a", b"BM"]))
def test_random_bytes_are_refused_like_any_damaged_file(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, start: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "random_bytes.jpg"
    path.write_bytes(start + data)
    with pytest.raises(RegionSpotError, match="random_bytes"):
        load_image(path)


def test_an_opened_image_need_not_come_from_a_file(pixels: NDArray[np.uint8]) -> None:
    memory = io.BytesIO()
    Image.fromarray(pixels).save(memory, "PNG")
    np.testing.assert_array_equal(load_image(Image.open(memory)), pixels)
