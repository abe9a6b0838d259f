"""One batch of images with their regions, padded to the largest number of regions.

Shapes: `B` images, `R` regions (padded), `T` feature tokens, `S` SAM width, `D` CLIP width.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from regionspot.cache import decode_features


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RegionBatch:
    """Cached features, boxes and labels of some images of one data set.

    Axis 0 is the image everywhere, axis 1 of the regional fields the region. All images are of one
    source, hence of one vocabulary.
    """

    keys: tuple[str, ...]
    """Keys of the images in their cache, B of them."""
    image_ids: Tensor
    """The data set's own image ids, (B,) int64."""
    position_tokens: Tensor
    """Position tokens, (B, R, S) float16; zeros in the padding."""
    feature_map: Tensor
    """Feature maps, class token first, as they are stored: (B, T, D) float16, or another form that
    `features` decodes."""
    region_mask: Tensor
    """True for a real region, (B, R) bool."""
    labels: Tensor
    """Class indices of the source's vocabulary from 0, (B, R) int64; -1 in the padding, and for
    proposals, whose class nobody knows."""
    box_scores: Tensor
    """A detector's confidence in each box, (B, R) float32; 1 for annotated boxes, 0 in the
    padding."""
    boxes_xyxy: Tensor
    """Boxes in pixels of the original image, (B, R, 4) float32; zeros in the padding."""
    size_hw: Tensor
    """Height and width of the original images in pixels, (B, 2) int64."""
    source: int
    """Which of the loader's caches the images are from, counted from 0."""
    num_regions: int
    """Real regions, over all images."""
    num_regions_of_step: int
    """Regions of the batch over all ranks, of which this may be the share of one."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.keys)

    def features(self) -> Tensor:
        """Return the feature maps decoded, where the batch is: (B, T, D) in a float dtype."""
        return decode_features(self.feature_map)

    def to(self, device: torch.device | str) -> Self:
        """Return the batch with all tensors on ``device``.

        A CUDA device copies while work goes on here, and nothing has to wait for it: what is not in
        page-locked memory torch puts aside first, and what is, it keeps until it was copied. Any
        other copy is complete when this returns, as the memory it is made from is used again.
        """
        is_cuda = torch.device(device).type == "cuda"
        return self._map(lambda tensor: tensor.to(device, non_blocking=is_cuda))

    def pin_memory(self) -> Self:
        """Return the batch in page-locked memory, all of it, from which a GPU copies faster."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        moved: dict[str, Any] = {
            field.name: function(value)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **moved)
