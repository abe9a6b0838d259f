"""Region proposals: prompts SAM with every point of a grid and keeps its best answers.

Equivalent to ``segment_anything.SamAutomaticMaskGenerator`` without crops and composed from its
parts, but starts from an embedded image and returns boxes and scores in place of masks.

Shape letters: R regions, N masks, S SAM's width, H W a grid or an image.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from regionspot.backbones.localizer import Localizer
from regionspot.backbones.to_frame import SamPrompts
from regionspot.core.errors import ConfigError, ShapeError
from regionspot.core.geometry import FloatArray, as_boxes

_PIXELS_AT_ONCE = 1 << 25
"""Pixels of enlarged masks held at once, at 6 bytes each: 200 MB, or a single mask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GridProposals:
    """Proposed regions, best first; row i of both arrays is proposal i."""

    boxes_xyxy: FloatArray
    """Boxes, (R, 4) float32, pixels of the original image, each of positive area."""
    box_scores: FloatArray
    """Predicted IoU times stability of each, (R,) float32, 0 to 1."""

    def __post_init__(self) -> None:
        if self.box_scores.shape != (len(as_boxes(self.boxes_xyxy)),):
            raise ShapeError(
                f"box_scores has shape {self.box_scores.shape} for {len(self.boxes_xyxy)} boxes;"
                " wanted one score a box."
            )


@dataclass(frozen=True, kw_only=True)  # no slots: jsonargparse reads a default's vars()
class GridProposer:
    """Lets SAM propose the regions of an image, without prompts or a detector.

    Names, meaning and defaults of the options are those of ``SamAutomaticMaskGenerator``; the
    defaults were chosen for the released models.

    Raises:
        ConfigError: An option is out of range.
    """

    points_per_side: int = 32
    """Number of points along each side of the image, for a square grid of point prompts."""
    points_per_batch: int = 64
    """Number of points to process at once. Affects only memory and speed."""
    pred_iou_thresh: float = 0.88
    """Drop masks with a predicted IoU of this or less. 0 keeps all."""
    stability_score_thresh: float = 0.95
    """Drop masks with a lower stability. 0 keeps all masks that have a pixel. Stability is the IoU
    of the masks at a higher and at a lower threshold of the logits."""
    stability_score_offset: float = 1.0
    """Offset of these two thresholds from the mask threshold."""
    box_nms_thresh: float = 0.7
    """Non-maximum suppression: of two regions whose boxes have a greater IoU than this, drop the
    one with the lower predicted IoU."""
    max_regions: int | None = None
    """Maximum number of regions, those with the highest scores; by default all."""

    def __post_init__(self) -> None:
        for name in ("points_per_side", "points_per_batch", "max_regions"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ConfigError(f"{name} is {count}; wanted at least 1.")
        for name in ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh"):
            threshold = getattr(self, name)
            if not 0 <= threshold <= 1:
                raise ConfigError(f"{name} is {threshold}; wanted a number from 0 to 1.")
        if not 0 <= self.stability_score_offset < float("inf"):
            raise ConfigError(
                f"stability_score_offset is {self.stability_score_offset}; wanted a logit of 0 or"
                " more."
            )

    @torch.no_grad()
    def propose(
        self, localizer: Localizer, image_embedding: Tensor, size_hw: tuple[int, int]
    ) -> GridProposals:
        """Propose the regions of an embedded image.

        The regions are those of ``SamAutomaticMaskGenerator`` with the same options and no crops.
        Its boxes end at the last pixel of the mask; these end one past it, as everywhere in this
        library, so that a mask of one pixel has an area.

        Memory is bounded by ``points_per_batch``: a released SAM's decoder takes about 30 MiB a
        point, 1.8 GiB for 64. Masks that pass ``pred_iou_thresh`` are enlarged to the original
        image's size a few at a time, or one at a time if the image is large.

        Args:
            localizer: The frozen SAM, of either generation.
            image_embedding: The image's embedding, as ``localizer.embed`` gives it.
            size_hw: Height and width of the original image in pixels.

        Returns:
            Boxes and their scores: predicted IoU times stability, each clipped to 0..1 since SAM's
            predictions overshoot. No rows if nothing passes the thresholds.

        Raises:
            ShapeError: The embedding is not one image's.
        """
        from torchvision.ops import nms  # comes with segment_anything, which is optional

        prompts = _grid_prompts(localizer, self.points_per_side, size_hw)
        found = [
            self._masks_at(localizer, image_embedding, chunk, size_hw)
            for chunk in prompts.split(self.points_per_batch)
        ]
        boxes_N4, ious_N, stabilities_N = _columns(torch.cat(found))
        kept = nms(boxes_N4, ious_N, self.box_nms_thresh)
        scores = ious_N[kept].clamp(0, 1) * stabilities_N[kept].clamp(0, 1)
        best_first = scores.argsort(descending=True, stable=True)[: self.max_regions]
        boxes = boxes_N4[kept] + torch.tensor([0, 0, 1, 1], device=scores.device)
        return GridProposals(
            boxes_xyxy=boxes[best_first].cpu().numpy(),
            box_scores=scores[best_first].cpu().numpy(),
        )

    def _masks_at(
        self,
        localizer: Localizer,
        image_embedding: Tensor,
        prompts: SamPrompts,
        size_hw: tuple[int, int],
    ) -> Tensor:
        """Prompt SAM with a batch of points and keep the masks that pass, as `_columns`."""
        logits_RMHW, ious_RM = localizer.decode_masks(image_embedding, prompts, several=True)
        logits_NHW, ious_N = logits_RMHW.flatten(0, 1), ious_RM.flatten()
        if self.pred_iou_thresh > 0:
            # Before masks are enlarged, which takes the memory and most of the time.
            sure = ious_N > self.pred_iou_thresh
            logits_NHW, ious_N = logits_NHW[sure], ious_N[sure]
        at_once = max(1, _PIXELS_AT_ONCE // (size_hw[0] * size_hw[1]))
        frame = localizer.mask_frame(size_hw)
        found = [torch.zeros(0, 6, device=image_embedding.device)]
        for logits, ious in zip(logits_NHW.split(at_once), ious_N.split(at_once), strict=True):
            if len(ious):
                found.append(self._rate(frame.enlarge(logits), ious, localizer.mask_threshold))
        return torch.cat(found)

    def _rate(self, logits_NHW: Tensor, ious_N: Tensor, cut: float) -> Tensor:
        """Keep the stable masks of logits that have the original image's size, as `_columns`."""
        from segment_anything.utils.amg import batched_mask_to_box, calculate_stability_score

        stabilities_N = calculate_stability_score(logits_NHW, cut, self.stability_score_offset)
        masks_NHW = logits_NHW > cut
        boxes_N4 = batched_mask_to_box(masks_NHW).float()
        stable = stabilities_N >= self.stability_score_thresh
        rated_N6 = torch.cat([boxes_N4, torch.stack([ious_N, stabilities_N], dim=1)], dim=1)
        return rated_N6[stable & masks_NHW.flatten(1).any(dim=1)]


def _columns(rated_N6: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split rated masks into boxes, (N, 4), predicted IoUs, (N,), and stabilities, (N,).

    A box is the first and last column and row of its mask, in pixels of the original image.
    """
    return rated_N6[:, :4], rated_N6[:, 4], rated_N6[:, 5]


def _grid_prompts(
    localizer: Localizer, points_per_side: int, size_hw: tuple[int, int]
) -> SamPrompts:
    """Return one point a prompt, evenly spread over the image, in SAM's frame.

    The points stay in float64 until they are embedded, as in SAM, for bit-equal masks.
    """
    from segment_anything.utils.amg import build_point_grid

    height, width = localizer.frame_size_hw(size_hw)
    points_xy_sam = build_point_grid(points_per_side) * np.array([width, height])
    return SamPrompts(
        points_xy_sam=torch.from_numpy(points_xy_sam).to(localizer.device)[:, None],
        point_labels=torch.ones(len(points_xy_sam), 1, dtype=torch.int64, device=localizer.device),
    )
