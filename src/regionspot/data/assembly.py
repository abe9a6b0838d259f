"""Copy cached images into one padded batch: once, straight out of the memory map."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from regionspot.cache import BatchTargets, FeatureCache, stored_dtype
from regionspot.data.batch import RegionBatch
from regionspot.data.buffers import BufferPool
from regionspot.data.order import BatchPlan, IndexArray, choose_regions

RegionalTensors = tuple[Tensor, Tensor, Tensor, Tensor]
"""Position tokens, boxes, labels and box scores of a batch, padded."""


class Assembler:
    """Makes batches of cached images.

    Args:
        caches: The sources, in the order of their numbers.
        max_regions: Regions used of an image at most; None for all.
        seed: Starts the choice of regions where there are more.
        pin_memory: Whether batches are made in page-locked memory. From any other a GPU copies more
            than 64 KiB only once all its work is done, and the host waits for that.
    """

    def __init__(
        self,
        caches: Sequence[FeatureCache],
        *,
        max_regions: int | None = None,
        seed: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self._caches = caches
        self._max_regions = max_regions
        self._seed = seed
        self._pool = BufferPool(pin_memory=pin_memory)
        self._pin_memory = pin_memory

    def assemble(self, plan: BatchPlan) -> RegionBatch:
        """Return the batch of a plan; may be called from several threads at once.

        Only the feature maps lie in memory that is used again, once no tensor refers to it.

        Args:
            plan: Which images of which source; none gives an empty batch. Its number decides, with
                the seed, which regions are used of an image with too many.
        """
        cache, images = self._caches[plan.source], plan.images
        # A disk gives its full rate only to many requests at once.
        cache.read_ahead(images)
        for shard in plan.shards_due:
            cache.read_shard_ahead(shard)
        index, manifest = cache.index, cache.manifest
        counts = index.num_regions[images].astype(np.int64)
        batch_size, num_regions = len(images), int(counts.max(initial=0))
        form, token_dim = manifest.feature_map_form, manifest.fingerprint.token_dim
        feature_map = self._pool.take((batch_size, *form.shape), stored_dtype(manifest.codec))
        regional = (
            torch.zeros((batch_size, num_regions, token_dim), dtype=torch.float16),
            torch.zeros((batch_size, num_regions, 4)),
            torch.full((batch_size, num_regions), -1),
            torch.zeros((batch_size, num_regions)),
        )
        targets = BatchTargets(
            (feature_map, *regional),
            feature_map_shape=form.shape,
            feature_map_dtype=feature_map.dtype,
            token_dim=token_dim,
        )
        cache.copy_arrays(images, targets)
        limit = self._max_regions
        if limit is not None and num_regions > limit:
            regional = self._limited(regional, counts, plan)
            counts, num_regions = np.minimum(counts, limit), limit
        tokens, boxes, labels, box_scores = regional
        batch = RegionBatch(
            keys=tuple(key.decode("ascii") for key in index.keys[images].tolist()),
            image_ids=torch.from_numpy(index.image_ids[images]),
            position_tokens=tokens,
            feature_map=feature_map,
            region_mask=torch.from_numpy(np.arange(num_regions) < counts[:, None]),
            labels=labels,
            box_scores=box_scores,
            boxes_xyxy=boxes,
            size_hw=torch.from_numpy(index.sizes_hw[images].astype(np.int64)),
            source=plan.source,
            num_regions=int(counts.sum()),
            num_regions_of_step=self._num_regions_of_step(plan),
        )
        return batch.pin_memory() if self._pin_memory else batch

    def _num_regions_of_step(self, plan: BatchPlan) -> int:
        """Return the regions of a batch over all ranks, from the index alone."""
        images = plan.images if plan.images_of_step is None else plan.images_of_step
        counts = self._caches[plan.source].index.num_regions[images]
        if self._max_regions is not None:
            counts = np.minimum(counts, self._max_regions)
        return int(counts.sum())

    def _limited(
        self, regional: RegionalTensors, counts: IndexArray, plan: BatchPlan
    ) -> RegionalTensors:
        """Return the regions that are used in a batch, of images that may have too many."""
        limit = self._max_regions
        for row, image in enumerate(plan.images.tolist()):
            chosen = choose_regions(
                int(counts[row]),
                limit,
                seed=self._seed,
                batch=plan.number,
                image=(plan.source, image),
            )
            for tensor in regional:
                tensor[row, : len(chosen)] = tensor[row, chosen]
        tokens, boxes, labels, box_scores = (tensor[:, :limit].contiguous() for tensor in regional)
        return tokens, boxes, labels, box_scores
