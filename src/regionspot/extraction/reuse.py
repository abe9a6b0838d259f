"""Reuses feature maps and position tokens of a finished cache.

A new cache is made from its own annotations. For each image that the old cache also holds, the
feature map is reused, and what SAM gave for its regions as well if the old cache has all boxes.

Shape letters: N images, R regions, S token width.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from regionspot.annotations import ImageRecord, RecordTable, ResolvedRecord
from regionspot.cache import (
    CachedSample,
    FeatureCache,
    Manifest,
    TextBankStore,
    manifest_differences,
    refuse_differences,
    text_banks_path,
)
from regionspot.core.vocabulary import Vocabulary
from regionspot.extraction.locate import LocatedRecord

_logger = logging.getLogger(__name__)

_MAY_DIFFER = (
    "schema_version",
    "name",
    "annotation_sha256",
    "annotation_format",
    "proposals",
    "prompt",
    "masks",
    "reused",
    "plan",
    "vocabulary",
    "category_ids",
)
"""Fields of a manifest on which neither feature maps nor tokens of boxes depend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reused:
    """What is reused of one image."""

    resolved: ResolvedRecord
    """The image as now annotated, with boxes in pixels of the cached size."""
    sample: CachedSample
    """The image in the old cache."""
    regions: LocatedRecord | None
    """Its regions with their tokens; None if SAM must compute them."""

    @property
    def num_tokens(self) -> int:
        """Number of reused position tokens."""
        return 0 if self.regions is None else len(self.regions.tokens)


class OldCache:
    """A finished cache to reuse; create one with `open`. `find` may be called from any thread."""

    def __init__(self, cache: FeatureCache, wanted: Manifest, *, finds_regions: bool) -> None:
        self.cache = cache
        old = cache.manifest
        self._finds_regions = finds_regions
        # A grid with the same settings proposes the same regions again.
        self._has_same_proposals = finds_regions and old.proposals == wanted.proposals
        # Other prompts are not stored, so it is unknown whether they have changed.
        self._has_tokens_of_boxes = old.prompt == wanted.prompt == "box"
        self._wants_masks = wanted.masks
        self._order = np.argsort(cache.index.keys, kind="stable")
        self._sorted_keys = cache.index.keys[self._order]

    @classmethod
    def open(cls, location: str | Path, *, wanted: Manifest, finds_regions: bool) -> Self:
        """Open a cache to reuse.

        Args:
            location: Folder or URL of the old cache.
            wanted: Manifest of the new cache.
            finds_regions: Whether SAM proposes the regions of the new cache.

        Raises:
            MissingFileError: The folder is no cache.
            CacheMismatchError: The cache was made by other models or settings; each is named.
            CacheCorruptError: It is not finished, or a file is damaged.
        """
        cache = FeatureCache.open(location)
        refuse_differences(
            manifest_differences(cache.manifest, wanted, but=_MAY_DIFFER),
            found=f"--reuse is {location}, which",
            advice="Set these options as they were found, or leave --reuse out to compute"
            " everything.",
        )
        lacking = "" if cache.has_predicted_iou else "predicted IoUs (it is of format 3)"
        if wanted.masks and not cache.has_masks:
            lacking = lacking or "masks"
        if lacking:
            _logger.warning(
                "%s has no %s: only its feature maps are reused, and SAM runs again",
                location,
                lacking,
            )
        return cls(cache, wanted, finds_regions=finds_regions)

    def find(self, record: ImageRecord) -> Reused | None:
        """Return what can be reused of an image; None if the old cache does not hold it.

        An image is the same if its key, its id and, if annotated, its size are the same.

        Raises:
            CacheCorruptError: The old cache is damaged.
        """
        size_hw = record.annotated_size_hw
        (place,) = self._places(
            np.array([record.key.encode("ascii")]),
            np.array([record.image_id]),
            None if size_hw is None else np.array([size_hw]),
        ).tolist()
        if place < 0:
            return None
        sample = self.cache.sample(place)
        resolved = record.resolved(sample.size_hw)
        return Reused(
            resolved=resolved, sample=sample, regions=self._regions(resolved.record, sample)
        )

    def num_held(self, records: RecordTable) -> int:
        """Count the images that the old cache holds."""
        rows = np.asarray(records.rows)
        images = records.images
        places = self._places(
            np.array([key.encode("ascii") for key in records.keys()]),  # noqa: SIM118 - a method
            images.ids[rows],
            None if images.sizes_hw is None else images.sizes_hw[rows],
        )
        return int((places >= 0).sum())

    def text_bank(self, vocabulary: Vocabulary, templates: str) -> NDArray[np.float32] | None:
        """Return its text bank, (C, E), of the same names and templates; None if it has none."""
        if templates.endswith("-synonyms"):
            return None  # a bank does not record the synonyms that it is the mean of
        store = TextBankStore(text_banks_path(self.cache.path))
        clip_sha256 = self.cache.manifest.fingerprint.clip_weights_sha256
        return store.get(vocabulary, templates=templates, clip_sha256=clip_sha256)

    def _places(
        self,
        keys: NDArray[np.bytes_],
        image_ids: NDArray[np.int64],
        sizes_hw: NDArray[np.int64] | None,
    ) -> NDArray[np.int64]:
        """Return the positions of images in the old cache, (N,); -1 if it does not hold them."""
        index = self.cache.index
        if not len(index):
            return np.full(len(keys), -1)
        # Cast to the dtype of the index: NumPy would copy the index to compare it with longer keys.
        found = np.searchsorted(self._sorted_keys, keys.astype(self._sorted_keys.dtype))
        found = np.minimum(found, len(index) - 1)
        places = self._order[found]
        is_held = (self._sorted_keys[found] == keys) & (index.image_ids[places] == image_ids)
        if sizes_hw is not None:
            is_held &= (index.sizes_hw[places] == sizes_hw).all(axis=1)
        return np.where(is_held, places, -1)

    def _regions(self, record: ImageRecord, sample: CachedSample) -> LocatedRecord | None:
        if self._has_same_proposals:
            found = replace(
                record,
                boxes_xyxy=sample.boxes_xyxy,
                labels=sample.labels,
                box_scores=sample.box_scores,
                prompts=None,
            )
            return self._located(found, sample, np.arange(sample.num_regions))
        if self._finds_regions or (len(record.labels) and not self._has_tokens_of_boxes):
            return None
        # A token depends on its box alone, not on label, score or other boxes.
        row_of = {box.tobytes(): row for row, box in enumerate(sample.boxes_xyxy)}
        rows = [row_of.get(box.tobytes()) for box in record.boxes_xyxy]
        if None in rows:
            return None
        return self._located(record, sample, np.array(rows, np.intp))

    def _located(
        self, record: ImageRecord, sample: CachedSample, rows: NDArray[np.intp]
    ) -> LocatedRecord | None:
        """Return a record whose regions are these of the old cache; None if it lacks something."""
        ious_R, masks = sample.predicted_iou, sample.masks_rle if self._wants_masks else None
        if ious_R is None or (self._wants_masks and masks is None):
            return None
        # Indexing copies: torch does not accept the cache's read-only views.
        return LocatedRecord(
            record=record,
            tokens=torch.from_numpy(sample.position_tokens[rows]),
            predicted_iou=torch.from_numpy(ious_R[rows]),
            masks_rle=None if masks is None else tuple(masks[row] for row in rows.tolist()),
        )
