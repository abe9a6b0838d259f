import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regionspot.core.errors import ShapeError
from regionspot.inference.crops import (
    patches_in_boxes,
    pooled_patch_logits,
    square_grid_hw,
)

SHARE = st.integers(0, 256)


def _patches(box: tuple[float, ...]) -> list[int]:
    """Patches, counted row by row, of a 4 x 4 grid on an image 80 high and 40 wide."""
    inside = patches_in_boxes(torch.tensor([box]), size_hw=(80, 40), grid_hw=(4, 4))
    return inside[0].nonzero().flatten().tolist()


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


@given(
    corners=st.tuples(SHARE, SHARE, SHARE, SHARE),
    size_hw=st.tuples(st.integers(1, 500), st.integers(1, 500)),
    side=st.integers(1, 9),
)
def test_patches_agree_with_looking_at_every_centre(
    corners: tuple[int, int, int, int], size_hw: tuple[int, int], side: int
) -> None:
    height, width = size_hw
    x1, x2 = (Fraction(width * share, 256) for share in sorted(corners[::2]))
    y1, y2 = (Fraction(height * share, 256) for share in sorted(corners[1::2]))
    box = torch.tensor([[float(x1), float(y1), float(x2), float(y2)]])
    inside = patches_in_boxes(box, size_hw=size_hw, grid_hw=(side, side))
    columns = [i for i in range(side) if x1 <= Fraction((2 * i + 1) * width, 2 * side) < x2]
    rows = [i for i in range(side) if y1 <= Fraction((2 * i + 1) * height, 2 * side) < y2]
    columns = columns or [min(side - 1, (x1 + x2) * side // (2 * width))]
    rows = rows or [min(side - 1, (y1 + y2) * side // (2 * height))]
    expected = [row * side + column for row in rows for column in columns]
    assert inside[0].nonzero().flatten().tolist() == expected


def test_pooling_is_the_log_of_the_mean_of_exp_of_scaled_cosines() -> None:
    patches = torch.tensor([[3.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])  # lengths do not count
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    inside = torch.tensor([[True, True, False], [False, False, True]])
    logits = pooled_patch_logits(patches, inside, bank, scale=2.0)
    both = math.log((math.exp(2) + math.exp(0)) / 2)
    torch.testing.assert_close(logits, torch.tensor([[both, both], [-2.0, 0.0]]))


def test_pooling_no_region_gives_no_rows() -> None:
    inside = torch.zeros(0, 3, dtype=torch.bool)
    assert pooled_patch_logits(torch.ones(3, 2), inside, torch.ones(5, 2), scale=1.0).shape == (
        0,
        5,
    )


def test_a_grid_that_is_no_square_is_refused() -> None:
    assert square_grid_hw(144) == (12, 12)
    with pytest.raises(ShapeError, match="12 patch tokens"):
        square_grid_hw(12)
