"""Position tokens of an image's regions, from whatever SAM is shown of them.

Shape letters: R regions, K points, S SAM width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regionspot.annotations import ImageRecord, Prompt
from regionspot.annotations.region_prompts import decode_mask, decode_points
from regionspot.backbones import GridProposer, Localizer, MaskPrompt

_MASK_CHUNK = 16
"""Masks at the image's size held at once: of a 12-megapixel image 200 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocatedRegions:
    """The regions of one image that got a token; row ``i`` of everything is region ``i``."""

    boxes_xyxy: NDArray[np.float32]
    """Boxes, (R, 4), pixels of the original image."""
    labels: NDArray[np.int64]
    """Class indices, (R,); -1 for proposals."""
    box_scores: NDArray[np.float32]
    """Scores of the boxes, (R,); 1 for annotated ones."""
    tokens: Tensor
    """Position tokens, (R, S)."""
    num_dropped: int = 0
    """Regions that could not be shown to SAM: their mask has no pixel, or a point lies outside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionLocator:
    """Turns records into tokens."""

    localizer: Localizer
    """The frozen SAM."""
    prompt: Prompt = "box"
    """What of a region SAM is shown."""
    grid: GridProposer | None = None
    """Finds the regions itself, in place of those of the records, if given."""

    def wants_pixels(self, record: ImageRecord) -> bool:
        """Say whether SAM has to look at an image; one without regions it need not see."""
        return self.grid is not None or len(record.labels) > 0

    def locate(self, record: ImageRecord, image_embedding: Tensor | None) -> LocatedRegions:
        """Return the regions of an image with their tokens.

        Args:
            record: The image and its regions, resolved.
            image_embedding: SAM's embedding of it, (1, S, H, W); None if it did not look.
        """
        if image_embedding is None:
            return located(record, self._no_tokens())
        if self.grid is not None:
            return self._propose(record, image_embedding, self.grid)
        if record.prompts is None:
            tokens = self.localizer.tokens(image_embedding, record.boxes_xyxy, record.size_hw)
            return located(record, tokens)
        tokens_of = dict(self._prompted(record, record.prompts, image_embedding))
        kept = sorted(tokens_of)
        return LocatedRegions(
            boxes_xyxy=record.boxes_xyxy[kept],
            labels=record.labels[kept],
            box_scores=np.ones(len(kept), np.float32),
            tokens=torch.stack([tokens_of[region] for region in kept])
            if kept
            else self._no_tokens(),
            num_dropped=len(record.labels) - len(kept),
        )

    def _no_tokens(self) -> Tensor:
        return torch.zeros(0, self.localizer.token_dim, device=self.localizer.device)

    def _propose(
        self, record: ImageRecord, image_embedding: Tensor, grid: GridProposer
    ) -> LocatedRegions:
        found = self.localizer.propose(image_embedding, record.size_hw, grid)
        return LocatedRegions(
            boxes_xyxy=found.boxes_xyxy,
            labels=np.full(len(found.boxes_xyxy), -1, np.int64),
            box_scores=found.box_scores,
            tokens=self.localizer.tokens(image_embedding, found.boxes_xyxy, record.size_hw),
        )

    def _prompted(
        self, record: ImageRecord, prompts: Sequence[str], image_embedding: Tensor
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield each region that can be shown, and its token."""
        if self.prompt == "points":
            yield from self._from_points(record, prompts, image_embedding)
            return
        shape: MaskPrompt = "mask" if self.prompt == "mask" else "box_and_mask"
        for start in range(0, len(prompts), _MASK_CHUNK):
            masks = {
                start + row: mask
                for row, text in enumerate(prompts[start : start + _MASK_CHUNK])
                if (mask := decode_mask(text, record.size_hw)) is not None
            }
            if masks:
                stacked = np.stack(list(masks.values()))
                tokens_RS = self.localizer.tokens_from_masks(image_embedding, stacked, prompt=shape)
                yield from zip(masks, tokens_RS, strict=True)

    def _from_points(
        self, record: ImageRecord, prompts: Sequence[str], image_embedding: Tensor
    ) -> Iterator[tuple[int, Tensor]]:
        points = {
            region: found
            for region, text in enumerate(prompts)
            if (found := decode_points(text, record.size_hw)) is not None
        }
        # Padding is a prompt, too: a region's token must not depend on how many points others have.
        for num_points in sorted({len(labels) for _, labels in points.values()}):
            alike = {k: found for k, found in points.items() if len(found[1]) == num_points}
            tokens_RS = self.localizer.tokens_from_points(
                image_embedding,
                np.stack([points_xy for points_xy, _ in alike.values()]),
                np.stack([labels for _, labels in alike.values()]),
                record.size_hw,
            )
            yield from zip(alike, tokens_RS, strict=True)


def located(record: ImageRecord, tokens: Tensor) -> LocatedRegions:
    """Return the regions of a record, each with its token; tokens (R, S)."""
    scores = record.box_scores
    return LocatedRegions(
        boxes_xyxy=record.boxes_xyxy,
        labels=record.labels,
        box_scores=np.ones(len(record.labels), np.float32) if scores is None else scores,
        tokens=tokens,
    )
