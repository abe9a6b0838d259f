"""Position tokens straight from a SAM and boxes in its frame (Sec. 3.2 of the paper).

Shape letters: R regions, S SAM's width.

SAM's two-way transformer, run leaner than its own ``forward`` runs it; equal to rounding.

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

from regionspot.backbones.presets import TokenSite
from regionspot.backbones.prompts import (
    SamPrompts,
    check_boxes_sam,
    decode_tokens,
    token_dim,
)

if TYPE_CHECKING:
    from segment_anything.modeling import Sam
    from segment_anything.modeling.transformer import (
        Attention,
        TwoWayAttentionBlock,
        TwoWayTransformer,
    )


__all__ = ["position_tokens", "token_dim"]


@torch.no_grad()
def position_tokens(
    sam: "Sam",
    image_embedding: Tensor,
    boxes_xyxy_sam: Tensor,
    *,
    site: TokenSite = "transformer",
    chunk_size: int = 64,
) -> Tensor:
    """Turn box prompts into one position token a box.

    A box is embedded as its two corners, joined to SAM's learned output tokens, and attends to the
    image in SAM's two-way transformer. The first *mask* token that comes out, which SAM itself
    would decode into its single-mask answer, says where the region is and how far it reaches; it is
    the query of the fusion head (Yang et al., "Recognize Any Regions", arXiv:2311.01373, Sec. 3.2).
    Masks are not upscaled, as none is wanted here.

    Args:
        sam: A frozen SAM in eval mode.
        image_embedding: The image encoder's output for one image, (1, S, H, W).
        boxes_xyxy_sam: Boxes as (x1, y1, x2, y2), (R, 4), in pixels of SAM's *resized* frame: the
            long side is SAM's input size (1024 for the released models), the origin is the top left
            corner, padding is to the right and below. Map boxes of the original image with
            ``regionspot.core.geometry.to_sam_frame``.
        site: Where the token is read: "transformer" as above; "prompt_encoder", the two embedded
            corners side by side, before SAM has looked at the image; "mlp", the token after the
            hypernetwork that turns it into a mask filter.
        chunk_size: Boxes decoded at once. Peak memory grows by a few times 4 MiB a box with the
            released models; the result does not depend on it.

    Returns:
        Tokens, (R, `token_dim`), on the embedding's device; row i belongs to box i. No boxes give
        (0, `token_dim`).

    Raises:
        ShapeError: The boxes are not (R, 4), end before they start, or reach outside SAM's frame,
            which nearly always means that they are still in pixels of the original image; or the
            embedding is not one image's.
    """
    boxes_R4 = check_boxes_sam(boxes_xyxy_sam, frame_px=sam.image_encoder.img_size)
    prompts = SamPrompts(boxes_xyxy_sam=boxes_R4.to(image_embedding.device))
    return decode_tokens(sam, image_embedding, prompts, site=site, chunk_size=chunk_size)


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
