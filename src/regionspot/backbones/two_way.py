"""SAM's two-way transformer, run leaner than its own ``forward`` runs it; equal to rounding.

Two things make the difference. All boxes of an image start from the same image, so the first
layer's projections of the image are computed once and not once a box. And attention does not write
its weights down (``scaled_dot_product_attention``). The modules and their weights are SAM's own.

Shape letters: R regions, T tokens of a region, N image positions, S SAM's width, h heads, d width
of a head. A 1 in place of R stands for what all regions share.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from segment_anything.modeling.transformer import (
        Attention,
        TwoWayAttentionBlock,
        TwoWayTransformer,
    )


def attend_two_way(
    transformer: "TwoWayTransformer",
    image_1SHW: Tensor,
    position_1SHW: Tensor,
    queries_RTS: Tensor,
) -> Tensor:
    """Return what the transformer makes of the queries: the first value of its ``forward``.

    Args:
        transformer: A two-way transformer of ``segment_anything`` in eval mode.
        image_1SHW: The image embedding with the dense prompt embedding added; (1, S, H, W) if all
            regions share both, else (R, S, H, W).
        position_1SHW: The image's position code, (1, S, H, W).
        queries_RTS: Output tokens and prompt tokens of each region.

    Returns:
        (R, T, S).
    """
    image_1NS = image_1SHW.flatten(2).transpose(1, 2)
    position_1NS = position_1SHW.flatten(2).transpose(1, 2)
    prompts_RTS, state_RTS = queries_RTS, queries_RTS
    for layer in transformer.layers:
        state_RTS, image_1NS = _layer(layer, state_RTS, prompts_RTS, image_1NS, position_1NS)
    seen_RTS = _attention(
        transformer.final_attn_token_to_image,
        state_RTS + prompts_RTS,
        image_1NS + position_1NS,
        image_1NS,
    )
    attended: Tensor = transformer.norm_final_attn(state_RTS + seen_RTS)
    return attended


def _layer(
    layer: "TwoWayAttentionBlock",
    state_RTS: Tensor,
    prompts_RTS: Tensor,
    image_1NS: Tensor,
    position_1NS: Tensor,
) -> tuple[Tensor, Tensor]:
    if layer.skip_first_layer_pe:
        state_RTS = _attention(layer.self_attn, state_RTS, state_RTS, state_RTS)
    else:
        placed_RTS = state_RTS + prompts_RTS
        state_RTS = state_RTS + _attention(layer.self_attn, placed_RTS, placed_RTS, state_RTS)
    state_RTS = layer.norm1(state_RTS)
    placed_1NS = image_1NS + position_1NS
    seen_RTS = _attention(
        layer.cross_attn_token_to_image, state_RTS + prompts_RTS, placed_1NS, image_1NS
    )
    state_RTS = layer.norm2(state_RTS + seen_RTS)
    state_RTS = layer.norm3(state_RTS + layer.mlp(state_RTS))
    told_RNS = _attention(
        layer.cross_attn_image_to_token, placed_1NS, state_RTS + prompts_RTS, state_RTS
    )
    return state_RTS, layer.norm4(image_1NS + told_RNS)


def _attention(module: "Attention", q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Run one of SAM's attentions; what is shared by all regions is projected once."""
    q, k, v = (
        projection(x).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
        for projection, x in ((module.q_proj, q), (module.k_proj, k), (module.v_proj, v))
    )
    if len(k) == 1 < len(q):
        # All regions look at the same image: their queries are one long list of queries.
        num_regions, _, num_tokens, _ = q.shape
        rows = q.transpose(0, 1).flatten(1, 2)[None]
        out = F.scaled_dot_product_attention(rows, k, v)[0]
        attended = out.unflatten(1, (num_regions, num_tokens)).transpose(0, 1)
    else:
        attended = F.scaled_dot_product_attention(q.expand(len(k), -1, -1, -1), k, v)
    return torch.as_tensor(module.out_proj(attended.transpose(1, 2).flatten(2)))
