"""How a frozen model is run: device, precision, and whether it is compiled.

Localizers and encoders run their forward passes in the autocast block of their `Execution`, and
return float32 in any precision. Under autocast, matrix products and convolutions are in 16 bits.
Norms and with them the residual stream (`keep_norms_in_float32`), softmax (by torch itself), and
the positions of prompts, which are sines of large numbers (`without_autocast`), stay in float32.

Copies to a CUDA device and back (`to_device`, `HostCopies`) do not synchronize, so that the next
batch is queued while the device still computes. On a CPU they do nothing.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from regionspot.backbones.presets import Precision
from regionspot.core.errors import ConfigError
from regionspot.core.stopping import check_stop

Encode = Callable[[Tensor], Tensor]
"""An image encoder's forward pass: (B, 3, H, W) to (B, ...)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How the forward passes of a frozen model are run."""

    precision: Precision = "float32"
    """Precision of matrix products and convolutions."""
    compiled_batch_size: int | None = None
    """Batch size that the image encoder is compiled for; None if it is not compiled."""

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context in which to run forward passes on a device."""
        if self.precision == "float32":
            return nullcontext() if device.type == "cpu" else _without_tf32()
        return torch.autocast(device.type, dtype=getattr(torch, self.precision))

    def compiled(self, encode: Encode) -> Encode:
        """Return the image encoder, which compiles on its first batch if wanted.

        It is compiled for one batch size only (see `encode_in_batches`). With others it would be
        compiled again, or differently, so that results would depend on which batch comes first.
        """
        if self.compiled_batch_size is None:
            return encode
        compiled: Encode = torch.compile(encode, dynamic=False)
        return compiled

    def encode_in_batches(
        self, encode: Encode, pixels_BCHW: Tensor, *, at_once: int | None = None
    ) -> Tensor:
        """Run an image encoder from `compiled` over preprocessed images, at most ``at_once``.

        For a compiled encoder the last batch is padded, and its padding is dropped from the result.

        Raises:
            StoppedError: A signal to stop was received.
        """
        sizes = [size for size in (at_once, self.compiled_batch_size) if size is not None]
        size = min(sizes, default=max(1, len(pixels_BCHW)))
        batches = list(pixels_BCHW.split(size))
        if self.compiled_batch_size is not None and (missing := size - len(batches[-1])):
            padding = batches[-1].new_zeros(missing, *pixels_BCHW.shape[1:])
            batches[-1] = torch.cat([batches[-1], padding])
        encoded = []
        for batch in batches:
            check_stop()  # an image takes seconds on a CPU
            encoded.append(encode(batch))
        return torch.cat(encoded)[: len(pixels_BCHW)]


FLOAT32 = Execution()
"""The reference: every operation in float32, nothing compiled."""


def _without_tf32() -> AbstractContextManager[object]:
    """Return a context in which cuDNN's float32 convolutions do not use TF32 (11 bits, not 24)."""
    cudnn = torch.backends.cudnn
    flags: AbstractContextManager[object] = cudnn.flags(
        enabled=cudnn.enabled,
        benchmark=cudnn.benchmark,
        deterministic=cudnn.deterministic,
        allow_tf32=False,
    )
    return flags


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which float32 stays float32, also within autocast."""
    return torch.autocast(device.type, enabled=False)


def keep_norms_in_float32(model: nn.Module, *kinds: type[nn.Module]) -> None:
    """Cast the inputs of a model's norms to float32, also within autocast.

    A norm that returns 16 bits, as open_clip's do, would round the residual stream to 16 bits after
    every block. Without autocast nothing changes.

    Args:
        model: The model; each of its norms gets a hook.
        kinds: Kinds of norms besides `nn.LayerNorm` and its subclasses.
    """
    for module in model.modules():
        if isinstance(module, (nn.LayerNorm, *kinds)):
            module.register_forward_pre_hook(_first_in_float32)


def check_compiles(device: torch.device) -> None:
    """Raise a `ConfigError` if ``torch.compile`` does not work, as without a compiler."""
    try:
        torch.compile(lambda x: x + x)(torch.ones(1, device=device))
    except Exception as error:
        wanted = "Triton, which comes with torch" if device.type == "cuda" else "a C++ compiler"
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"models.compile is true, but torch.compile does not work on {device} here ({reason})."
            f" It needs {wanted} (on a CPU: apt-get install g++, or set the variable CXX); or leave"
            " out models.compile."
        ) from error


def _first_in_float32(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0].float(), *inputs[1:])


def resolve_device(name: str) -> torch.device:
    """Turn a device name into a device that this machine has.

    Args:
        name: "auto" (CUDA if available, else the CPU), "cpu", "cuda", "cuda:1", "mps".

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
            f"device {name!r} was asked for, but torch {torch.__version__} finds"
            f" {torch.cuda.device_count()} CUDA devices: give auto or cpu."
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"device {name!r} was asked for, but there is none: give auto or cpu.")
    return device


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device, in order with the work queued there."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        # Only from page-locked memory: other copies wait until the device is idle.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class HostCopies:
    """Pending copies of tensors from a device to the CPU."""

    def __init__(self, tensors: tuple[Tensor, ...], done: torch.cuda.Event | None) -> None:
        self._tensors = tensors
        self._done = done

    @classmethod
    def start(cls, *tensors: Tensor) -> Self:
        """Queue copies of tensors on one device, after the work that computes them."""
        device = tensors[0].device
        if device.type != "cuda":
            return cls(tuple(tensor.cpu() for tensor in tensors), None)
        # torch copies to page-locked memory here by itself.
        copies = tuple(tensor.to("cpu", non_blocking=True) for tensor in tensors)
        return cls(copies, torch.cuda.current_stream(device).record_event())

    def wait(self) -> tuple[Tensor, ...]:
        """Wait for the copies and return them; may be called from any thread."""
        if self._done is not None:
            self._done.synchronize()
        return self._tensors
