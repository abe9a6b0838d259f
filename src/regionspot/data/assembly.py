"""Copy cached samples into one padded batch."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from regionspot.cache import CachedSample, Manifest, stored_dtype
from regionspot.data.batch import RegionBatch
from regionspot.data.buffers import BufferPool
from regionspot.data.order import BatchPlan, choose_regions


class SampleSource(Protocol):
    """What assembly needs of a `FeatureCache`."""

    @property
    def manifest(self) -> Manifest:
        """How feature maps are stored, and how wide position tokens are."""

    def sample(self, index: int) -> CachedSample:
        """Return the sample at a position."""


class Assembler:
    """Makes batches of samples, reading only what a batch keeps.

    Args:
        caches: The sources, in the order of their numbers.
        max_regions: Regions used of an image at most; None for all.
        seed: Starts the choice of regions where there are more.
        pin_memory: Whether feature maps go to page-locked memory.
    """

    def __init__(
        self,
        caches: Sequence[SampleSource],
        *,
        max_regions: int | None = None,
        seed: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self._caches = caches
        self._manifests = [cache.manifest for cache in caches]
        self._max_regions = max_regions
        self._seed = seed
        self._pool = BufferPool(pin_memory=pin_memory)

    def assemble(self, plan: BatchPlan, *, epoch: int) -> RegionBatch:
        """Return the batch of a plan.

        Only the feature maps lie in memory that is used again, once no tensor refers to it.

        Args:
            plan: Which images of which source; none gives an empty batch.
            epoch: Decides, with the seed, which regions are used of an image with too many.
        """
        samples = [self._caches[plan.source].sample(int(image)) for image in plan.images]
        chosen = [
            choose_regions(
                len(sample.labels),
                self._max_regions,
                seed=self._seed,
                epoch=epoch,
                image=(plan.source, int(image)),
            )
            for sample, image in zip(samples, plan.images, strict=True)
        ]
        batch_size = len(samples)
        num_regions = max((len(regions) for regions in chosen), default=0)
        manifest = self._manifests[plan.source]
        form, token_dim = manifest.feature_map_form, manifest.fingerprint.token_dim
        feature_map = self._pool.take((batch_size, *form.shape), stored_dtype(manifest.codec))
        feature_rows = feature_map.view(torch.uint8).numpy().view(form.dtype)
        tokens = np.zeros((batch_size, num_regions, token_dim), np.float16)
        mask = np.zeros((batch_size, num_regions), np.bool_)
        labels = np.full((batch_size, num_regions), -1, np.int64)
        boxes = np.zeros((batch_size, num_regions, 4), np.float32)
        box_scores = np.zeros((batch_size, num_regions), np.float32)
        for row, (sample, regions) in enumerate(zip(samples, chosen, strict=True)):
            count = len(regions)
            feature_rows[row] = sample.feature_map
            tokens[row, :count] = sample.position_tokens[regions]
            mask[row, :count] = True
            labels[row, :count] = sample.labels[regions]
            boxes[row, :count] = sample.boxes_xyxy[regions]
            box_scores[row, :count] = sample.box_scores[regions]
        sizes = np.array([sample.size_hw for sample in samples], np.int64).reshape(-1, 2)
        return RegionBatch(
            keys=tuple(sample.key for sample in samples),
            image_ids=torch.tensor([sample.image_id for sample in samples], dtype=torch.int64),
            position_tokens=torch.from_numpy(tokens),
            feature_map=feature_map,
            region_mask=torch.from_numpy(mask),
            labels=torch.from_numpy(labels),
            box_scores=torch.from_numpy(box_scores),
            boxes_xyxy=torch.from_numpy(boxes),
            size_hw=torch.from_numpy(sizes),
            source=plan.source,
        )
