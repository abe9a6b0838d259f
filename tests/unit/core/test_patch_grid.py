from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regionspot.core.errors import ShapeError
from regionspot.core.geometry import pixels_to_relative
from regionspot.core.patch_grid import patches_in_boxes, patches_in_masks, square_grid_hw

SHARE = st.integers(0, 256)


def _patches(box: tuple[float, ...]) -> list[int]:
    """Patches, counted row by row, of a 4 x 4 grid on an image 80 high and 40 wide."""
    relative = pixels_to_relative(np.array([box], np.float32), (80, 40))
    return patches_in_boxes(torch.from_numpy(relative), grid_hw=(4, 4))[0].nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("box", "patches"),
    [
        ((0, 0, 40, 80), list(range(16))),
        ((0, 0, 20, 40), [0, 1, 4, 5]),
        ((4.9, 0, 15.1, 11), [0, 1]),
        ((5.1, 0, 15.1, 11), [1]),
        ((5.0, 10.0, 15.0, 30.0), [0]),
        ((11, 41, 14, 49), [9]),
        ((0, 0, 40, 1), [0, 1, 2, 3]),
        ((40, 80, 40, 80), [15]),
        ((0, 0, 0, 0), [0]),
    ],
)
def test_patches_are_those_whose_centre_is_in_the_box_or_the_nearest(
    box: tuple[float, ...], patches: list[int]
) -> None:
    assert _patches(box) == patches


@given(corners=st.tuples(SHARE, SHARE, SHARE, SHARE), side=st.integers(1, 9))
def test_patches_agree_with_looking_at_every_centre(
    corners: tuple[int, int, int, int], side: int
) -> None:
    x1, x2 = (Fraction(share, 256) for share in sorted(corners[::2]))
    y1, y2 = (Fraction(share, 256) for share in sorted(corners[1::2]))
    box = torch.tensor([[float(x1), float(y1), float(x2), float(y2)]])
    inside = patches_in_boxes(box, grid_hw=(side, side))
    columns = [i for i in range(side) if x1 <= Fraction(2 * i + 1, 2 * side) < x2]
    rows = [i for i in range(side) if y1 <= Fraction(2 * i + 1, 2 * side) < y2]
    columns = columns or [min(side - 1, (x1 + x2) * side // 2)]
    rows = rows or [min(side - 1, (y1 + y2) * side // 2)]
    expected = [row * side + column for row in rows for column in columns]
    assert inside[0].nonzero().flatten().tolist() == expected


# 16, 24 and 27 patches a side: CLIP ViT-L/14 at 224 and 336 pixels, SigLIP 2 at 378.
@pytest.mark.parametrize("side", [16, 24, 27])
@given(width=st.integers(1, 3000), first=st.integers(0, 3000), length=st.integers(1, 3000))
def test_edges_in_whole_pixels_are_compared_with_centres_exactly(
    side: int, width: int, first: int, length: int
) -> None:
    x1, x2 = first % width, min(first % width + length, width)
    relative = pixels_to_relative(np.array([[x1, 0, x2, 1]], np.float32), (1, width))
    found = patches_in_boxes(torch.from_numpy(relative), grid_hw=(1, side))[0].nonzero()[:, 0]
    expected = [i for i in range(side) if x1 * 2 * side <= (2 * i + 1) * width < x2 * 2 * side]
    if expected:
        assert found.tolist() == expected
    else:
        assert len(found) == 1


def test_images_of_a_batch_are_looked_at_alone() -> None:
    boxes = torch.rand(3, 2, 4, generator=torch.Generator().manual_seed(0))
    together = patches_in_boxes(boxes, grid_hw=(3, 2))
    assert together.shape == (3, 2, 6)
    for image, alone in zip(together, boxes, strict=True):
        assert image.equal(patches_in_boxes(alone, grid_hw=(3, 2)))
    assert patches_in_boxes(boxes[:, :0], grid_hw=(3, 2)).shape == (3, 0, 6)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_every_box_has_a_patch_whatever_its_numbers(value: float) -> None:
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.5]]).repeat(4, 1)
    boxes.fill_diagonal_(value)
    assert patches_in_boxes(boxes, grid_hw=(4, 4)).any(dim=-1).all()


def test_a_grid_that_is_no_square_is_refused() -> None:
    assert square_grid_hw(144) == (12, 12)
    for number in (12, 0):
        with pytest.raises(ShapeError, match=f"{number} patch tokens"):
            square_grid_hw(number)


def test_a_mask_holds_the_patches_whose_centre_it_covers() -> None:
    mask = np.zeros((8, 8), np.bool_)  # patches of 2 x 2 pixels; a centre is in the last of them
    mask[1, 1] = mask[5, 1:8] = mask[6, 6] = True
    box = torch.tensor([[0.125, 0.125, 1.0, 0.875]])
    found = patches_in_masks([mask], box, grid_hw=(4, 4))
    assert found[0].nonzero()[:, 0].tolist() == [0, 8, 9, 10, 11]


def test_a_mask_without_a_centre_gets_the_patches_of_its_box() -> None:
    mask = np.zeros((8, 8), np.bool_)
    mask[0, 0:8] = True  # between the centres
    boxes = torch.tensor([[0.0, 0.0, 1.0, 0.5], [0.5, 0.5, 1.0, 1.0]])
    found = patches_in_masks([mask, np.zeros_like(mask)], boxes, grid_hw=(4, 4))
    assert found.equal(patches_in_boxes(boxes, grid_hw=(4, 4)))
    assert patches_in_masks([], boxes[:0], grid_hw=(4, 4)).shape == (0, 16)


@given(
    size_hw=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    side=st.integers(1, 17),
    corners=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_a_mask_that_fills_its_box_covers_the_same_patches(
    size_hw: tuple[int, int], side: int, corners: tuple[float, float, float, float]
) -> None:
    (y1, y2), (x1, x2) = (
        sorted((round(a * length), round(b * length)))
        for a, b, length in ((*corners[:2], size_hw[0]), (*corners[2:], size_hw[1]))
    )
    mask = np.zeros(size_hw, np.bool_)
    mask[y1:y2, x1:x2] = True
    box = torch.from_numpy(pixels_to_relative(np.array([[x1, y1, x2, y2]], np.float32), size_hw))
    found = patches_in_masks([mask], box, grid_hw=(side, side))
    assert found.equal(patches_in_boxes(box, grid_hw=(side, side)))
