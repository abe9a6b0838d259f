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
        dtype: Element type of the tensors.
        pin_memory: Whether to use page-locked memory, from which a GPU copies faster.
    """

    def __init__(self, dtype: torch.dtype, *, pin_memory: bool = False) -> None:
        self._dtype = dtype
        self._pin_memory = pin_memory
        self._free: deque[Tensor] = deque()  # appending and popping are atomic: no lock
        self.num_allocated = 0

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """Return a contiguous tensor of ``shape`` with whatever content."""
        num_elements = math.prod(shape)
        storage = self._free_storage(num_elements)
        # torch keeps the array alive until the memory of the tensor and of all its views is let
        # go; that is the moment to take the storage back.
        array: NDArray[np.generic] = storage.numpy()[:num_elements]
        weakref.finalize(array, self._free.append, storage).atexit = False
        return torch.from_numpy(array).view(shape)

    def _free_storage(self, num_elements: int) -> Tensor:
        while self._free:
            storage = self._free.popleft()
            if storage.numel() >= num_elements:
                return storage  # smaller ones are dropped: batches only ever grow to a maximum
        self.num_allocated += 1
        return torch.empty(num_elements, dtype=self._dtype, pin_memory=self._pin_memory)
