"""Position tokens straight from a SAM and boxes in its frame (Sec. 3.2 of the paper).

Shape letters: R regions, S SAM's width.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from regionspot.backbones.presets import TokenSite
from regionspot.backbones.prompts import SamPrompts, decode_tokens, token_dim
from regionspot.core.errors import ShapeError

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

__all__ = ["position_tokens", "token_dim"]

_TOLERANCE_PX = 1.0
"""Rounding may carry a box over the frame's border, but not by more than this."""


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
    boxes_R4 = _checked(boxes_xyxy_sam, frame_px=sam.image_encoder.img_size)
    prompts = SamPrompts(boxes_xyxy_sam=boxes_R4.to(image_embedding.device))
    return decode_tokens(sam, image_embedding, prompts, site=site, chunk_size=chunk_size)


def _checked(boxes_xyxy_sam: Tensor, *, frame_px: int) -> Tensor:
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
