"""What SAM is prompted with, in SAM's own frame.

Shape letters: R regions, K points a region, H W the grid of the image embedding.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from regionspot.core.errors import ShapeError

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


def _rows(prompt: Tensor | None, rows: slice) -> Tensor | None:
    return None if prompt is None else prompt[rows]
