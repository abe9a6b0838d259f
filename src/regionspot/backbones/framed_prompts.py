"""Prompts in pixels of the original image, checked and brought to a localizer's frame.

Shape letters: R regions, K points a region, H W the original image.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from regionspot.backbones.device import to_device
from regionspot.backbones.mask_prompts import mask_extents, mask_logits
from regionspot.backbones.prompts import SamPrompts, check_boxes_sam
from regionspot.core.errors import ShapeError
from regionspot.core.geometry import (
    FloatArray,
    check_corners,
    clip_boxes_xyxy,
    format_numbers,
    resize_boxes_xyxy,
    resize_points_xy,
)

MaskPrompt = Literal["box", "box_and_mask", "mask"]
"""How a mask is put to SAM: by its extent, by extent and shape, or by its shape alone."""

_TOLERANCE_PX = 1.0


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
    """Where the localizer is."""


def box_prompts(boxes_xyxy: FloatArray, frame: Frame) -> SamPrompts:
    """Bring boxes to the frame.

    Args:
        boxes_xyxy: Boxes, (R, 4), pixels of the original image. They may overshoot the image by a
            pixel, as rounding makes them, and are cut there.
        frame: Where the image lies.

    Raises:
        ShapeError: The boxes are not (R, 4), end before they start, or reach outside the image.
    """
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
    checked = check_boxes_sam(boxes_sam, frame_px=frame.side_px)
    return SamPrompts(boxes_xyxy_sam=to_device(checked, frame.device))


def point_prompts(
    points_xy: FloatArray, point_labels: NDArray[np.int64], frame: Frame
) -> SamPrompts:
    """Bring points to the frame.

    Args:
        points_xy: Points, (R, K, 2), pixels of the original image.
        point_labels: What each point says, (R, K): 1 in the region, 0 not in it, -1 padding.
        frame: Where the image lies.

    Raises:
        ShapeError: The shapes do not correspond, or a point that is not padding lies outside the
            image.
    """
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
    masks: NDArray[np.bool_], prompt: MaskPrompt, frame: Frame, *, grid_hw: tuple[int, int]
) -> SamPrompts:
    """Bring masks to the frame.

    Args:
        masks: Masks of the original image's size, (R, H, W) bool, none of them empty.
        prompt: Whether the extent, the shape or both are the prompt.
        frame: Where the image lies.
        grid_hw: Rows and columns of the grid on which the localizer takes shapes.

    Raises:
        ShapeError: The masks are not (R, H, W) bool, or one is empty.
    """
    extents = mask_extents(masks)
    if prompt == "box":
        return box_prompts(extents, frame)
    shapes = mask_logits(
        masks,
        resized_hw=frame.resized_hw,
        frame_px=frame.side_px,
        grid_hw=grid_hw,
        device=frame.device,
    )
    if prompt == "mask":
        return SamPrompts(mask_logits=shapes)
    boxes_sam = box_prompts(extents, frame).boxes_xyxy_sam
    return SamPrompts(boxes_xyxy_sam=boxes_sam, mask_logits=shapes)
