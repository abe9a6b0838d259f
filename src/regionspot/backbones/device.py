"""Where the frozen models run: a name from the command line to a torch device."""

import torch

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
