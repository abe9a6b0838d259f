"""Copies the arrays of images out of memory maps into the tensors of a batch.

In NumPy, making a view and copying from it holds the GIL for one or two microseconds. With five
arrays per image that is a seventh of the time to copy half a megabyte, and two threads are then
hardly faster than one. So this copies by addresses.
"""

import ctypes
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from regionspot.core.errors import ShapeError

_SIGNATURE = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
# The same C function twice: CDLL releases the GIL during the call; PyDLL saves the time of that.
_copy_long = ctypes.CDLL(None).memmove
_copy_short = ctypes.PyDLL(None).memmove
for _copy in (_copy_long, _copy_short):
    _copy.argtypes, _copy.restype = _SIGNATURE, None


class BatchTargets:
    """Padded tensors of a batch, filled image by image.

    Args:
        tensors: In the order of `ARRAY_MEMBERS`: feature maps (B, T, W), position tokens (B, R, S)
            float16, boxes (B, R, 4) float32, labels (B, R) int64, box scores (B, R) float32, all
            contiguous, on the CPU.
        feature_map_shape: Shape of a stored feature map, (T, W).
        feature_map_dtype: Its dtype, see `FeatureCodec.torch_dtype`.
        token_dim: Width of stored position tokens, S.

    Raises:
        ShapeError: A tensor has another shape or dtype than the stored arrays.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        *,
        feature_map_shape: tuple[int, int],
        feature_map_dtype: torch.dtype,
        token_dim: int,
    ) -> None:
        batch_size, num_regions = tensors[1].shape[:2]
        wanted: tuple[tuple[torch.dtype, tuple[int, ...]], ...] = (
            (feature_map_dtype, (batch_size, *feature_map_shape)),
            (torch.float16, (batch_size, num_regions, token_dim)),
            (torch.float32, (batch_size, num_regions, 4)),
            (torch.int64, (batch_size, num_regions)),
            (torch.float32, (batch_size, num_regions)),
        )
        for tensor, (dtype, shape) in zip(tensors, wanted, strict=True):
            fits = tensor.shape == shape and tensor.dtype == dtype
            if not (fits and tensor.is_contiguous() and tensor.is_cpu):
                raise ShapeError(
                    f"to be filled: {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}; wanted"
                    f" {dtype} {shape} on the CPU, contiguous."
                )
        self.batch_size, self.num_regions = batch_size, num_regions
        self._tensors = tensors  # keeps the addresses below valid
        self._addresses = tuple(tensor.data_ptr() for tensor in tensors)
        self._map_bytes = math.prod(feature_map_shape) * feature_map_dtype.itemsize
        self._token_bytes = token_dim * torch.float16.itemsize

    def fill(self, row: int, shard: int, data_offsets: Sequence[int], num_regions: int) -> None:
        """Copy one image.

        Args:
            row: Position in the batch.
            shard: Address of the memory map of its shard, which must stay mapped.
            data_offsets: Starts of its arrays in the shard; those of `ARRAY_MEMBERS` come first.
            num_regions: Number of its regions.

        Raises:
            ShapeError: ``row`` is not in the batch, or the image has too many regions.
        """
        if not (0 <= row < self.batch_size and 0 <= num_regions <= self.num_regions):
            raise ShapeError(
                f"image {row} with {num_regions} regions does not fit into a batch of"
                f" {self.batch_size} images of {self.num_regions} regions."
            )
        maps, tokens, boxes, labels, scores = self._addresses
        at_map, at_tokens, at_boxes, at_labels, at_scores, *_ = data_offsets
        map_bytes, token_bytes = self._map_bytes, self._token_bytes
        region = row * self.num_regions  # the first one of the row
        # Written out, as this runs for every image of every step.
        _copy_long(maps + row * map_bytes, shard + at_map, map_bytes)
        _copy_short(tokens + region * token_bytes, shard + at_tokens, num_regions * token_bytes)
        _copy_short(boxes + region * 16, shard + at_boxes, num_regions * 16)
        _copy_short(labels + region * 8, shard + at_labels, num_regions * 8)
        _copy_short(scores + region * 4, shard + at_scores, num_regions * 4)
