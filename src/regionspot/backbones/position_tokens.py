"""Position tokens straight from a SAM and boxes in its frame (Sec. 3.2 of the paper).

Shape letters: R regions, S SAM's width.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from regionspot.backbones.presets import TokenSite
from regionspot.backbones.prompts import (
    SamPrompts,
    check_boxes_sam,
    decode_tokens,
    token_dim,
)

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

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
