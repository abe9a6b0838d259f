"""Masks as prompts: their extents as boxes, and their shapes as the logits that SAM takes."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from regionspot.backbones.device import to_device
from regionspot.core.errors import ShapeError
from regionspot.core.geometry import FloatArray

# SAM takes logits of its own as mask prompts. A mask that is sure of itself becomes the logit of a
# probability this far from 0 and 1, about 7, which is of the size that SAM's own logits have.
_MARGIN = 1e-3


def mask_size_hw(masks: NDArray[np.bool_]) -> tuple[int, int]:
    """Return the height and width of masks, (R, H, W) bool.

    Raises:
        ShapeError: The masks are not (R, H, W) bool.
    """
    if masks.ndim != 3 or masks.dtype != np.bool_:
        raise ShapeError(
            f"masks have shape {masks.shape} and dtype {masks.dtype}; wanted (R, H, W) bool."
        )
    return masks.shape[1], masks.shape[2]


def mask_extents(masks: NDArray[np.bool_]) -> FloatArray:
    """Return the boxes, (R, 4) float32, that masks (R, H, W) bool fill from edge to edge.

    Raises:
        ShapeError: The masks are not (R, H, W) bool, or one is empty.
    """
    mask_size_hw(masks)
    columns: NDArray[np.bool_] = np.any(masks, axis=1)
    rows: NDArray[np.bool_] = np.any(masks, axis=2)
    empty = np.flatnonzero(~np.any(rows, axis=1))
    if len(empty):
        raise ShapeError(f"mask {empty[0]} is empty: leave the region out, or mark its pixels.")
    (x1, x2), (y1, y2) = _spans(columns), _spans(rows)
    return np.stack([x1, y1, x2, y2], axis=1).astype(np.float32)


def mask_logits(
    masks: NDArray[np.bool_],
    *,
    resized_hw: tuple[int, int],
    frame_px: int,
    grid_hw: tuple[int, int],
    device: torch.device,
) -> Tensor:
    """Carry masks to SAM's padded frame, as logits on the grid that SAM takes mask prompts on.

    Args:
        masks: (R, H, W) bool, at the original image's size.
        resized_hw: Height and width of the image in SAM's frame, without the padding.
        frame_px: Side of SAM's frame in pixels.
        grid_hw: Rows and columns of SAM's mask input.
        device: Where the work is done.

    Returns:
        (R, 1, *grid_hw) float32: the logit of the share of each cell that the mask covers.
    """
    if len(masks) == 0:
        return torch.zeros(0, 1, *grid_hw, device=device)
    height, width = resized_hw
    shares = []
    for mask in masks:  # one by one: in float32 each takes four times its bytes
        mask_11HW = to_device(torch.from_numpy(mask), device).float()[None, None]
        resized = F.interpolate(mask_11HW, (height, width), mode="bilinear", antialias=True)
        padded = F.pad(resized, (0, frame_px - width, 0, frame_px - height))
        shares.append(F.adaptive_avg_pool2d(padded, grid_hw))
    return torch.logit(torch.cat(shares), eps=_MARGIN)


def _spans(hits: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first hit of each row of (R, N), and one past its last."""
    return hits.argmax(axis=1), hits.shape[1] - hits[:, ::-1].argmax(axis=1)
