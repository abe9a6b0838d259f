"""A fixed code of patch positions, for encoders whose patch tokens do not contain them."""

import math
from typing import Literal

import torch
from torch import Tensor

from regionspot.core.errors import ShapeError

PositionCode = Literal["none", "sincos"]


def sincos_position_code(num_tokens: int, width: int, *, device: torch.device) -> Tensor:
    """Return a 2-D sine-cosine code of a square patch grid with a class token first.

    The patch tokens of real CLIP encoders contain their positions; those of a very small encoder
    may not. Not in the paper.

    Args:
        num_tokens: Tokens of the feature map: the class token and a square number of patches,
            row-major.
        width: Width of the feature map; a multiple of 4.
        device: Device of the code.

    Returns:
        (num_tokens, width) float32: zeros for the class token; for a patch sines and cosines of x,
        then of y.

    Raises:
        ShapeError: The patches do not form a square, or the width is not a multiple of 4.
    """
    side = math.isqrt(max(num_tokens - 1, 0))
    if side * side != num_tokens - 1 or side == 0:
        raise ShapeError(
            f"position_code 'sincos' needs a class token and a square grid of patches, found"
            f" {num_tokens} feature tokens (26 would be 1 + 5 x 5). Set position_code to 'none'."
        )
    if width % 4:
        raise ShapeError(f"position_code 'sincos' needs a multiple of 4 as width, found {width}.")
    frequencies = 2 / 100 ** (torch.arange(width // 4, device=device) / (width / 4))
    along = torch.arange(side, device=device) / side * (2 * math.pi)
    angles = along[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # one grid axis, (side, width / 2)
    x_code = waves[None, :, :].expand(side, -1, -1)
    y_code = waves[:, None, :].expand(-1, side, -1)
    patches = torch.cat([x_code, y_code], dim=-1).flatten(0, 1)
    return torch.cat([patches.new_zeros(1, width), patches])
