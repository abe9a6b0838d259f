import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regionspot.inference.clip_crops import (
    box_crop,
    grey_outside_mask,
    mask_crop,
    mean_grey,
    pixel_box,
)

GREY = np.array([9, 9, 9], np.uint8)
COORDINATE = st.floats(-50, 150, width=32)


def _image() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """4 x 5 pixels; the red channel counts them from 100, green and blue are 0."""
    image = np.zeros((4, 5, 3), np.uint8)
    image[..., 0] = 100 + np.arange(20).reshape(4, 5)
    return image


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        ((1, 1, 3, 2), (1, 1, 3, 2)),
        ((0.2, 0.9, 2.1, 1.1), (0, 0, 3, 2)),
        ((2.4, 1.2, 2.6, 1.2), (2, 1, 3, 2)),
        ((2, 1, 2, 1), (2, 1, 3, 2)),
        ((5, 4, 5, 4), (4, 3, 5, 4)),
        ((-9, -9, -7, -7), (0, 0, 1, 1)),
        ((90, 90, 95, 95), (4, 3, 5, 4)),
        ((-9, -9, 90, 90), (0, 0, 5, 4)),
    ],
)
def test_boxes_widen_to_whole_pixels_and_never_vanish(
    box: tuple[float, ...], pixels: tuple[int, ...]
) -> None:
    assert pixel_box(np.array(box, np.float32), (4, 5)) == pixels


@given(
    corners=st.tuples(COORDINATE, COORDINATE, COORDINATE, COORDINATE),
    height=st.integers(1, 90),
    width=st.integers(1, 90),
)
def test_any_box_covers_pixels_of_the_image_and_its_own_inside(
    corners: tuple[float, float, float, float], height: int, width: int
) -> None:
    xs, ys = sorted(corners[::2]), sorted(corners[1::2])
    x1, y1, x2, y2 = pixel_box(np.array([xs[0], ys[0], xs[1], ys[1]], np.float32), (height, width))
    assert 0 <= x1 < x2 <= width
    assert 0 <= y1 < y2 <= height
    assert x1 <= np.clip(xs[0], 0, width)
    assert x2 >= np.clip(xs[1], 0, width)
    assert y1 <= np.clip(ys[0], 0, height)
    assert y2 >= np.clip(ys[1], 0, height)


def test_a_box_crop_is_the_pixels_in_the_box() -> None:
    crop = box_crop(_image(), np.array([1, 1, 3, 3], np.float32))
    assert crop[..., 0].tolist() == [[106, 107], [111, 112]]


def test_a_mask_crop_keeps_the_mask_and_greys_the_rest_of_the_box() -> None:
    mask = np.zeros((4, 5), np.bool_)
    mask[1, 2] = mask[0, 0] = True
    crop = mask_crop(_image(), np.array([1, 1, 3, 3], np.float32), mask, GREY)
    assert crop[..., 0].tolist() == [[9, 107], [9, 9]]


def test_a_mask_without_a_pixel_in_the_box_leaves_the_box_crop() -> None:
    mask = np.zeros((4, 5), np.bool_)
    mask[0, 0] = True
    crop = mask_crop(_image(), np.array([1, 1, 3, 3], np.float32), mask, GREY)
    assert crop[..., 0].tolist() == [[106, 107], [111, 112]]


def test_grey_outside_the_mask_keeps_size_and_place() -> None:
    mask = np.zeros((4, 5), np.bool_)
    mask[1, 2] = mask[0, 0] = True
    kept = grey_outside_mask(_image(), np.array([1, 1, 3, 3], np.float32), mask, GREY)
    assert kept.shape == (4, 5, 3)
    assert kept[0, 0, 0] == 100
    assert kept[1, 2, 0] == 107
    assert (kept == 9).all(axis=2).sum() == 18


def test_grey_outside_an_empty_mask_keeps_the_box() -> None:
    mask = np.zeros((4, 5), np.bool_)
    kept = grey_outside_mask(_image(), np.array([1, 1, 3, 3], np.float32), mask, GREY)
    assert kept[1:3, 1:3, 0].tolist() == [[106, 107], [111, 112]]
    assert (kept == 9).all(axis=2).sum() == 16


def test_mean_grey_of_openais_clip_is_the_colour_it_was_trained_around() -> None:
    assert mean_grey((0.48145466, 0.4578275, 0.40821073)).tolist() == [123, 117, 104]
