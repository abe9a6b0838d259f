"""Guidance: a head's cross-attention prefers the patches inside a region; not in the paper.

Without guidance, only the position token tells where a region lies on the feature map. With it, an
attention head lowers the scores of all tokens outside the region's box or mask by its *strength*
b >= 0 before the softmax. b = 0 changes nothing, and a large b hides the outside.

Shapes: `B` images, `R` regions, `T` feature tokens, `P` patches, `N` attention heads of a block.
"""

from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from regionspot.core.patch_grid import patches_in_boxes, square_grid_hw

GuidanceKind = Literal["none", "halves", "learned"]
GuidanceRegion = Literal["box", "mask"]

_HIDDEN: Final = 1e4
"""Strength that hides the outside: exp(-1e4) is 0 in float32, and 1e4 fits float16."""


class Guidance(nn.Module):
    """The strengths of the attention heads of one block.

    The parameter ``weight`` is the strength b itself: with a non-negative function of a parameter
    (ReLU, square, exponential), 0 would have no gradient or be unreachable. `project_` keeps it at
    0 or more instead; the optimizer of `regionspot.training` calls it after every step (projected
    gradient descent), and so should your own training loop.

    Args:
        kind: ``learned``: one trained number per head. ``halves``: the first half of the heads sees
            the inside only, the others see everything; nothing is trained.
        num_heads: Attention heads of the block (N).
        spread: Learned strengths start evenly spaced from 0 to this value.
    """

    weight: Tensor

    def __init__(self, kind: Literal["halves", "learned"], num_heads: int, spread: float) -> None:
        super().__init__()
        if kind == "learned":
            self.weight = nn.Parameter(torch.linspace(0.0, spread, num_heads))
        else:
            sees_inside_only = torch.arange(num_heads) < num_heads // 2
            self.register_buffer("weight", _HIDDEN * sees_inside_only, persistent=False)

    @torch.no_grad()
    def project_(self) -> None:
        """Set negative strengths to 0, from where they can grow again."""
        self.weight.clamp_(min=0.0)

    @override
    def forward(self, outside_BRT: Tensor) -> Tensor:
        """Return the term to add to the scores, (B, N, R, T), in the dtype of ``outside_BRT``.

        Args:
            outside_BRT: 1 for a token outside a region, else 0; see `tokens_outside`.
        """
        return outside_BRT[:, None] * -self.weight.to(outside_BRT.dtype)[:, None, None]


def tokens_outside(extents: Tensor, num_tokens: int) -> Tensor:
    """Return which feature tokens lie outside each region, the class token among them.

    Args:
        extents: Boxes relative to the image, (B, R, 4) float, or the patches of each region,
            (B, R, P) bool; see `FusionHead.extents`.
        num_tokens: Tokens of the feature map (T): a class token and a square number of patches.

    Returns:
        (B, R, T) bool. A patch is inside a box if its centre is; every box has at least one patch.

    Raises:
        ShapeError: The patches do not form a square.
    """
    grid_hw = square_grid_hw(num_tokens - 1)
    inside_BRP = extents
    if extents.dtype != torch.bool:
        inside_BRP = patches_in_boxes(extents, grid_hw=grid_hw)
    return F.pad(~inside_BRP, (1, 0), value=True)
