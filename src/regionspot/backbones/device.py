"""Where the frozen models run: a device by its name, and the copies there and back.

Neither kind of copy waits for a CUDA device, so that its next work is queued while it is still at
the last. On a CPU both do nothing.
"""

from typing import Self

import torch
from torch import Tensor

from regionspot.core.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """Turn a device name into a device that this machine has.

    Args:
        name: "auto" (CUDA where there is any, else the CPU), or a name of torch's: "cpu", "cuda",
            "cuda:1", "mps".

    Raises:
        ConfigError: The name is not a device's, or this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"device {name!r} is not a device name ({error}): give auto, cpu, cuda or cuda:N."
        ) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name!r} was asked for, but torch {torch.__version__} sees"
            f" {torch.cuda.device_count()} CUDA devices here: give auto or cpu."
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"device {name!r} was asked for, but there is none: give auto or cpu.")
    return device


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device; what follows on the device comes after the copy."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        # From page-locked memory only: other copies wait until the device has done all else.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class HostCopies:
    """Tensors on their way from a device to the memory of the CPU."""

    def __init__(self, tensors: tuple[Tensor, ...], done: torch.cuda.Event | None) -> None:
        self._tensors = tensors
        self._done = done

    @classmethod
    def start(cls, *tensors: Tensor) -> Self:
        """Queue the copies of tensors that are on one device, after the work that makes them."""
        device = tensors[0].device
        if device.type != "cuda":
            return cls(tuple(tensor.cpu() for tensor in tensors), None)
        # To page-locked memory, which torch takes here by itself.
        copies = tuple(tensor.to("cpu", non_blocking=True) for tensor in tensors)
        return cls(copies, torch.cuda.current_stream(device).record_event())

    def wait(self) -> tuple[Tensor, ...]:
        """Return the copies once they are there; may be called from any thread."""
        if self._done is not None:
            self._done.synchronize()
        return self._tensors
