"""Position tokens and masks of an image's regions, for caching and recognition.

Regions are given by boxes, points or masks, in pixels of the original image, or are proposed by SAM
on a grid of points. The kinds of prompts are told apart in this file only.

Shape letters: R regions, K points a region, S width of the tokens, H W the original image.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regionspot.backbones.decoded_masks import DecodedMasks
from regionspot.backbones.localizer import Localizer
from regionspot.backbones.sam_grid import GridProposer
from regionspot.backbones.to_frame import (
    MaskForm,
    SamPrompts,
    box_prompts,
    mask_extents,
    mask_prompts,
    point_prompts,
)
from regionspot.core.geometry import FloatArray, clip_boxes_xyxy

_MASK_CHUNK = 16
"""Regions whose masks are decoded at once, at about 30 MiB each with a released SAM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxPrompts:
    """Regions given by boxes."""

    boxes_xyxy: FloatArray
    """Boxes, (R, 4), pixels of the original image. Boxes that extend beyond it by up to a pixel, as
    a result of rounding, are clipped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PointPrompts:
    """Regions given by one or more points each."""

    points_xy: FloatArray
    """Points, (R, K, 2), pixels of the original image."""
    point_labels: NDArray[np.int64]
    """Label of each point, (R, K): 1 in the region, 0 not in it, -1 padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskPrompts:
    """Regions given by masks."""

    masks: NDArray[np.bool_]
    """Masks at the original image's size, (R, H, W), none of them empty."""
    form: MaskForm = "box"
    """The form in which SAM is prompted. "box" is the mask's extent: the kind of token that heads
    are usually trained on. "box_and_mask" adds the shape, as in SAM's own refinement steps; "mask"
    is the shape alone. Both need a SAM that was trained with mask prompts, unlike the tiny one."""


RegionPrompts = BoxPrompts | PointPrompts | MaskPrompts
"""Regions of an image that are given."""

Prompts = RegionPrompts | GridProposer
"""Regions of an image, given or proposed by SAM from a grid of points."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocatedRegions:
    """The regions of one image with their tokens; row ``i`` of everything is region ``i``."""

    tokens: Tensor
    """Position tokens, (R, S), on the localizer's device."""
    predicted_iou: Tensor
    """The IoU that SAM predicts for its mask of each region, (R,), on the localizer's device."""
    boxes_xyxy: FloatArray
    """Boxes, (R, 4), pixels of the original image."""
    box_scores: FloatArray | None = None
    """Scores of the boxes, (R,), if SAM proposed them; else None."""
    masks: NDArray[np.bool_] | DecodedMasks | None = None
    """Masks, (R, H, W), if requested: those given, or SAM's, computed on access."""


def locate_regions(
    localizer: Localizer,
    image_embedding: Tensor,
    prompts: Prompts,
    size_hw: tuple[int, int],
    *,
    with_masks: bool = False,
) -> LocatedRegions:
    """Return the regions of one image with their position tokens and boxes.

    Args:
        localizer: The frozen SAM.
        image_embedding: One image's embedding, as ``localizer.embed`` gives it.
        prompts: The regions, or the grid that SAM proposes them from.
        size_hw: Height and width of the original image in pixels.
        with_masks: Whether to return masks. Given masks are returned unchanged.

    Returns:
        The regions in the order of the prompts, or those of a grid best first. The box of a point
        prompt is the extent of SAM's mask, or of the points if that mask is empty; the box of a
        mask prompt is the extent of the mask.

    Raises:
        ShapeError: As `rated_tokens`.
    """
    if isinstance(prompts, GridProposer):
        found = prompts.propose(localizer, image_embedding, size_hw)
        given = BoxPrompts(boxes_xyxy=found.boxes_xyxy)
        located = locate_regions(localizer, image_embedding, given, size_hw, with_masks=with_masks)
        return replace(located, box_scores=found.box_scores)
    tokens, ious = rated_tokens(localizer, image_embedding, prompts, size_hw)
    masks: NDArray[np.bool_] | DecodedMasks | None = None
    if isinstance(prompts, BoxPrompts):
        boxes = clip_boxes_xyxy(prompts.boxes_xyxy, size_hw)
        if with_masks:
            masks = region_masks(localizer, image_embedding, prompts, size_hw).cpu()
    elif isinstance(prompts, PointPrompts):
        masks = region_masks(localizer, image_embedding, prompts, size_hw).cpu()
        boxes = _extents(masks, fallback=_extents_of_points(prompts, size_hw))
    else:
        masks = prompts.masks
        boxes = mask_extents(masks)
    return LocatedRegions(
        tokens=tokens,
        predicted_iou=ious,
        boxes_xyxy=boxes,
        masks=masks if with_masks else None,
    )


def region_tokens(
    localizer: Localizer,
    image_embedding: Tensor,
    prompts: RegionPrompts,
    size_hw: tuple[int, int],
) -> Tensor:
    """Return the position tokens of given regions, (R, ``localizer.token_dim``) float32.

    Arguments and errors as in `rated_tokens`.
    """
    return rated_tokens(localizer, image_embedding, prompts, size_hw)[0]


def rated_tokens(
    localizer: Localizer,
    image_embedding: Tensor,
    prompts: RegionPrompts,
    size_hw: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Return the position tokens of given regions, and the IoU that SAM predicts for their masks.

    Args:
        localizer: The frozen SAM.
        image_embedding: One image's embedding, as ``localizer.embed`` gives it.
        prompts: The regions.
        size_hw: Height and width of the original image in pixels.

    Returns:
        Tokens, (R, ``localizer.token_dim``), and IoUs, (R,); both float32.

    Raises:
        ShapeError: The prompts do not have the shapes of their fields; a box ends before it starts
            or extends beyond the image; a point that is not padding lies outside the image; a mask
            is empty or of another size; or the token site is "prompt_encoder", which takes boxes or
            one point a region.
    """
    return localizer.decode_tokens(image_embedding, _in_frame(localizer, prompts, size_hw))


def region_masks(
    localizer: Localizer,
    image_embedding: Tensor,
    prompts: RegionPrompts,
    size_hw: tuple[int, int],
) -> DecodedMasks:
    """Return the mask that SAM predicts for each region, (H, W) bool at the original size.

    Arguments and errors as in `rated_tokens`.
    """
    logits = [torch.zeros(0, *localizer.mask_grid_hw, device=localizer.device)]
    for chunk in _in_frame(localizer, prompts, size_hw).split(_MASK_CHUNK):
        logits_R1HW, _ = localizer.decode_masks(image_embedding, chunk, several=False)
        logits.append(logits_R1HW[:, 0])
    return DecodedMasks(
        logits=torch.cat(logits),
        threshold=localizer.mask_threshold,
        frame=localizer.mask_frame(size_hw),
    )


def _in_frame(localizer: Localizer, prompts: RegionPrompts, size_hw: tuple[int, int]) -> SamPrompts:
    frame = localizer.frame(size_hw)
    if isinstance(prompts, BoxPrompts):
        return box_prompts(prompts.boxes_xyxy, frame)
    if isinstance(prompts, PointPrompts):
        return point_prompts(prompts.points_xy, prompts.point_labels, frame)
    return mask_prompts(prompts.masks, prompts.form, frame, grid_hw=localizer.mask_grid_hw)


def _extents(masks: DecodedMasks, *, fallback: FloatArray) -> FloatArray:
    """Return the box around each mask, (R, 4), and the fallback's row where a mask is empty."""
    boxes = fallback.copy()
    for row, mask in enumerate(masks):
        if mask.any():
            boxes[row] = mask_extents(mask[None])[0]
    return boxes


def _extents_of_points(prompts: PointPrompts, size_hw: tuple[int, int]) -> FloatArray:
    """Return the pixels around the points inside each region, (R, 4)."""
    inside_RK1 = (prompts.point_labels == 1)[..., None]
    low = np.where(inside_RK1, prompts.points_xy, np.inf).min(axis=1)
    high = np.where(inside_RK1, prompts.points_xy, -np.inf).max(axis=1)
    # A point may lie on the image's far edge, where no pixel begins.
    first = np.minimum(np.floor(low), (size_hw[1] - 1, size_hw[0] - 1))
    boxes = np.concatenate([first, np.floor(high) + 1], axis=1).astype(np.float32)
    return clip_boxes_xyxy(boxes, size_hw)
