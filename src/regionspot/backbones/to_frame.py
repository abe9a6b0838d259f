"""Prompts in pixels of the original image, checked and mapped to a localizer's frame.

The frame is a localizer's square input, with the image in its top left corner. A mask becomes a
box (its extent), logits on the grid that SAM takes (its shape), or both.

Shape letters: R regions, K points a region, H W the original image or a grid.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from regionspot.backbones.execution import to_device
from regionspot.core.errors import ShapeError
from regionspot.core.geometry import (
    FloatArray,
    check_corners,
    clip_boxes_xyxy,
    format_numbers,
    resize_boxes_xyxy,
    resize_points_xy,
)

MaskForm = Literal["box", "box_and_mask", "mask"]
"""The form in which a mask prompts SAM: its extent, extent and shape, or the shape alone."""

# SAM takes its own logits as mask prompts. A cell that a mask covers wholly, or not at all, gets
# the logit of a probability this far from 1 or 0: about 7 in magnitude, like SAM's own logits.
_MARGIN = 1e-3

_TOLERANCE_PX = 1.0
"""Rounding may move a box over an edge by up to this much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Where an image lies in a localizer's square input: in its top left corner."""

    size_hw: tuple[int, int]
    """Height and width of the original image in pixels."""
    resized_hw: tuple[int, int]
    """Height and width that it takes up in the frame; the rest of the frame is padding."""
    side_px: int
    """Side of the frame in pixels."""
    device: torch.device
    """Device of the localizer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamPrompts:
    """Prompts of R regions: boxes, points, masks, or several of them for the same regions."""

    boxes_xyxy_sam: Tensor | None = None
    """Boxes, (R, 4), pixels of SAM's frame."""
    points_xy_sam: Tensor | None = None
    """Points, (R, K, 2), pixels of SAM's frame."""
    point_labels: Tensor | None = None
    """Label of each point, (R, K): 1 in the region, 0 not in it, -1 padding."""
    mask_logits: Tensor | None = None
    """Masks as logits, (R, 1, 4 H, 4 W), over SAM's whole padded frame."""

    def __len__(self) -> int:
        return max(map(len, self._given().values()), default=0)

    def split(self, chunk_size: int) -> Iterator[Self]:
        """Yield the prompts of at most ``chunk_size`` regions at a time."""
        for start in range(0, len(self), chunk_size):
            rows = slice(start, start + chunk_size)
            yield replace(self, **{name: prompt[rows] for name, prompt in self._given().items()})

    def _given(self) -> dict[str, Tensor]:
        prompts = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: prompt for name, prompt in prompts.items() if prompt is not None}


def box_prompts(boxes_xyxy: FloatArray, frame: Frame) -> SamPrompts:
    """Check boxes, (R, 4) in pixels of the original image, and map them to the frame."""
    boxes = check_corners(boxes_xyxy)
    height, width = frame.size_hw
    inside = clip_boxes_xyxy(boxes, frame.size_hw)
    if (np.abs(inside - boxes) > _TOLERANCE_PX).any():
        row = int((np.abs(inside - boxes) > _TOLERANCE_PX).any(axis=1).argmax())
        raise ShapeError(
            f"box {row} {format_numbers(boxes[row])} reaches outside the image of {width} x"
            f" {height} pixels (width x height); wanted (x1, y1, x2, y2) in pixels of the original"
            " image. Cut boxes with regionspot.core.geometry.clip_boxes_xyxy."
        )
    boxes_sam = torch.from_numpy(resize_boxes_xyxy(inside, frame.size_hw, frame.resized_hw))
    return SamPrompts(boxes_xyxy_sam=to_device(boxes_sam, frame.device))


def point_prompts(
    points_xy: FloatArray, point_labels: NDArray[np.int64], frame: Frame
) -> SamPrompts:
    """Check points, (R, K, 2), and their labels, (R, K), and map them to the frame."""
    points = np.asarray(points_xy, np.float32)
    labels = np.asarray(point_labels)
    if points.ndim != 3 or points.shape[2] != 2 or labels.shape != points.shape[:2]:
        raise ShapeError(
            f"points have shape {points.shape} and their labels {labels.shape}; wanted"
            " (R, K, 2) and (R, K)."
        )
    height, width = frame.size_hw
    outside = ~((points >= 0) & (points <= (width, height))).all(axis=-1) & (labels != -1)
    if outside.any():
        raise ShapeError(
            f"point {format_numbers(points[outside][0])} lies outside the image of {width} x"
            f" {height} pixels (width x height); wanted (x, y) in pixels of the original image."
        )
    points_sam = resize_points_xy(points, frame.size_hw, frame.resized_hw)
    return SamPrompts(
        points_xy_sam=to_device(torch.from_numpy(points_sam), frame.device),
        point_labels=to_device(torch.from_numpy(labels.astype(np.int64)), frame.device),
    )


def mask_prompts(
    masks: NDArray[np.bool_], form: MaskForm, frame: Frame, *, grid_hw: tuple[int, int]
) -> SamPrompts:
    """Check masks, (R, H, W) bool, and map them to the frame; shapes to SAM's mask grid."""
    if _mask_size_hw(masks) != frame.size_hw:
        raise ShapeError(
            f"masks have shape {masks.shape}; wanted (R, {frame.size_hw[0]}, {frame.size_hw[1]}):"
            " masks of the original image's height and width."
        )
    boxes = box_prompts(mask_extents(masks), frame)
    if form == "box":
        return boxes
    shapes = mask_logits(masks, frame, grid_hw=grid_hw)
    if form == "mask":
        return SamPrompts(mask_logits=shapes)
    return replace(boxes, mask_logits=shapes)


def mask_extents(masks: NDArray[np.bool_]) -> FloatArray:
    """Return the tight boxes, (R, 4) float32, around masks, (R, H, W) bool.

    Raises:
        ShapeError: The masks are not (R, H, W) bool, or one is empty.
    """
    _mask_size_hw(masks)
    columns: NDArray[np.bool_] = np.any(masks, axis=1)
    rows: NDArray[np.bool_] = np.any(masks, axis=2)
    empty = np.flatnonzero(~np.any(rows, axis=1))
    if len(empty):
        raise ShapeError(f"mask {empty[0]} is empty: leave the region out, or mark its pixels.")
    (x1, x2), (y1, y2) = _spans(columns), _spans(rows)
    return np.stack([x1, y1, x2, y2], axis=1).astype(np.float32)


def mask_logits(masks: NDArray[np.bool_], frame: Frame, *, grid_hw: tuple[int, int]) -> Tensor:
    """Map masks, (R, H, W) bool, to the frame, as logits on the grid of SAM's mask prompts.

    Returns:
        (R, 1, *grid_hw) float32: the logit of the share of each cell that the mask covers.
    """
    shares = [torch.zeros(0, 1, *grid_hw, device=frame.device)]
    height, width = frame.resized_hw
    for mask in masks:  # one at a time: float32 takes four times the memory
        mask_11HW = to_device(torch.from_numpy(mask), frame.device).float()[None, None]
        resized = F.interpolate(mask_11HW, (height, width), mode="bilinear", antialias=True)
        padded = F.pad(resized, (0, frame.side_px - width, 0, frame.side_px - height))
        shares.append(F.adaptive_avg_pool2d(padded, grid_hw))
    return torch.logit(torch.cat(shares), eps=_MARGIN)


def _mask_size_hw(masks: NDArray[np.bool_]) -> tuple[int, int]:
    """Return the height and width of masks, (R, H, W) bool."""
    if masks.ndim != 3 or masks.dtype != np.bool_:
        raise ShapeError(
            f"masks have shape {masks.shape} and dtype {masks.dtype}; wanted (R, H, W) bool."
        )
    return masks.shape[1], masks.shape[2]


def _spans(hits: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first hit of each row of (R, N), and one past its last."""
    return hits.argmax(axis=1), hits.shape[1] - hits[:, ::-1].argmax(axis=1)
