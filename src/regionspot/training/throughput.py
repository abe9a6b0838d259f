"""Throughput, loss of each cache, and the totals that a run prints and writes at its end."""

import dataclasses
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from regionspot.data import CacheLoader, RegionBatch


def is_logging_step(trainer: pl.Trainer, step: int) -> bool:
    """Return whether Lightning logs at the end of ``step``, counted from 1."""
    interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined] # set by a connector
    return interval > 0 and step % interval == 0


class ImagesPerSecond(pl.Callback):
    """Logs images and regions per second and the fraction of time spent waiting for data.

    Totals are over all devices, and kept in checkpoints, from which a resumed run continues.

    Attributes:
        num_images: Number of images trained on.
        seconds: Time spent training, without validation.
        validation_seconds: Time spent on validation.
        seconds_waited: Part of ``seconds`` in which this process waited for a batch.
        training_device_seconds: ``seconds``, multiplied by the number of devices.
        device_seconds: The same including validation.
    """

    def __init__(self) -> None:
        self.num_images = 0
        self.seconds = 0.0
        self.validation_seconds = 0.0
        self.seconds_waited = 0.0
        self.training_device_seconds = 0.0
        self.device_seconds = 0.0
        self._num_regions = 0  # since it was last logged
        self._since: float | None = None  # last reading of the clock; None while it is stopped
        self._validating = False
        self._num_devices = 1
        self._waited_before = 0.0
        self._logged_step = 0
        self._logged = (0, 0.0, 0.0)  # images, seconds, seconds waited

    @property
    def images_per_s(self) -> float:
        """Images per second over the whole training and all devices; 0 before the first step."""
        return self.num_images / self.seconds if self.seconds else 0.0

    @property
    def data_wait(self) -> float:
        """Fraction of training time spent waiting for data; 0 before the first step."""
        return self.seconds_waited / self.seconds if self.seconds else 0.0

    @override
    def state_dict(self) -> dict[str, Any]:
        self._take_time()
        return {name: getattr(self, name) for name in _TOTALS}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in _TOTALS:
            setattr(self, name, state_dict[name])

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._num_devices = trainer.world_size
        self._logged_step = trainer.global_step
        self._waited_before = self.seconds_waited - _seconds_waited(trainer)
        self._logged = (self.num_images, self.seconds, self.seconds_waited)
        self._since = time.perf_counter()

    @override
    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: RegionBatch,
        batch_idx: int,
    ) -> None:
        self.num_images += len(batch) * trainer.world_size
        self.seconds_waited = self._waited_before + _seconds_waited(trainer)
        self._num_regions += batch.num_regions_of_step
        step = trainer.global_step
        # With accumulated gradients several batches end in the same step.
        if step == self._logged_step or not is_logging_step(trainer, step):
            return
        self._take_time()
        images, seconds, waited = self._logged
        elapsed = max(self.seconds - seconds, 1e-9)
        for name, value, in_progress_bar in (
            ("images_per_s", (self.num_images - images) / elapsed, True),
            ("data_wait", (self.seconds_waited - waited) / elapsed, True),
            ("regions_per_s", self._num_regions / elapsed, False),
            ("images", float(self.num_images), False),
        ):
            pl_module.log(
                f"train/{name}", torch.tensor(value), prog_bar=in_progress_bar, batch_size=1
            )
        self._num_regions = 0
        self._logged_step = step
        self._logged = (self.num_images, self.seconds, self.seconds_waited)

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._take_time()
        self._validating = True

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._take_time()
        self._validating = False

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._take_time()
        self._since = None

    def _take_time(self) -> None:
        """Add the time since the last reading to training or validation, if the clock runs."""
        if self._since is None:
            return
        now = time.perf_counter()
        elapsed = now - self._since
        self._since = now
        self.device_seconds += elapsed * self._num_devices
        if self._validating:
            self.validation_seconds += elapsed
        else:
            self.seconds += elapsed
            self.training_device_seconds += elapsed * self._num_devices


_TOTALS = (
    *("num_images", "seconds", "validation_seconds", "seconds_waited"),
    *("training_device_seconds", "device_seconds"),
)


def _seconds_waited(trainer: pl.Trainer) -> float:
    loader = trainer.train_dataloader
    return loader.seconds_waited if isinstance(loader, CacheLoader) else 0.0


class LossByCache(pl.Callback):
    """Logs ``train/loss/<name>``: the mean loss of each cache's batches since the last logging.

    Useful since ``train/loss`` varies with the cache that a batch is from. A cache without a batch
    since then keeps its last value.

    Args:
        names: Names of the training caches; equal names are distinguished by a number.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._keys = [
            f"train/loss/{name}" if names.count(name) == 1 else f"train/loss/{name}_{number}"
            for number, name in enumerate(names)
        ]
        # Tensors stay on the device until they are logged.
        self._losses: dict[int, list[Tensor]] = {}
        self._logged_step = 0

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._logged_step = trainer.global_step

    @override
    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: RegionBatch,
        batch_idx: int,
    ) -> None:
        self._losses.setdefault(batch.source, []).append(outputs["batch_loss"])
        step = trainer.global_step
        if step == self._logged_step or not is_logging_step(trainer, step):
            return
        for source, losses in sorted(self._losses.items()):
            # All ranks have batches of the same caches, so that they can be averaged.
            mean = torch.stack(losses).mean()
            pl_module.log(self._keys[source], mean, sync_dist=True, batch_size=1)
        self._losses.clear()
        self._logged_step = step


SUMMARY_NAME = "summary.json"
_SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSummary:
    """Totals of a training, over all runs that resumed one another."""

    steps: int
    """Optimizer steps."""
    images: int
    """Number of images trained on, over all devices."""
    training_s: float
    """Seconds of training, without validation."""
    validation_s: float
    """Seconds of validation."""
    images_per_s: float
    """Images per second of training, over all devices."""
    data_wait: float
    """Fraction of training time spent waiting for data, in [0, 1]."""
    device: str
    """Name of the device."""
    num_devices: int
    """Number of devices; on a CPU, of processes."""
    training_device_hours: float
    """Number of devices times hours of training."""
    device_hours: float
    """The same including validation."""
    loss: float | None
    """Last logged training loss."""
    top1: float | None
    """Top-1 accuracy of the last validation, in [0, 1]; None without validation."""
    AP: float | None
    """AP of the last validation, in percent; None if it is not computed."""

    def to_json(self) -> str:
        """Return the totals as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    def line(self) -> str:
        """Return the totals as one line of text."""
        unit = "CPU" if self.device.startswith("CPU") else "GPU"
        text = (
            f"{self.steps} steps in {self.training_s:.1f} s: {self.images} images"
            f" ({self.images_per_s:.0f} images/s, {self.data_wait:.1%} of the time waiting for"
            f" data). {self.training_device_hours:.3g} {unit} hours, {self.device_hours:.3g} with"
            f" validation ({self.num_devices} x {self.device})."
        )
        metrics = [f"loss {self.loss:.4g}"] if self.loss is not None else []
        metrics += [f"top-1 {self.top1:.1%}"] if self.top1 is not None else []
        metrics += [f"AP {self.AP:.1f}"] if self.AP is not None else []
        shown = ", ".join(metrics)
        return f"{text} {shown[0].upper()}{shown[1:]}." if shown else text


def summarize(trainer: pl.Trainer, throughput: ImagesPerSecond) -> TrainingSummary:
    """Return the totals of a training that has ended."""
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
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
        loss=logged.get("train/loss"),
        top1=logged.get("val/top1"),
        AP=logged.get("val/AP"),
    )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"CPU, {platform.processor() or platform.machine()}"
    return device.type
