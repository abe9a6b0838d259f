"""What the steps of `RegionSpotModule` hand to Lightning and to callbacks."""

from typing import TypedDict

from torch import Tensor

from regionspot.data import RegionBatch


class TrainingOutput(TypedDict):
    """Of a training step."""

    loss: Tensor
    """What is differentiated: the loss of this rank's images, scaled so that a step is that of one
    process."""
    batch_loss: Tensor
    """Its mean over the ranks is the loss of the whole batch."""


class ValidationOutput(TypedDict):
    """Of a validation step."""

    scores: Tensor
    """Probabilities over the validation vocabulary, (B, R, C) float32; padding holds no meaning."""
    batch: RegionBatch
    """The images they belong to."""
