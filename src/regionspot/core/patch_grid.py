"""Which patches of an image encoder's grid a box or a mask covers: the only code that says so.

The encoder sees the image squashed to a square, so its patches divide the original width and height
evenly. In *relative* coordinates, which count both as 1, the squash changes nothing.

Shapes: `R` regions, `P` patches, row by row.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regionspot.core.errors import ShapeError


def patches_in_boxes(relative_boxes: Tensor, *, grid_hw: tuple[int, int]) -> Tensor:
    """Say which patches belong to each box: those whose centre lies in it, and at least one.

    Along an axis where no centre lies in the box, the patch that holds the box's own centre is
    taken.

    Args:
        relative_boxes: Boxes, (..., R, 4), half-open, as ``pixels_to_relative`` gives them.
        grid_hw: Rows and columns of patches.

    Returns:
        Membership, (..., R, P) bool with P = rows * columns; no row is empty, whatever the numbers.
    """
    x1, y1, x2, y2 = relative_boxes.unbind(dim=-1)
    rows, columns = _centres_inside(y1, y2, grid_hw[0]), _centres_inside(x1, x2, grid_hw[1])
    return (rows[..., :, None] & columns[..., None, :]).flatten(-2)


def patches_in_masks(
    masks: Iterable[NDArray[np.bool_]], relative_boxes: Tensor, *, grid_hw: tuple[int, int]
) -> Tensor:
    """Say which patches belong to each mask: those whose centre lies in it, and at least one.

    Args:
        masks: The mask of each region, (H, W) at the original image's size.
        relative_boxes: The region's boxes, (R, 4). A mask that holds no centre gets the patches of
            its box, see `patches_in_boxes`.
        grid_hw: Rows and columns of patches.

    Returns:
        Membership, (R, P) bool with P = rows * columns; no row is empty.
    """
    inside = patches_in_boxes(relative_boxes, grid_hw=grid_hw)
    for row, mask in enumerate(masks):
        rows, columns = (
            (2 * np.arange(num) + 1) * side // (2 * num)
            for num, side in zip(grid_hw, mask.shape, strict=True)
        )
        of_mask = torch.from_numpy(mask[np.ix_(rows, columns)].flatten())
        if of_mask.any():
            inside[row] = of_mask
    return inside


def square_grid_hw(num_patches: int) -> tuple[int, int]:
    """Return the grid of a square input's patches.

    Raises:
        ShapeError: The number is not a square, so where a patch lies is unknown.
    """
    side = math.isqrt(max(num_patches, 0))
    if side * side != num_patches or side == 0:
        raise ShapeError(
            f"{num_patches} patch tokens do not form a square grid, so where each lies is unknown;"
            " wanted those of an encoder with square input, 25 for 5 x 5."
        )
    return side, side


def _centres_inside(low: Tensor, high: Tensor, num: int) -> Tensor:
    """Return which of ``num`` patches along an axis lie in each interval, (..., num) bool."""
    index = torch.arange(num, device=low.device)
    odd = (2 * index + 1).to(low.dtype)
    # A division of two tensors rounds correctly on every device, as that of pixels by the size of
    # the image does: a box that ends at a centre is never taken to end beside it.
    centres = odd / torch.full_like(odd, 2 * num)
    inside = (centres >= low[..., None]) & (centres < high[..., None])
    middle = ((low + high) * (num / 2)).floor().clamp(0, num - 1).nan_to_num()
    nearest = index == middle[..., None]
    return inside | (nearest & ~inside.any(dim=-1, keepdim=True))
