"""Makes padded batches of cached images, copied once, directly from the memory map.

The feature maps of a batch take several megabytes. Allocating them for every step costs page
faults, which take most of the time of a simple loader, so `BufferPool` reuses memory.

Shapes: `B` images, `R` regions (padded), `T` feature tokens, `S` SAM width, `D` CLIP width.
"""

import dataclasses
import math
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regionspot.cache import BatchTargets, CodecName, FeatureCache, find_codec
from regionspot.core.geometry import pixels_to_relative
from regionspot.core.patch_grid import patches_in_masks, square_grid_hw
from regionspot.data.batch_order import BatchPlan, IndexArray, choose_regions


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RegionBatch:
    """Cached features, boxes and labels of images, padded to the largest number of regions.

    All images are from one cache and therefore share its vocabulary.
    """

    keys: tuple[str, ...]
    """Keys of the images in their cache, B of them."""
    image_ids: Tensor
    """Image ids in the data set, (B,) int64."""
    position_tokens: Tensor
    """Position tokens, (B, R, S) float16; zeros in the padding."""
    feature_map: Tensor
    """Encoded feature maps, class token first: (B, T, D) float16, or the form of another codec;
    `features` decodes them."""
    codec: CodecName
    """Encoding of the feature maps."""
    region_mask: Tensor
    """True for regions and False for padding, (B, R) bool."""
    labels: Tensor
    """Class indices in the vocabulary, from 0, (B, R) int64; -1 in the padding and for proposals,
    which have no class."""
    box_scores: Tensor
    """Confidence of the detector, (B, R) float32; 1 for annotated boxes, 0 in the padding."""
    boxes_xyxy: Tensor
    """Boxes in pixels of the original image, (B, R, 4) float32; zeros in the padding."""
    size_hw: Tensor
    """Height and width of the original images in pixels, (B, 2) int64."""
    source: int
    """Index of the cache."""
    num_regions: int
    """Number of regions without padding."""
    num_regions_of_step: int
    """Number of regions of the step, over the batches of all ranks."""
    mask_patches: Tensor | None = None
    """The patches in each region's mask, (B, R, T - 1) bool, False in the padding; None unless
    requested."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.keys)

    def features(self) -> Tensor:
        """Return the decoded feature maps, (B, T, D) in a floating dtype, on the batch's device."""
        return find_codec(self.codec).decode(self.feature_map)

    def relative_boxes(self) -> Tensor:
        """Return the boxes divided by image width and height, (B, R, 4) float32.

        Zeros in the padding.
        """
        width_height_twice_B14 = self.size_hw.flip(-1).repeat(1, 2)[:, None]
        return self.boxes_xyxy / width_height_twice_B14

    def extents(self) -> Tensor:
        """Return what a guided head needs to know of the regions, see `FusionHead.extents`."""
        return self.relative_boxes() if self.mask_patches is None else self.mask_patches

    def to(self, device: torch.device | str) -> Self:
        """Return the batch with all tensors on ``device``.

        Copies to a CUDA device are asynchronous: torch keeps page-locked memory until it is copied,
        and stages other memory. Copies to other devices are complete when this returns, as the
        source memory is reused.
        """
        is_cuda = torch.device(device).type == "cuda"
        return self._map(lambda tensor: tensor.to(device, non_blocking=is_cuda))

    def pin_memory(self) -> Self:
        """Return the batch in page-locked memory, from which a GPU copies faster."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        moved: dict[str, Any] = {
            field.name: function(value)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **moved)


class BufferPool:
    """Allocates tensors, and reuses their memory once nothing refers to them.

    Tensors may be kept for as long as needed, for instance by autograd; the pool then grows.

    Args:
        pin_memory: Use page-locked memory, from which a GPU copies faster. torch has its own pool
            for it, which knows when a GPU has finished copying.
    """

    def __init__(self, *, pin_memory: bool = False) -> None:
        self._pin_memory = pin_memory
        # No lock, as appending and popping are atomic.
        self._free: deque[NDArray[np.uint8]] = deque()
        self.num_allocated = 0

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a contiguous, uninitialized tensor of ``shape``."""
        num_bytes = math.prod(shape) * dtype.itemsize
        # A rank gets no bytes if a small batch has no image for it.
        if self._pin_memory or num_bytes == 0:
            return torch.empty(shape, dtype=dtype, pin_memory=self._pin_memory)
        storage = self._free_storage(num_bytes)
        # torch keeps the array alive until the tensor and all its views are freed; the storage then
        # returns to the pool.
        array = storage[:num_bytes]
        weakref.finalize(array, self._free.append, storage).atexit = False
        return torch.from_numpy(array).view(dtype).view(shape)

    def _free_storage(self, num_bytes: int) -> NDArray[np.uint8]:
        while self._free:
            free = self._free.pop()
            if len(free) >= num_bytes:
                return free  # smaller ones are dropped, as batches only grow up to a maximum
        self.num_allocated += 1
        return np.empty(num_bytes, np.uint8)


RegionalTensors = tuple[Tensor, ...]
"""Position tokens, boxes, labels and box scores of a batch, padded; then, if requested, the patches
in masks."""


class Collator:
    """Makes batches of cached images.

    Args:
        caches: The caches, in the order of `RegionBatch.source`.
        max_regions: Maximum number of regions per image; None for all.
        seed: Seed of the random choice among more regions.
        with_masks: Also make `RegionBatch.mask_patches`.
        pin_memory: Make batches in page-locked memory. From other memory, copies of more than
            64 KiB wait for all work of the GPU, and the host waits for them.
    """

    def __init__(
        self,
        caches: Sequence[FeatureCache],
        *,
        max_regions: int | None = None,
        seed: int = 0,
        with_masks: bool = False,
        pin_memory: bool = False,
    ) -> None:
        self._caches = caches
        self._max_regions = max_regions
        self._seed = seed
        self._with_masks = with_masks
        self._pool = BufferPool(pin_memory=pin_memory)
        self._pin_memory = pin_memory

    def assemble(self, plan: BatchPlan) -> RegionBatch:
        """Return the batch of a plan; may be called from several threads at once.

        Only the feature maps are in reused memory.

        Args:
            plan: The images, possibly none, and the number of the batch, which with the seed
                determines the chosen regions.
        """
        cache, images = self._caches[plan.source], plan.images
        # Disks reach their full rate only with many requests at once.
        cache.read_ahead(images)
        for shard in plan.shards_due:
            cache.read_shard_ahead(shard)
        index, manifest = cache.index, cache.manifest
        counts = index.num_regions[images].astype(np.int64)
        batch_size, num_regions = len(images), int(counts.max(initial=0))
        form, token_dim = manifest.feature_map_form, manifest.fingerprint.token_dim
        feature_map = self._pool.take((batch_size, *form.shape), manifest.feature_codec.torch_dtype)
        regional: RegionalTensors = (
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
        if self._with_masks:
            regional = (*regional, self._mask_patches(cache, images, num_regions))
        limit = self._max_regions
        if limit is not None and num_regions > limit:
            regional = self._limited(regional, counts, plan)
            counts, num_regions = np.minimum(counts, limit), limit
        tokens, boxes, labels, box_scores, *mask_patches = regional
        batch = RegionBatch(
            keys=tuple(key.decode("ascii") for key in index.keys[images].tolist()),
            image_ids=torch.from_numpy(index.image_ids[images]),
            position_tokens=tokens,
            feature_map=feature_map,
            codec=manifest.codec,
            region_mask=torch.from_numpy(np.arange(num_regions) < counts[:, None]),
            labels=labels,
            box_scores=box_scores,
            boxes_xyxy=boxes,
            size_hw=torch.from_numpy(index.sizes_hw[images].astype(np.int64)),
            source=plan.source,
            num_regions=int(counts.sum()),
            num_regions_of_step=self._num_regions_of_step(plan),
            mask_patches=mask_patches[0] if mask_patches else None,
        )
        return batch.pin_memory() if self._pin_memory else batch

    @staticmethod
    def _mask_patches(cache: FeatureCache, images: IndexArray, num_regions: int) -> Tensor:
        """Return the patches in the regions' masks, (B, R, T - 1)."""
        num_patches = cache.manifest.feature_map_form.shape[0] - 1
        patches_BRP = torch.zeros((len(images), num_regions, num_patches), dtype=torch.bool)
        grid_hw = square_grid_hw(num_patches)
        for row, image in enumerate(images.tolist()):
            sample = cache.sample(image)
            boxes = torch.from_numpy(pixels_to_relative(sample.boxes_xyxy, sample.size_hw))
            patches_RP = patches_in_masks(cache.masks(sample), boxes, grid_hw=grid_hw)
            patches_BRP[row, : len(patches_RP)] = patches_RP
        return patches_BRP

    def _num_regions_of_step(self, plan: BatchPlan) -> int:
        """Return the number of regions of a batch over all ranks, from the index."""
        images = plan.images if plan.images_of_step is None else plan.images_of_step
        counts = self._caches[plan.source].index.num_regions[images]
        if self._max_regions is not None:
            counts = np.minimum(counts, self._max_regions)
        return int(counts.sum())

    def _limited(
        self, regional: RegionalTensors, counts: IndexArray, plan: BatchPlan
    ) -> RegionalTensors:
        """Return at most ``max_regions`` regions of each image."""
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
        return tuple(tensor[:, :limit].contiguous() for tensor in regional)
