"""What SAM is prompted with, in SAM's own frame, and what its mask decoder makes of it.

Shape letters: R regions, K points a region, S SAM's width, H W the grid of the image embedding.
Everything here composes the modules of ``segment_anything``; nothing of them is copied.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from regionspot.backbones.execution import without_autocast
from regionspot.backbones.presets import TokenSite
from regionspot.backbones.sam_decoder import attend_two_way
from regionspot.core.errors import ShapeError

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

_MASK_TOKEN = 1
"""Among the decoder's output tokens 0 rates the masks; 1 is the single-mask answer."""
_TOLERANCE_PX = 1.0
"""Rounding may carry a box over the frame's border, but not by more than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamPrompts:
    """Prompts of R regions: boxes, points, masks, or several of them for the same regions."""

    boxes_xyxy_sam: Tensor | None = None
    """Boxes, (R, 4), pixels of SAM's frame."""
    points_xy_sam: Tensor | None = None
    """Points, (R, K, 2), pixels of SAM's frame."""
    point_labels: Tensor | None = None
    """What each point says, (R, K): 1 in the region, 0 not in it, -1 padding."""
    mask_logits: Tensor | None = None
    """Masks as logits, (R, 1, 4 H, 4 W), over SAM's whole padded frame."""

    def __len__(self) -> int:
        for prompt in (self.boxes_xyxy_sam, self.points_xy_sam, self.mask_logits):
            if prompt is not None:
                return len(prompt)
        return 0

    def split(self, chunk_size: int) -> Iterator[Self]:
        """Walk over the regions, at most ``chunk_size`` at once."""
        for start in range(0, len(self), chunk_size):
            rows = slice(start, start + chunk_size)
            yield type(self)(
                boxes_xyxy_sam=_rows(self.boxes_xyxy_sam, rows),
                points_xy_sam=_rows(self.points_xy_sam, rows),
                point_labels=_rows(self.point_labels, rows),
                mask_logits=_rows(self.mask_logits, rows),
            )


def check_boxes_sam(boxes_xyxy_sam: Tensor, *, frame_px: int) -> Tensor:
    """Return boxes as float32 after checking that they are boxes in SAM's frame.

    Args:
        boxes_xyxy_sam: Boxes, (R, 4), pixels of SAM's frame.
        frame_px: Side of SAM's frame in pixels.

    Raises:
        ShapeError: They are not (R, 4), end before they start, or reach outside the frame.
    """
    if boxes_xyxy_sam.ndim != 2 or boxes_xyxy_sam.shape[1] != 4:
        raise ShapeError(
            f"boxes_xyxy_sam has shape {tuple(boxes_xyxy_sam.shape)}; wanted (R, 4), one row"
            " (x1, y1, x2, y2) a region."
        )
    boxes_R4 = boxes_xyxy_sam.float()
    if len(boxes_R4) == 0:
        return boxes_R4
    low, high = boxes_R4.min().item(), boxes_R4.max().item()
    # Written so that NaN, which compares false with everything, is refused as well.
    if not (low >= -_TOLERANCE_PX and high <= frame_px + _TOLERANCE_PX):
        worst = low if not low >= -_TOLERANCE_PX else high
        raise ShapeError(
            f"a box reaches {worst:g} px, but SAM's frame ends at 0 and {frame_px} px: these boxes"
            " are probably still in pixels of the original image. Map them with"
            " regionspot.core.geometry.to_sam_frame(boxes_xyxy, size_hw, long_side)."
        )
    inverted = (boxes_R4[:, 2:] < boxes_R4[:, :2]).any(dim=1)
    if inverted.any():
        row = int(inverted.nonzero()[0])
        raise ShapeError(
            f"box {row} {boxes_R4[row].tolist()} ends before it starts; wanted (x1, y1, x2, y2), as"
            " regionspot.core.geometry.xywh_to_xyxy makes it."
        )
    return boxes_R4


def token_dim(sam: "Sam", site: TokenSite) -> int:
    """Return the width of the position tokens that SAM gives at a site.

    Args:
        sam: Any SAM.
        site: "prompt_encoder" (two corners: 512 for released models), "transformer" (256) or "mlp"
            (32).
    """
    return site_width(sam.mask_decoder.transformer_dim, site)


def site_width(width: int, site: TokenSite) -> int:
    """Return the width of the position tokens that a SAM or SAM 2 of width S gives at a site."""
    return {"prompt_encoder": 2 * width, "transformer": width, "mlp": width // 8}[site]


def corner_tokens(sparse_RKS: Tensor) -> Tensor:
    """Put the two embeddings of each prompt side by side, (R, 2 S).

    Args:
        sparse_RKS: The embedded prompts; K is 2 for a box (its corners) or a point (itself and its
            padding).

    Raises:
        ShapeError: K is not 2.
    """
    if sparse_RKS.shape[1] != 2:
        raise ShapeError(
            f"these prompts embed to {sparse_RKS.shape[1]} vectors a region, but the token site"
            " prompt_encoder is the 2 corners of a box (or 1 point and its padding). Prompt with"
            " boxes, or take the token site transformer (option models.token_site)."
        )
    return sparse_RKS.flatten(1)


def decode_tokens(
    sam: "Sam", image_embedding: Tensor, prompts: SamPrompts, *, site: TokenSite, chunk_size: int
) -> Tensor:
    """Return the position token of every prompted region, (R, `token_dim`).

    Args:
        sam: A frozen SAM in eval mode.
        image_embedding: One image's embedding, (1, S, H, W).
        prompts: The regions.
        site: Where the token is read.
        chunk_size: Regions decoded at once.

    Raises:
        ShapeError: The embedding is not one image's, or a site that reads the embedded corners is
            asked for prompts that are not two embeddings wide.
    """
    _check_embedding(sam, image_embedding)
    if site == "prompt_encoder":
        tokens = [
            corner_tokens(_embed_prompts(sam, chunk)[0]) for chunk in prompts.split(chunk_size)
        ]
    else:
        tokens = [
            _decode(sam, image_embedding, chunk)[:, _MASK_TOKEN]
            for chunk in prompts.split(chunk_size)
        ]
        if site == "mlp":
            hypernetwork = sam.mask_decoder.output_hypernetworks_mlps[0]
            tokens = [hypernetwork(tokens_RS) for tokens_RS in tokens]
    if not tokens:
        return image_embedding.new_zeros(0, token_dim(sam, site))
    return torch.cat(tokens)


def decode_masks(
    sam: "Sam", image_embedding: Tensor, prompts: SamPrompts, *, several: bool
) -> tuple[Tensor, Tensor]:
    """Return SAM's answers as masks.

    Args:
        sam: A frozen SAM in eval mode.
        image_embedding: One image's embedding, (1, S, H, W).
        prompts: The regions, which are decoded all at once.
        several: Whether prompts may mean a part, a thing or a group, and an answer to each is
            wanted, instead of the single-mask answer.

    Returns:
        Mask logits over SAM's padded frame, (R, M, 4 H, 4 W), and the IoU that SAM predicts for
        each mask, (R, M); M is 1, or with ``several`` 3 for the released models.

    Raises:
        ShapeError: The embedding is not one image's.
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
    """Run the two-way transformer alone; the masks that SAM would go on to upscale are not made."""
    decoder = sam.mask_decoder
    sparse_RKS, dense_RSHW = _embed_prompts(sam, prompts)
    learned_TS = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    queries_RTS = torch.cat([learned_TS.expand(len(sparse_RKS), -1, -1), sparse_RKS], dim=1)
    if prompts.mask_logits is None:
        dense_RSHW = dense_RSHW[:1]  # then it says that there is no mask, to every region the same
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


def _rows(prompt: Tensor | None, rows: slice) -> Tensor | None:
    return None if prompt is None else prompt[rows]
