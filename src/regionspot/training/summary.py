"""What a training took: the line at its end, and ``summary.json``."""

import dataclasses
import json
import platform
from dataclasses import dataclass

import lightning.pytorch as pl
import torch

from regionspot.training.throughput import Throughput

SUMMARY_NAME = "summary.json"
_SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSummary:
    """Totals of a training, of all runs that were resumed from one another."""

    steps: int
    """Optimizer steps."""
    images: int
    """Images trained on, over all devices."""
    training_s: float
    """Seconds of training, without validation."""
    validation_s: float
    """Seconds of validation."""
    images_per_s: float
    """Images a second of training, over all devices."""
    data_wait: float
    """Share of the training time spent waiting for data, in [0, 1]."""
    device: str
    """What it ran on."""
    num_devices: int
    """How many of them; on a CPU the number of processes."""
    training_device_hours: float
    """Devices times hours of training."""
    device_hours: float
    """The same with validation."""

    def to_json(self) -> str:
        """Write the totals in JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    def line(self) -> str:
        """Say it in one line."""
        unit = "CPU" if self.device.startswith("CPU") else "GPU"
        return (
            f"{self.steps} steps in {self.training_s:.1f} s: {self.images} images"
            f" ({self.images_per_s:.0f} images/s, {self.data_wait:.1%} of the time waiting for"
            f" data). {self.training_device_hours:.3g} {unit} hours, {self.device_hours:.3g} with"
            f" validation ({self.num_devices} x {self.device})."
        )


def summarize(trainer: pl.Trainer, throughput: Throughput) -> TrainingSummary:
    """Return the totals of a training that has ended."""
    return TrainingSummary(
        steps=trainer.global_step,
        images=throughput.num_images,
        training_s=throughput.seconds,
        validation_s=throughput.validation_seconds,
        images_per_s=throughput.images_per_s,
        data_wait=throughput.data_wait,
        device=_device_name(trainer.strategy.root_device),
        num_devices=trainer.world_size,
        training_device_hours=throughput.training_device_seconds / _SECONDS_PER_HOUR,
        device_hours=throughput.device_seconds / _SECONDS_PER_HOUR,
    )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"CPU, {platform.processor() or platform.machine()}"
    return device.type
