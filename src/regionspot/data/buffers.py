"""Large buffers that are used again as soon as nobody looks at them any more.

A feature map batch is several megabytes. Allocating one for every step costs page faults, which is
most of the time of a straightforward loader.
"""

import math
import weakref
from collections import deque

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class BufferPool:
    """Hands out tensors and takes their memory back when their last user is gone.

    A tensor may be kept for as long as one likes (by autograd, by a callback): only then is its
    memory not used again, and the pool grows.

    Args:
        pin_memory: Whether to use page-locked memory, from which a GPU copies faster. torch has a
            pool of that kind itself; it also knows when a GPU has copied what it was to copy.
    """

    def __init__(self, *, pin_memory: bool = False) -> None:
        self._pin_memory = pin_memory
        # Appending and popping are atomic: no lock.
        self._free: deque[NDArray[np.uint8]] = deque()
        self.num_allocated = 0

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a contiguous tensor of ``shape`` with whatever content."""
        num_bytes = math.prod(shape) * dtype.itemsize
        # Without a byte: the share of a rank that a small batch leaves without an image.
        if self._pin_memory or num_bytes == 0:
            return torch.empty(shape, dtype=dtype, pin_memory=self._pin_memory)
        storage = self._free_storage(num_bytes)
        # torch keeps the array alive until the memory of the tensor and of all its views is let
        # go; that is the moment to take the storage back.
        array = storage[:num_bytes]
        weakref.finalize(array, self._free.append, storage).atexit = False
        return torch.from_numpy(array).view(dtype).view(shape)

    def _free_storage(self, num_bytes: int) -> NDArray[np.uint8]:
        while self._free:
            free = self._free.pop()
            if len(free) >= num_bytes:
                return free  # smaller ones are dropped: batches only ever grow to a maximum
        self.num_allocated += 1
        return np.empty(num_bytes, np.uint8)
