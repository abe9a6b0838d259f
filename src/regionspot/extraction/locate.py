"""Computes the position tokens of an image's regions, from its record and SAM's embedding.

Shape letters: R regions, S width of the tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

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
    region_tokens,
)

_MASK_CHUNK = 16
"""Number of masks at the image's size in memory at once: 200 MB for a 12-megapixel image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocatedRecord:
    """An image's record, with a position token for each region."""

    record: ImageRecord
    """The image with the regions that have a prompt, or those that SAM proposed."""
    tokens: Tensor
    """Position tokens, (R, S); row ``i`` belongs to region ``i`` of the record."""
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
            return LocatedRecord(record=record, tokens=self._no_tokens())
        if self.grid is not None:
            found = locate_regions(self.localizer, image_embedding, self.grid, record.size_hw)
            proposed = replace(
                record,
                boxes_xyxy=found.boxes_xyxy,
                labels=np.full(len(found.boxes_xyxy), -1, np.int64),
                box_scores=found.box_scores,
                prompts=None,
            )
            return LocatedRecord(record=proposed, tokens=found.tokens)
        if record.prompts is None:
            boxes = BoxPrompts(boxes_xyxy=record.boxes_xyxy)
            tokens = region_tokens(self.localizer, image_embedding, boxes, record.size_hw)
            return LocatedRecord(record=record, tokens=tokens)
        tokens_of: dict[int, Tensor] = {}
        for regions, prompts in self._decoded(record.prompts, record.size_hw):
            tokens = region_tokens(self.localizer, image_embedding, prompts, record.size_hw)
            tokens_of.update(zip(regions, tokens, strict=True))
        kept = sorted(tokens_of)
        prompted = replace(
            record,
            boxes_xyxy=record.boxes_xyxy[kept],
            labels=record.labels[kept],
            prompts=tuple(record.prompts[region] for region in kept),
        )
        return LocatedRecord(
            record=prompted,
            tokens=torch.stack([tokens_of[k] for k in kept]) if kept else self._no_tokens(),
            num_dropped=len(record.labels) - len(kept),
        )

    def _no_tokens(self) -> Tensor:
        return torch.zeros(0, self.localizer.token_dim, device=self.localizer.device)

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
