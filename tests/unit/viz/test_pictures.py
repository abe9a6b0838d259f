import io
import re
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from regionspot.core.errors import ShapeError
from regionspot.viz import (
    NamedRegion,
    attention_in_box,
    attention_limit,
    draw_attention,
    draw_attention_scale,
    outline_regions,
    paint_numbered_regions,
)
from regionspot.viz.style import NEUTRAL, RIGHT, WRONG, Colour

BOX = (30.0, 40.0, 60.0, 70.0)


@pytest.fixture
def grey() -> NDArray[np.uint8]:
    return np.full((112, 160, 3), 128, np.uint8)


def pixels_of(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))


def numbered(
    image: NDArray[np.uint8], regions: Sequence[NamedRegion], long_side_px: int = 720
) -> NDArray[np.uint8]:
    return np.asarray(paint_numbered_regions(image, regions, long_side_px=long_side_px))


def share_of(colour: Colour, picture: NDArray[np.uint8]) -> float:
    return float((picture == np.array(colour, np.uint8)).all(axis=2).mean())


def test_small_images_are_enlarged_keeping_their_aspect(grey: NDArray[np.uint8]) -> None:
    assert numbered(grey, [], 640).shape == (448, 640, 3)


def test_large_images_are_reduced() -> None:
    large = np.zeros((1000, 500, 3), np.uint8)
    assert numbered(large, [], 640).shape == (640, 320, 3)


@pytest.mark.parametrize(("true_name", "colour"), [("cat", RIGHT), ("dog", WRONG), (None, NEUTRAL)])
def test_colour_tells_right_from_wrong_from_unknown(
    grey: NDArray[np.uint8], true_name: str | None, colour: Colour
) -> None:
    region = NamedRegion(box_xyxy=BOX, name="cat", true_name=true_name, score=0.5)
    picture = numbered(grey, [region])
    shares = {other: share_of(other, picture) for other in (RIGHT, WRONG, NEUTRAL)}
    assert shares.pop(colour) > 0.003
    assert set(shares.values()) == {0.0}


def test_the_box_is_drawn_where_it_is(grey: NDArray[np.uint8]) -> None:
    region = NamedRegion(box_xyxy=BOX, name="cat", true_name="cat")
    picture = numbered(grey, [region], 640)
    assert tuple(picture[4 * 55, 4 * 30]) == RIGHT
    assert tuple(picture[4 * 70, 4 * 45]) == RIGHT
    assert tuple(picture[4 * 55, 4 * 45]) == (128, 128, 128)


def test_a_box_of_no_size_is_drawn(grey: NDArray[np.uint8]) -> None:
    region = NamedRegion(box_xyxy=(5, 5, 5, 5), name="speck", true_name="speck")
    assert share_of(RIGHT, numbered(grey, [region])) > 0


def test_images_of_another_kind_are_refused() -> None:
    with pytest.raises(ShapeError, match="float64 of shape"):
        numbered(np.zeros((4, 4, 3)), [])  # type: ignore[arg-type]


def peak(attention: float, *, side: int = 4) -> NDArray[np.float32]:
    """Attention to one patch, in the last row and the third column; the rest is even."""
    found = np.full(1 + side * side, (1 - attention) / (side * side), np.float32)
    found[1 + side * (side - 1) + 2] = attention
    return found


def test_the_patch_looked_at_is_the_bright_one() -> None:
    black = np.zeros((160, 160, 3), np.uint8)
    picture = pixels_of(draw_attention(black, (0, 0, 1, 1), peak(0.9), limit=4, long_side_px=320))
    cells = picture.astype(np.int64).sum(axis=2).reshape(4, 80, 4, 80)[:, 30:50, :, 30:50]
    means = cells.mean(axis=(1, 3))
    assert np.unravel_index(means.argmax(), means.shape) == (3, 2)
    assert np.median(means) < 5, "elsewhere the photo shows"


def test_the_map_is_smooth_between_patches() -> None:
    """Nearest neighbour would have one step at the border of a patch, and none within it."""
    black = np.zeros((160, 160, 3), np.uint8)
    picture = pixels_of(draw_attention(black, (0, 0, 1, 1), peak(0.9), limit=16, long_side_px=320))
    column = picture[160:, 200].astype(np.int64).sum(axis=1)  # through the centre of the patch
    assert len(np.unique(column[60:120])) > 30
    assert np.abs(np.diff(column)).max() < 0.2 * column.max()


def test_uniform_attention_leaves_the_photo_as_it_is(grey: NDArray[np.uint8]) -> None:
    uniform = np.full(17, 1 / 17, np.float32)
    picture = pixels_of(draw_attention(grey, (0, 0, 1, 1), uniform, limit=2))
    assert np.abs(picture[20:].astype(int) - 128).max() <= 2


@pytest.mark.parametrize(
    ("box", "share"),
    [
        ((0.0, 0.0, 160.0, 80.0), 1.0),
        ((80.0, 60.0, 120.0, 80.0), 0.5 + 0.5 / 16),  # the patch of the peak
        ((80.0, 70.0, 120.0, 80.0), (0.5 + 0.5 / 16) / 2),  # its lower half
        ((0.0, 0.0, 40.0, 40.0), 0.5 * 2 / 16),
        ((10.0, 10.0, 10.0, 40.0), 0.0),
    ],
)
def test_the_share_inside_a_box_counts_patches_by_area(
    box: tuple[float, float, float, float], share: float
) -> None:
    attention = peak(0.5)
    attention[0] = 3.0  # the first token is no patch
    attention[1:] = 0.5 / 16
    attention[1 + 12 + 2] += 0.5
    assert attention_in_box(attention, box, (80, 160)) == pytest.approx(share, rel=1e-5)


def test_the_scale_of_an_image_reaches_its_strong_patches() -> None:
    uniform = np.full((1, 26), 1 / 26, np.float32)
    assert attention_limit(uniform) == 2.0
    rng = np.random.default_rng(0)
    patches = rng.random((8, 100)).astype(np.float32) ** 6
    attention = np.concatenate([np.zeros((8, 1), np.float32), patches], axis=1)
    multiples = patches / patches.mean(axis=1, keepdims=True)
    share_above = np.mean(multiples > attention_limit(attention))
    assert share_above == pytest.approx(0.01, abs=0.002)
    assert pixels_of(draw_attention_scale(7.25)).shape[1] > 600


@pytest.mark.parametrize("shape", [(4,), (1,), (2, 5)])
def test_maps_of_another_shape_are_refused(grey: NDArray[np.uint8], shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="square grid|wanted \\(T,\\)"):
        draw_attention(grey, BOX, np.zeros(shape, np.float32), limit=2)


def corners(path: str) -> list[NDArray[np.float64]]:
    """Return the points of each closed line of SVG path data."""
    assert re.fullmatch(r"(M[\d .-]+Z)*", path)
    lines = re.findall(r"M([^Z]+)Z", path)
    return [np.array(line.split(), float).reshape(-1, 2) for line in lines]


def area(points: NDArray[np.float64]) -> float:
    x, y = points.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def test_shapes_are_in_units_of_the_drawing_and_the_photo_is_not_enlarged(
    grey: NDArray[np.uint8],
) -> None:
    photo = outline_regions(grey, [BOX, (5, 5, 5, 5)])
    assert photo.size_wh == (720, 504)
    assert pixels_of(photo.data).shape == grey.shape
    assert photo.shapes[0].box == (135.0, 180.0, 270.0, 315.0)
    assert photo.shapes[1].box == (22.5, 22.5, 22.5, 22.5)
    for shape in photo.shapes:
        x1, y1, x2, y2 = shape.label
        assert 0 <= x1 < x2 <= 720
        assert 0 <= y1 < y2 <= 504
        assert shape.outline == ""


def test_the_outline_of_a_mask_encloses_its_pixels(grey: NDArray[np.uint8]) -> None:
    rectangle = np.zeros((112, 160), bool)
    rectangle[40:80, 30:90] = True
    ring = np.zeros((112, 160), bool)
    ring[:, 100:] = True  # up to three borders of the image
    ring[20:40, 120:140] = False
    photo = outline_regions(grey, [BOX, BOX], [rectangle, ring])
    (outer,) = corners(photo.shapes[0].outline)
    scale = 720 / 160
    assert outer.min(axis=0) == pytest.approx([30 * scale, 40 * scale], abs=1)
    assert outer.max(axis=0) == pytest.approx([90 * scale, 80 * scale], abs=1)
    assert area(outer) == pytest.approx(40 * 60 * scale**2, rel=0.01)
    assert len(outer) <= 12, "straight lines are one segment"
    border, hole = sorted(corners(photo.shapes[1].outline), key=area, reverse=True)
    assert area(border) == pytest.approx(112 * 60 * scale**2, rel=0.01)
    assert area(hole) == pytest.approx(20 * 20 * scale**2, rel=0.03)


def test_large_masks_are_outlined_as_small_ones(grey: NDArray[np.uint8]) -> None:
    large = np.zeros((1600, 2000, 3), np.uint8)
    mask = np.zeros((1600, 2000), bool)
    mask[400:1200, 500:1500] = True
    (shape,) = outline_regions(large, [(500, 400, 1500, 1200)], [mask]).shapes
    (points,) = corners(shape.outline)
    assert points.min(axis=0) == pytest.approx([180, 144], abs=1.5)
    assert points.max(axis=0) == pytest.approx([540, 432], abs=1.5)


def test_an_empty_mask_has_no_outline_and_one_of_another_size_is_refused(
    grey: NDArray[np.uint8],
) -> None:
    (shape,) = outline_regions(grey, [BOX], [np.zeros((112, 160), bool)]).shapes
    assert shape.outline == ""
    with pytest.raises(ShapeError, match="a mask of shape"):
        outline_regions(grey, [BOX], [np.zeros((160, 112), bool)])
