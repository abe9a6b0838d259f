"""Computes position tokens, predicted IoUs and masks of an image's regions.

Shape letters: R regions, S width of the tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regionspot.annotations import ImageRecord, Prompt, decode_mask, decode_points
from regionspot.backbones import (
    BoxPrompts,
    GridProposer,
    Localizer,
    MaskPrompts,
    PointPrompts,
    RegionPrompts,
    locate_regions,
    rated_tokens,
    region_masks,
)
from regionspot.core.rle_masks import rle_counts

_MASK_CHUNK = 16
"""Number of masks at the image's size in memory at once: 200 MB for a 12-megapixel image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocatedRecord:
    """An image's record, with a position token for each region."""

    record: ImageRecord
    """The image with the regions that have a prompt, or those that SAM proposed."""
    tokens: Tensor
    """Position tokens, (R, S); row ``i`` belongs to region ``i`` of the record."""
    predicted_iou: Tensor
    """The IoU that SAM predicts for its mask of each region, (R,)."""
    masks_rle: tuple[bytes, ...] | None = None
    """SAM's masks, if wanted; see `CachedSample.masks_rle`."""
    num_dropped: int = 0
    """Regions without a prompt: their mask has no pixel, or a point lies outside of the image."""

    @property
    def box_scores(self) -> NDArray[np.float32]:
        """Scores of the regions, (R,); 1 for annotated ones."""
        if self.record.box_scores is None:
            return np.ones(len(self.record.labels), np.float32)
        return self.record.box_scores


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionLocator:
    """Computes the position tokens of records."""

    localizer: Localizer
    """The frozen SAM."""
    prompt: Prompt = "box"
    """Kind of prompt for each region."""
    grid: GridProposer | None = None
    """If given, SAM proposes the regions, in place of those of the records."""
    masks: bool = False
    """Whether SAM's masks are wanted."""

    def wants_pixels(self, record: ImageRecord) -> bool:
        """Return whether SAM must embed an image: if it has regions, or SAM proposes them."""
        return self.grid is not None or len(record.labels) > 0

    def locate(self, record: ImageRecord, image_embedding: Tensor | None) -> LocatedRecord:
        """Return an image's regions with their tokens.

        Args:
            record: The image and its regions, resolved.
            image_embedding: SAM's embedding of it, from ``localizer.embed`` for one image; None if
                `wants_pixels` is false.
        """
        if image_embedding is None:
            return _joined(record, [self._no_answer()])
        if self.grid is not None:
            found = locate_regions(self.localizer, image_embedding, self.grid, record.size_hw)
            proposed = replace(
                record,
                boxes_xyxy=found.boxes_xyxy,
                labels=np.full(len(found.boxes_xyxy), -1, np.int64),
                box_scores=found.box_scores,
                prompts=None,
            )
            boxes = BoxPrompts(boxes_xyxy=found.boxes_xyxy)
            answer = _Answer(
                tokens=found.tokens,
                predicted_iou=found.predicted_iou,
                masks_rle=self._masks(image_embedding, boxes, record.size_hw),
            )
            return _joined(proposed, [answer])
        if record.prompts is None:
            boxes = BoxPrompts(boxes_xyxy=record.boxes_xyxy)
            return _joined(record, [self._answer(image_embedding, boxes, record.size_hw)])
        answer_of: dict[int, _Answer] = {}
        for regions, prompts in self._decoded(record.prompts, record.size_hw):
            answer = self._answer(image_embedding, prompts, record.size_hw)
            answer_of |= {region: answer.row(row) for row, region in enumerate(regions)}
        kept = sorted(answer_of)
        prompted = replace(
            record,
            boxes_xyxy=record.boxes_xyxy[kept],
            labels=record.labels[kept],
            prompts=tuple(record.prompts[region] for region in kept),
        )
        answers = [self._no_answer(), *(answer_of[region] for region in kept)]
        return replace(_joined(prompted, answers), num_dropped=len(record.labels) - len(kept))

    def _answer(
        self, image_embedding: Tensor, prompts: RegionPrompts, size_hw: tuple[int, int]
    ) -> "_Answer":
        tokens, ious = rated_tokens(self.localizer, image_embedding, prompts, size_hw)
        masks_rle = self._masks(image_embedding, prompts, size_hw)
        return _Answer(tokens=tokens, predicted_iou=ious, masks_rle=masks_rle)

    def _masks(
        self, image_embedding: Tensor, prompts: RegionPrompts, size_hw: tuple[int, int]
    ) -> tuple[bytes, ...] | None:
        if not self.masks:
            return None
        # One at a time, as each is as large as the image.
        masks = region_masks(self.localizer, image_embedding, prompts, size_hw)
        return tuple(rle_counts(mask) for mask in masks)

    def _no_answer(self) -> "_Answer":
        device = self.localizer.device
        return _Answer(
            tokens=torch.zeros(0, self.localizer.token_dim, device=device),
            predicted_iou=torch.zeros(0, device=device),
            masks_rle=() if self.masks else None,
        )

    def _decoded(
        self, texts: Sequence[str], size_hw: tuple[int, int]
    ) -> Iterator[tuple[Sequence[int], RegionPrompts]]:
        """Yield regions that have a prompt, with their prompts, a group at a time."""
        if self.prompt == "points":
            yield from _points(texts, size_hw)
            return
        for start in range(0, len(texts), _MASK_CHUNK):
            masks = {
                start + row: mask
                for row, text in enumerate(texts[start : start + _MASK_CHUNK])
                if (mask := decode_mask(text, size_hw)) is not None
            }
            if masks:
                stacked = np.stack(list(masks.values()))
                yield list(masks), MaskPrompts(masks=stacked, form=self.prompt)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What SAM says about some regions; fields as in `LocatedRecord`."""

    tokens: Tensor
    predicted_iou: Tensor
    masks_rle: tuple[bytes, ...] | None

    def row(self, row: int) -> "_Answer":
        rows = slice(row, row + 1)
        return _Answer(
            tokens=self.tokens[rows],
            predicted_iou=self.predicted_iou[rows],
            masks_rle=None if self.masks_rle is None else self.masks_rle[rows],
        )


def _joined(record: ImageRecord, answers: Sequence[_Answer]) -> LocatedRecord:
    masks = [one.masks_rle for one in answers if one.masks_rle is not None]
    return LocatedRecord(
        record=record,
        tokens=torch.cat([one.tokens for one in answers]),
        predicted_iou=torch.cat([one.predicted_iou for one in answers]),
        masks_rle=tuple(chain.from_iterable(masks)) if masks else None,
    )


def _points(
    texts: Sequence[str], size_hw: tuple[int, int]
) -> Iterator[tuple[Sequence[int], PointPrompts]]:
    """Yield regions given by points, grouped by their number of points."""
    points = {
        region: found
        for region, text in enumerate(texts)
        if (found := decode_points(text, size_hw)) is not None
    }
    # Not padded to one length: SAM also embeds padding, and a region's token must not depend on the
    # number of points of other regions.
    for num_points in sorted({len(labels) for _, labels in points.values()}):
        alike = {k: found for k, found in points.items() if len(found[1]) == num_points}
        yield (
            list(alike),
            PointPrompts(
                points_xy=np.stack([points_xy for points_xy, _ in alike.values()]),
                point_labels=np.stack([labels for _, labels in alike.values()]),
            ),
        )
