"""SAM 2's mask decoder: prompts to position tokens and masks, with the modules of ``transformers``.

Shape letters: B images, R regions, K vectors a prompt, T tokens, M masks a region, S SAM 2's width,
H W the grid of the image embedding. Regions take the place of images in SAM 2's own batches, with
one prompt each, so that every region may have a mask of its own as its prompt.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from regionspot.backbones.execution import without_autocast
from regionspot.backbones.presets import TokenSite
from regionspot.backbones.sam_decoder import corner_tokens
from regionspot.backbones.to_frame import SamPrompts
from regionspot.core.errors import ShapeError

if TYPE_CHECKING:
    from transformers import Sam2Model

_IOU_TOKEN, _MASK_TOKEN = 1, 2
"""Among the decoder's output tokens 0 says whether there is an object and 1 rates the masks; 2 is
the single-mask answer."""


def fold_levels(levels: Sequence[Tensor]) -> Tensor:
    """Fold the feature maps of images into one tensor, which can be split by image like any batch.

    Args:
        levels: As ``Sam2Model.get_image_embeddings`` gives them, finest first:
            (B, S / 8, 4 H, 4 W), (B, S / 4, 2 H, 2 W) and the embedding, (B, S, H, W).

    Returns:
        (B, 4 S, H, W): the embedding, then the finer levels with each square of pixels moved to
        channels. The values are unchanged.
    """
    finest, finer, embedding = levels
    folded = [embedding, F.pixel_unshuffle(finer, 2), F.pixel_unshuffle(finest, 4)]
    return torch.cat(folded, dim=1)


def decode_tokens(
    sam2: "Sam2Model", folded: Tensor, prompts: SamPrompts, *, site: TokenSite
) -> tuple[Tensor, Tensor]:
    """Return position tokens and predicted IoUs, as `sam_decoder.decode_tokens` does.

    The IoU is that of mask token 0, which is the position token; see `decode_masks`.

    Args:
        sam2: A frozen SAM 2 in eval mode.
        folded: One image's feature maps, (1, 4 S, H, W), from `fold_levels`.
        prompts: The regions, which are decoded all at once.
        site: Where the token is read.
    """
    _check_folded(sam2, folded)
    embedding_1SHW = folded[:, : sam2.mask_decoder.hidden_size]
    decoded_RTS = _decode(sam2, embedding_1SHW, prompts)
    ious_RM: Tensor = sam2.mask_decoder.iou_prediction_head(decoded_RTS[:, _IOU_TOKEN])
    tokens_RS = decoded_RTS[:, _MASK_TOKEN]
    if site == "prompt_encoder":
        tokens_RS = _embedded_corners(sam2, prompts)
    elif site == "mlp":
        tokens_RS = sam2.mask_decoder.output_hypernetworks_mlps[0](tokens_RS)
    return tokens_RS, ious_RM[:, 0]


def decode_masks(
    sam2: "Sam2Model", folded: Tensor, prompts: SamPrompts, *, several: bool
) -> tuple[Tensor, Tensor]:
    """Return mask logits and predicted IoUs; arguments as in `Localizer.decode_masks`.

    The single answer is SAM 2's own: the mask of mask token 0, or, where that mask is not stable,
    the one of the other masks that SAM 2 rates highest. (The position token is always that of mask
    token 0.)

    Returns:
        Mask logits over the squashed image, (R, M, 4 H, 4 W), and the IoU that SAM 2 predicts for
        each mask, (R, M); M is 1, or with ``several`` 3 for the released models.
    """
    _check_folded(sam2, folded)
    width = sam2.mask_decoder.hidden_size
    embedding_1SHW, finer, finest = folded.split([width, width, 2 * width], dim=1)
    sparse_R1KS, dense_RSHW = _embed_prompts(sam2, prompts)
    logits_R1MHW, ious_R1M, _, _ = sam2.mask_decoder(
        image_embeddings=embedding_1SHW.expand(len(sparse_R1KS), -1, -1, -1),
        image_positional_embeddings=_position_code(sam2),
        sparse_prompt_embeddings=sparse_R1KS,
        dense_prompt_embeddings=dense_RSHW,
        multimask_output=several,
        high_resolution_features=[F.pixel_shuffle(finest, 4), F.pixel_shuffle(finer, 2)],
    )
    return logits_R1MHW[:, 0], ious_R1M[:, 0]


def _decode(sam2: "Sam2Model", image_embedding: Tensor, prompts: SamPrompts) -> Tensor:
    """Run the two-way transformer alone, and return its output tokens, (R, T, S)."""
    decoder = sam2.mask_decoder
    sparse_R1KS, dense_RSHW = _embed_prompts(sam2, prompts)
    learned_TS = torch.cat(
        [decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight]
    )
    learned_R1TS = learned_TS.expand(len(sparse_R1KS), 1, -1, -1)
    decoded_R1TS, _ = decoder.transformer(
        point_embeddings=torch.cat([learned_R1TS, sparse_R1KS], dim=2),
        image_embeddings=image_embedding + dense_RSHW,
        image_positional_embeddings=_position_code(sam2),
        attention_similarity=None,
    )
    return decoded_R1TS[:, 0]


def _embedded_corners(sam2: "Sam2Model", prompts: SamPrompts) -> Tensor:
    sparse_RKS = _embed_prompts(sam2, prompts)[0][:, 0]
    if prompts.boxes_xyxy_sam is not None and prompts.points_xy_sam is None:
        sparse_RKS = sparse_RKS[:, :-1]  # the last is padding, the same for every box
    elif prompts.points_xy_sam is None:
        sparse_RKS = sparse_RKS[:, :0]  # nothing but padding
    return corner_tokens(sparse_RKS)


def _embed_prompts(sam2: "Sam2Model", prompts: SamPrompts) -> tuple[Tensor, Tensor]:
    """Embed prompts as ``Sam2Model`` does, to (R, 1, K, S) and (R, S, H, W)."""
    points, labels, boxes = prompts.points_xy_sam, prompts.point_labels, prompts.boxes_xyxy_sam
    if points is None and boxes is None and prompts.mask_logits is not None:
        # Without points and boxes, SAM 2 expects one point of padding.
        num_regions, device = len(prompts.mask_logits), prompts.mask_logits.device
        points = torch.zeros(num_regions, 1, 2, device=device)
        labels = torch.full((num_regions, 1), -1, device=device)
    with without_autocast(sam2.device):  # in bfloat16 a box would be off by pixels
        embedded: tuple[Tensor, Tensor] = sam2.prompt_encoder(
            input_points=None if points is None else points[:, None],
            input_labels=None if labels is None else labels[:, None],
            input_boxes=None if boxes is None else boxes[:, None],
            input_masks=prompts.mask_logits,
        )
    return embedded


def _position_code(sam2: "Sam2Model") -> Tensor:
    with without_autocast(sam2.device):
        return sam2.get_image_wide_positional_embeddings()


def _check_folded(sam2: "Sam2Model", folded: Tensor) -> None:
    wanted = (1, 4 * sam2.mask_decoder.hidden_size, *sam2.prompt_encoder.image_embedding_size)
    if tuple(folded.shape) != wanted:
        raise ShapeError(
            f"the image embedding has shape {tuple(folded.shape)}; wanted {wanted}: one image at a"
            " time, as this SAM 2 embeds it. Of a batch take embedding[i : i + 1]."
        )
