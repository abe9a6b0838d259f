"""Whether reading a tensor's value waits for its device."""

from torch import Tensor


def would_sync(tensor: Tensor) -> bool:
    """Return whether reading a value of the tensor would wait for its device.

    A GPU works through its queue asynchronously. Reading or counting values waits until the queue
    is empty, and leaves the GPU idle afterwards.
    """
    return tensor.device.type != "cpu"
