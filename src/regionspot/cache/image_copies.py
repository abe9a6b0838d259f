"""Copies the arrays of images out of memory maps, straight to where a batch wants them.

To make a view of an array and to copy from it takes NumPy a microsecond, in which no other thread
may run. With five arrays an image that is a fifth of the time in which half a megabyte is copied,
and it keeps two threads from being twice as fast as one. So this goes by addresses.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regionspot.cache.feature_codec import StoredForm
from regionspot.core.errors import ShapeError

_SIGNATURE = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
# The same C function twice: during the first, other threads may run Python; the second saves the
# time that it takes to let them.
_copy_long = ctypes.CDLL(None).memmove
_copy_short = ctypes.PyDLL(None).memmove
for _copy in (_copy_long, _copy_short):
    _copy.argtypes, _copy.restype = _SIGNATURE, None


class BatchTargets:
    """Padded arrays of a batch, to be filled image by image.

    Args:
        arrays: In the order of `ARRAY_MEMBERS`: feature maps (B, T, W), position tokens (B, R, S),
            boxes (B, R, 4), labels (B, R), box scores (B, R), all C-contiguous and writable.
        feature_map_form: How feature maps are stored.
        token_dim: Width of stored position tokens, S.

    Raises:
        ShapeError: An array has another shape or dtype than what is stored.
    """

    def __init__(
        self, arrays: Sequence[NDArray[Any]], *, feature_map_form: StoredForm, token_dim: int
    ) -> None:
        batch_size, num_regions = arrays[1].shape[:2]
        wanted: tuple[tuple[str, tuple[int, ...]], ...] = (
            (feature_map_form.dtype, (batch_size, *feature_map_form.shape)),
            ("<f2", (batch_size, num_regions, token_dim)),
            ("<f4", (batch_size, num_regions, 4)),
            ("<i8", (batch_size, num_regions)),
            ("<f4", (batch_size, num_regions)),
        )
        for array, (dtype, shape) in zip(arrays, wanted, strict=True):
            fits = array.shape == shape and array.dtype == np.dtype(dtype)
            if not (fits and array.flags.c_contiguous and array.flags.writeable):
                raise ShapeError(
                    f"to be filled: {array.dtype} {array.shape}; wanted {dtype} {shape}, contiguous"
                    " and writable."
                )
        self.batch_size, self.num_regions = batch_size, num_regions
        self._arrays = arrays  # kept, as what follows are addresses in them
        self._rows = [(array.ctypes.data, array.strides[0]) for array in arrays]
        self._map_bytes = feature_map_form.num_bytes
        self._token_bytes = 2 * token_dim

    def fill(self, row: int, shard: int, data_offsets: Sequence[int], num_regions: int) -> None:
        """Copy one image.

        Args:
            row: Which image of the batch.
            shard: Address of the memory map of its shard, which must stay mapped meanwhile.
            data_offsets: Where its arrays start in the shard.
            num_regions: Its regions.

        Raises:
            ShapeError: It is no image of the batch, or has more regions than there is room for.
        """
        if not (0 <= row < self.batch_size and 0 <= num_regions <= self.num_regions):
            raise ShapeError(
                f"image {row} with {num_regions} regions does not fit into a batch of"
                f" {self.batch_size} images of {self.num_regions} regions."
            )
        (maps, map_row), (tokens, token_row), (boxes, box_row), (labels, label_row), scores = (
            self._rows
        )
        at_map, at_tokens, at_boxes, at_labels, at_scores = data_offsets
        # Written out, as this runs for every image of every step.
        _copy_long(maps + row * map_row, shard + at_map, self._map_bytes)
        _copy_short(tokens + row * token_row, shard + at_tokens, num_regions * self._token_bytes)
        _copy_short(boxes + row * box_row, shard + at_boxes, num_regions * 16)
        _copy_short(labels + row * label_row, shard + at_labels, num_regions * 8)
        _copy_short(scores[0] + row * scores[1], shard + at_scores, num_regions * 4)
