"""Masks as SAM decodes them: small logits, enlarged to the image's size one by one on access.

Shape letters: R regions, N masks, H W an image, h w the grid of the mask logits.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self, overload

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor
from torch.nn import functional as F

_BAND_PIXELS = 1 << 22
"""Pixels of a mask that are computed at once, in float32: 16 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskFrame:
    """Enlarges mask logits to the original image's size; this one is for SAM 2.

    It stores sizes only, so that masks can be made without the model.
    """

    size_hw: tuple[int, int]
    """Height and width of the original image in pixels."""

    def inside(self, logits_NHW: Tensor) -> Tensor:
        """Return the part of mask logits that the image covers."""
        return logits_NHW

    def enlarge(self, logits_NHW: Tensor) -> Tensor:
        """Enlarge mask logits, (N, h, w), to the image's size, (N, H, W), all at once."""
        return bilinear(self.inside(logits_NHW), self.size_hw)

    def mask(self, logits_HW: Tensor, threshold: float) -> NDArray[np.bool_]:
        """Enlarge the logits of one mask, (h, w), and threshold them, to (H, W) bool.

        Large masks are computed in bands of columns, bit-equal to `enlarge`: torch interpolates
        along rows, then along columns, so that the first step can be shared by all bands. Along a
        side that keeps its length, a step multiplies by 1 and adds 0.
        """
        height, width = self.size_hw
        inside = self.inside(logits_HW[None])
        num_bands = min(width, -(-height * width // _BAND_PIXELS))
        if num_bands > 1:
            inside = bilinear(inside, (inside.shape[1], width))
        mask = torch.zeros(1, height, width, dtype=torch.bool, device=logits_HW.device)
        # Bands of similar width: for tiny outputs torch has another kernel, which rounds otherwise.
        parts = inside.tensor_split(num_bands, -1)
        for logits_1HW, band_1HW in zip(parts, mask.tensor_split(num_bands, -1), strict=True):
            if threshold >= 0 >= logits_1HW.amax():
                continue  # interpolating values of 0 or less gives none above 0
            enlarged = bilinear(logits_1HW, (height, band_1HW.shape[2]))
            torch.gt(enlarged, threshold, out=band_1HW)
        return mask[0].cpu().numpy()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodedMasks:
    """Masks of R regions, stored as logits: like an (R, H, W) bool array that is computed lazily.

    ``masks[i]`` computes one mask, (H, W) bool; iterating computes one at a time; a slice or an
    array of indices selects without computing any; ``numpy.asarray(masks)`` computes all.
    """

    logits: Tensor
    """Mask logits on the model's grid, (R, h, w) float32."""
    threshold: float
    """The logit above which a pixel belongs to a mask."""
    frame: MaskFrame
    """How they are enlarged."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of the array of all masks, (R, H, W)."""
        return (len(self), *self.frame.size_hw)

    def __len__(self) -> int:
        return len(self.logits)

    def __iter__(self) -> Iterator[NDArray[np.bool_]]:
        return (self[row] for row in range(len(self)))

    @overload
    def __getitem__(self, rows: int) -> NDArray[np.bool_]: ...

    @overload
    def __getitem__(self, rows: slice | NDArray[np.intp]) -> Self: ...

    @torch.no_grad()
    def __getitem__(self, rows: int | slice | NDArray[np.intp]) -> NDArray[np.bool_] | Self:
        if isinstance(rows, slice | np.ndarray):
            chosen = np.arange(len(self))[rows].tolist()
            return replace(self, logits=self.logits[chosen])  # a copy: a view would pickle all rows
        return self.frame.mask(self.logits[rows], self.threshold)

    def __array__(
        self,
        dtype: DTypeLike | None = None,
        copy: bool | None = None,  # noqa: FBT001 - numpy's signature
    ) -> NDArray[Any]:
        masks = np.empty(self.shape, np.bool_)
        for row, mask in enumerate(self):
            masks[row] = mask
        return masks if dtype is None else masks.astype(dtype, copy=False)

    def cpu(self) -> Self:
        """Return the same masks, computed on the CPU."""
        return replace(self, logits=self.logits.cpu())


def bilinear(logits_NHW: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Resize mask logits, (N, H, W), as both generations of SAM do."""
    return F.interpolate(logits_NHW[:, None], size_hw, mode="bilinear", align_corners=False)[:, 0]
