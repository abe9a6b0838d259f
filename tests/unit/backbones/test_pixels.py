"""Image checks and the one resize."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from regionspot.backbones import resize_bilinear
from regionspot.backbones.pixels import check_image
from regionspot.core.errors import ShapeError

sides = st.integers(1, 40)


@given(height=sides, width=sides, new_height=sides, new_width=sides, seed=st.integers(0, 9))
def test_resizing_is_pils(
    height: int, width: int, new_height: int, new_width: int, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    theirs = Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR)
    ours = resize_bilinear(image, (new_height, new_width))
    np.testing.assert_array_equal(ours, np.asarray(theirs))


def test_the_result_is_the_callers_own(photo: NDArray[np.uint8]) -> None:
    before = photo.copy()
    for size_hw in [(45, 90), (10, 10)]:
        resized = resize_bilinear(photo, size_hw)
        resized[:] = 0
    np.testing.assert_array_equal(photo, before)


def test_views_such_as_crops_are_fine(photo: NDArray[np.uint8]) -> None:
    view = photo[5:30, 10:50][::-1, :, ::-1]
    np.testing.assert_array_equal(
        resize_bilinear(view, (8, 8)), resize_bilinear(np.ascontiguousarray(view), (8, 8))
    )


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
    ],
)
def test_what_is_not_an_rgb_image_is_refused(image: NDArray[np.uint8]) -> None:
    with pytest.raises(ShapeError, match=r"found an image of shape .*wanted \(H, W, 3\) uint8"):
        check_image(image)


def test_an_image_that_would_vanish_is_refused(photo: NDArray[np.uint8]) -> None:
    with pytest.raises(ShapeError, match=r"45 x 90 pixels .* would become 0 x 5"):
        resize_bilinear(photo, (0, 5))
