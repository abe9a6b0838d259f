"""How fast training goes, how long it waits for data, and how long it took in all."""

import time
from typing import Any

import lightning.pytorch as pl
import torch
from typing_extensions import override

from regionspot.data import CacheLoader, RegionBatch


def is_logging_step(trainer: pl.Trainer, step: int) -> bool:
    """Say whether Lightning writes to its loggers at the end of ``step``, counted from 1."""
    interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined] # set by a connector
    return interval > 0 and step % interval == 0


class Throughput(pl.Callback):
    """Logs images and regions a second and the share of time spent waiting for data.

    The totals are those of a whole training: a run that is resumed goes on from what its
    checkpoint says. They are of all devices together, as far as this process can tell: every
    device gets the same number of images.

    Attributes:
        num_images: Images trained on so far.
        seconds: Time spent training so far, without validation.
        validation_seconds: Time spent on validation so far.
        seconds_waited: Part of ``seconds`` in which this process waited for a batch.
        training_device_seconds: ``seconds``, times the number of devices.
        device_seconds: The same with validation.
    """

    def __init__(self) -> None:
        self.num_images = 0
        self.seconds = 0.0
        self.validation_seconds = 0.0
        self.seconds_waited = 0.0
        self.training_device_seconds = 0.0
        self.device_seconds = 0.0
        self._num_regions = 0  # since the last time it was logged
        self._since: float | None = None  # when the clock was last read; None while it stands
        self._validating = False
        self._num_devices = 1
        self._waited_before = 0.0
        self._logged_step = 0
        self._logged = (0, 0.0, 0.0)  # images, seconds, seconds waited

    @property
    def images_per_s(self) -> float:
        """Images a second over the whole training, by all devices; 0 before the first step."""
        return self.num_images / self.seconds if self.seconds else 0.0

    @property
    def data_wait(self) -> float:
        """Share of the training time spent waiting for data; 0 before the first step."""
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
        # With accumulated gradients several batches end in one and the same step.
        if step == self._logged_step or not is_logging_step(trainer, step):
            return
        self._take_time()
        images, seconds, waited = self._logged
        elapsed = max(self.seconds - seconds, 1e-9)
        shown = {
            "train/images_per_s": (self.num_images - images) / elapsed,
            "train/data_wait": (self.seconds_waited - waited) / elapsed,
        }
        rest = {
            "train/regions_per_s": self._num_regions / elapsed,
            "train/images": float(self.num_images),
        }
        for rates, in_progress_bar in ((shown, True), (rest, False)):
            pl_module.log_dict(
                {name: torch.tensor(rate) for name, rate in rates.items()},
                prog_bar=in_progress_bar,
                batch_size=1,
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
        """Add the time since the last reading, if the clock runs, to what it was spent on."""
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
