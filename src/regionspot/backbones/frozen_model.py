"""A frozen model of images: the base class of localizers and encoders."""

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from regionspot.backbones.execution import Execution, to_device
from regionspot.backbones.pixels import ImageArray, check_image, resize_bilinear


class FrozenModel(ABC):
    """A frozen model with its preprocessing."""

    resize_rule: ClassVar[str]
    """How images become the model's input; part of a cache's fingerprint."""

    def __init__(self, module: nn.Module, *, execution: Execution) -> None:
        """Store the model.

        Args:
            module: The model, frozen, in eval mode; its weights are hashed into the fingerprint.
            execution: How the forward passes are run.
        """
        self.module = module
        self.execution = execution

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.module.parameters()).device

    def to(self, device: torch.device) -> Self:
        """Move the model to a device, and return self."""
        self.module.to(device)
        return self

    def resize(self, image: ImageArray) -> Tensor:
        """Resize an image for the model, bilinear with antialias, in whole levels.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            (3, h, w) uint8 on the CPU; h and w are `frame_size_hw`.

        Raises:
            ShapeError: The image is not (H, W, 3) uint8, or too elongated to keep a pixel.
        """
        resized = resize_bilinear(image, self.frame_size_hw(check_image(image)))
        return torch.from_numpy(resized).permute(2, 0, 1)

    def preprocess(self, image: ImageArray) -> Tensor:
        """Turn an image, (H, W, 3) uint8 RGB, into the model's input.

        Returns:
            (3, S, S) float32, on the model's device; S is the side of its square input.

        Raises:
            ShapeError: See `resize`.
        """
        return self.normalise(self.resize(image))

    @abstractmethod
    def frame_size_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width of an image in the model's input.

        The image is in the top left corner of the input; the rest is padding.
        """

    @abstractmethod
    def normalise(self, resized: Tensor) -> Tensor:
        """Turn the output of `resize`, (3, h, w) uint8, into the model's input, float32.

        Runs on the model's device: bytes are cheaper to copy there than floats.
        """

    @abstractmethod
    def reference(self) -> Self:
        """Return the same model, run in float32 and not compiled."""

    def _standardised(
        self, resized: Tensor, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> Tensor:
        """Normalise (..., 3, H, W) uint8 with the mean and deviation, 0 to 1, of each channel."""
        levels = to_device(resized, self.device).float()
        mean_311, std_311 = (
            to_device(torch.tensor(values), levels.device)[:, None, None] for values in (mean, std)
        )
        return (levels / 255 - mean_311) / std_311
