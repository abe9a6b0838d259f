"""SAM's mask decoder: prompts in SAM's frame to position tokens (Sec. 3.2 of the paper) and masks.

Composed from the modules of ``segment_anything``. The two-way transformer is faster than its own
``forward`` and equal to it up to rounding: what the first layer projects of the image is computed
once for all regions, not once per region, and ``scaled_dot_product_attention`` does not materialize
the attention weights.

Shape letters: R regions, K vectors a prompt, T tokens of a region, N image positions, M masks a
region, S SAM's width, H W the grid of the image embedding, h heads, d width of a head. A 1 in place
of R stands for what all regions share.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from regionspot.backbones.execution import without_autocast
from regionspot.backbones.presets import TokenSite
from regionspot.backbones.to_frame import SamPrompts
from regionspot.core.errors import ShapeError

if TYPE_CHECKING:
    from segment_anything.modeling import Sam
    from segment_anything.modeling.transformer import (
        Attention,
        TwoWayAttentionBlock,
        TwoWayTransformer,
    )

_IOU_TOKEN, _MASK_TOKEN = 0, 1
"""Among the decoder's output tokens 0 rates the masks; 1 is the single-mask answer."""


def attend_two_way(
    transformer: "TwoWayTransformer",
    image_1SHW: Tensor,
    position_1SHW: Tensor,
    queries_RTS: Tensor,
) -> Tensor:
    """Return the attended queries, (R, T, S): the first value of the transformer's ``forward``.

    Args:
        transformer: A two-way transformer of ``segment_anything`` in eval mode.
        image_1SHW: The image embedding with the dense prompt embedding added; (1, S, H, W) if all
            regions share both, else (R, S, H, W).
        position_1SHW: The image's position code, (1, S, H, W).
        queries_RTS: Output tokens and prompt tokens of each region.
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
    """Run one of SAM's attentions, projecting once what all regions share."""
    q, k, v = (
        projection(x).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
        for projection, x in ((module.q_proj, q), (module.k_proj, k), (module.v_proj, v))
    )
    # Not len(): it would fix the number of regions of an exported program.
    if k.shape[0] == 1 < q.shape[0]:
        # All regions look at the same image: their queries are one long list of queries.
        num_regions, _, num_tokens, _ = q.shape
        rows = q.transpose(0, 1).flatten(1, 2)[None]
        out = F.scaled_dot_product_attention(rows, k, v)[0]
        attended = out.unflatten(1, (num_regions, num_tokens)).transpose(0, 1)
    else:
        attended = F.scaled_dot_product_attention(q.expand(k.shape[0], -1, -1, -1), k, v)
    return torch.as_tensor(module.out_proj(attended.transpose(1, 2).flatten(2)))


def corner_tokens(sparse_RKS: Tensor) -> Tensor:
    """Put the two embeddings of each prompt side by side, (R, 2 S).

    K is 2 for a box (its corners) and for one point (itself and its padding).
    """
    if sparse_RKS.shape[1] != 2:
        raise ShapeError(
            f"these prompts embed to {sparse_RKS.shape[1]} vectors a region, but the token site"
            " prompt_encoder is the 2 corners of a box (or 1 point and its padding). Prompt with"
            " boxes, or take the token site transformer (option models.token_site)."
        )
    return sparse_RKS.flatten(1)


def decode_tokens(
    sam: "Sam", image_embedding: Tensor, prompts: SamPrompts, *, site: TokenSite
) -> tuple[Tensor, Tensor]:
    """Return the position token of every prompted region, and the predicted IoU of its mask.

    A prompt's embeddings are joined to SAM's learned output tokens and attend to the image in SAM's
    two-way transformer. The first *mask* token that comes out, which SAM itself would decode into
    its single-mask answer, says where the region is and how far it reaches; it is the query of the
    fusion head (Yang et al., "Recognize Any Regions", arXiv:2311.01373, Sec. 3.2). No mask is
    upscaled.

    Args:
        sam: A frozen SAM in eval mode.
        image_embedding: One image's embedding, (1, S, H, W).
        prompts: The regions, which are decoded all at once.
        site: Where the token is read: "transformer" as above; "prompt_encoder", the two embedded
            corners side by side, before SAM has looked at the image; "mlp", the token after the
            hypernetwork that turns it into a mask filter.

    Returns:
        Tokens, (R, S), (R, 2 S) or (R, S / 8) by site; and the IoU that SAM predicts for its
        single-mask answer, (R,), at every site that of the transformer.
    """
    _check_embedding(sam, image_embedding)
    decoded_RTS = _decode(sam, image_embedding, prompts)
    ious_RM: Tensor = sam.mask_decoder.iou_prediction_head(decoded_RTS[:, _IOU_TOKEN])
    tokens_RS = decoded_RTS[:, _MASK_TOKEN]
    if site == "prompt_encoder":
        tokens_RS = corner_tokens(_embed_prompts(sam, prompts)[0])
    elif site == "mlp":
        tokens_RS = sam.mask_decoder.output_hypernetworks_mlps[0](tokens_RS)
    return tokens_RS, ious_RM[:, 0]


def decode_masks(
    sam: "Sam", image_embedding: Tensor, prompts: SamPrompts, *, several: bool
) -> tuple[Tensor, Tensor]:
    """Return mask logits and predicted IoUs; arguments as in `Localizer.decode_masks`.

    Returns:
        Mask logits over SAM's padded frame, (R, M, 4 H, 4 W), and the IoU that SAM predicts for
        each mask, (R, M); M is 1, or with ``several`` 3 for the released models.
    """
    _check_embedding(sam, image_embedding)
    sparse_RKS, dense_RSHW = _embed_prompts(sam, prompts)
    decoded: tuple[Tensor, Tensor] = sam.mask_decoder(
        image_embeddings=image_embedding,
        image_pe=_position_code(sam),
        sparse_prompt_embeddings=sparse_RKS,
        dense_prompt_embeddings=dense_RSHW,
        multimask_output=several,
    )
    return decoded


def _decode(sam: "Sam", image_embedding: Tensor, prompts: SamPrompts) -> Tensor:
    """Run the two-way transformer alone, without upscaling masks; return its tokens, (R, T, S)."""
    decoder = sam.mask_decoder
    sparse_RKS, dense_RSHW = _embed_prompts(sam, prompts)
    learned_TS = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    queries_RTS = torch.cat([learned_TS.expand(sparse_RKS.shape[0], -1, -1), sparse_RKS], dim=1)
    if prompts.mask_logits is None:
        dense_RSHW = dense_RSHW[:1]  # "no mask" is embedded alike for every region
    return attend_two_way(
        decoder.transformer, image_embedding + dense_RSHW, _position_code(sam), queries_RTS
    )


def _embed_prompts(sam: "Sam", prompts: SamPrompts) -> tuple[Tensor, Tensor]:
    points = None
    if prompts.points_xy_sam is not None:
        points = (prompts.points_xy_sam, prompts.point_labels)
    with without_autocast(sam.device):  # in bfloat16 a box would be off by pixels
        embedded: tuple[Tensor, Tensor] = sam.prompt_encoder(
            points=points, boxes=prompts.boxes_xyxy_sam, masks=prompts.mask_logits
        )
    return embedded


def _position_code(sam: "Sam") -> Tensor:
    with without_autocast(sam.device):
        position_1SHW: Tensor = sam.prompt_encoder.get_dense_pe()
    return position_1SHW


def _check_embedding(sam: "Sam", image_embedding: Tensor) -> None:
    wanted = (1, sam.mask_decoder.transformer_dim, *sam.prompt_encoder.image_embedding_size)
    if tuple(image_embedding.shape) != wanted:
        raise ShapeError(
            f"the image embedding has shape {tuple(image_embedding.shape)}; wanted {wanted}: one"
            " image at a time, as this SAM embeds it. Of a batch take embedding[i : i + 1]."
        )
