"""When to look at a number costs time: a device works behind what it is told."""

from torch import Tensor


def would_sync(tensor: Tensor) -> bool:
    """Say whether a device computes a tensor, perhaps still.

    To ask for one of its values, or for how many of them are true, then takes until the device has
    done all that it was told, and leaves it without work meanwhile.
    """
    return tensor.device.type != "cpu"
