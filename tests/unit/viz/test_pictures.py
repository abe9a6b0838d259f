import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from regionspot.core.errors import ShapeError
from regionspot.viz import NamedRegion, draw_attention, draw_numbered_regions
from regionspot.viz.style import NEUTRAL, RIGHT, WRONG, Colour

BOX = (30.0, 40.0, 60.0, 70.0)


@pytest.fixture
def grey() -> NDArray[np.uint8]:
    return np.full((112, 160, 3), 128, np.uint8)


def pixels_of(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))


def share_of(colour: Colour, picture: NDArray[np.uint8]) -> float:
    return float((picture == np.array(colour, np.uint8)).all(axis=2).mean())


def test_small_images_are_enlarged_keeping_their_aspect(grey: NDArray[np.uint8]) -> None:
    assert pixels_of(draw_numbered_regions(grey, [], long_side_px=640)).shape == (448, 640, 3)


def test_large_images_are_reduced() -> None:
    large = np.zeros((1000, 500, 3), np.uint8)
    assert pixels_of(draw_numbered_regions(large, [], long_side_px=640)).shape == (640, 320, 3)


@pytest.mark.parametrize(("true_name", "colour"), [("cat", RIGHT), ("dog", WRONG), (None, NEUTRAL)])
def test_colour_tells_right_from_wrong_from_unknown(
    grey: NDArray[np.uint8], true_name: str | None, colour: Colour
) -> None:
    region = NamedRegion(box_xyxy=BOX, name="cat", true_name=true_name, score=0.5)
    picture = pixels_of(draw_numbered_regions(grey, [region]))
    shares = {other: share_of(other, picture) for other in (RIGHT, WRONG, NEUTRAL)}
    assert shares.pop(colour) > 0.003
    assert set(shares.values()) == {0.0}


def test_the_box_is_drawn_where_it_is(grey: NDArray[np.uint8]) -> None:
    region = NamedRegion(box_xyxy=BOX, name="cat", true_name="cat")
    picture = pixels_of(draw_numbered_regions(grey, [region], long_side_px=640))
    assert tuple(picture[4 * 55, 4 * 30]) == RIGHT
    assert tuple(picture[4 * 70, 4 * 45]) == RIGHT
    assert tuple(picture[4 * 55, 4 * 45]) == (128, 128, 128)


def test_the_same_input_gives_the_same_bytes(grey: NDArray[np.uint8]) -> None:
    region = NamedRegion(box_xyxy=BOX, name="cat", true_name="dog", score=0.25)
    assert draw_numbered_regions(grey, [region]) == draw_numbered_regions(grey, [region])


@pytest.mark.parametrize(("picture_format", "start"), [("png", b"\x89PNG"), ("jpeg", b"\xff\xd8")])
def test_pictures_come_in_both_formats(
    grey: NDArray[np.uint8], picture_format: str, start: bytes
) -> None:
    data = draw_numbered_regions(grey, [], picture_format=picture_format)  # type: ignore[arg-type]
    assert data.startswith(start)


def test_a_box_of_no_size_is_drawn(grey: NDArray[np.uint8]) -> None:
    region = NamedRegion(box_xyxy=(5, 5, 5, 5), name="speck", true_name="speck")
    assert share_of(RIGHT, pixels_of(draw_numbered_regions(grey, [region]))) > 0


def test_images_of_another_kind_are_refused() -> None:
    with pytest.raises(ShapeError, match="float64 of shape"):
        draw_numbered_regions(np.zeros((4, 4, 3)), [])  # type: ignore[arg-type]


def region(name: str) -> NamedRegion:
    return NamedRegion(box_xyxy=BOX, name=name)


def test_the_patch_looked_at_is_the_bright_one() -> None:
    black = np.zeros((160, 160, 3), np.uint8)
    attention = np.full((1, 17), 0.001, np.float32)
    attention[0, 1 + 4 * 3 + 2] = 0.9  # fourth row, third column of a grid of 4 x 4
    picture = pixels_of(draw_attention(black, [region("egg")], attention, tile_px=320))
    tile = picture[-320:].astype(np.int64).sum(axis=2)
    cells = tile.reshape(4, 80, 4, 80)[:, 10:70, :, 10:70].mean(axis=(1, 3))
    assert np.unravel_index(cells.argmax(), cells.shape) == (3, 2)


def test_every_region_has_a_tile(grey: NDArray[np.uint8]) -> None:
    attention = np.full((4, 5), 0.2, np.float32)
    picture = pixels_of(draw_attention(grey, [region("long name" * 9)] * 4, attention, tile_px=90))
    one = pixels_of(draw_attention(grey, [region("a")], attention[:1], tile_px=90))
    assert picture.shape[1] == 3 * one.shape[1] + 28
    assert picture.shape[0] == 2 * one.shape[0] + 14


@pytest.mark.parametrize("shape", [(1, 4), (2, 5), (1, 1), (5,)])
def test_maps_of_another_shape_are_refused(grey: NDArray[np.uint8], shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="square grid of patches"):
        draw_attention(grey, [region("a")], np.zeros(shape, np.float32))
