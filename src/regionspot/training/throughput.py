"""How fast training goes, without the time spent on validation."""

import time
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from regionspot.data import RegionBatch


def is_logging_step(trainer: pl.Trainer, step: int) -> bool:
    """Say whether Lightning writes to its loggers at the end of ``step``, counted from 1."""
    interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined] # set by a connector
    return interval > 0 and step % interval == 0


class Throughput(pl.Callback):
    """Logs images and regions a second, over all devices, and keeps the totals.

    Attributes:
        num_images: Images trained on so far in this run, by this process.
        seconds: Time spent training so far, without validation.
    """

    def __init__(self) -> None:
        self.num_images = 0
        self.seconds = 0.0
        # Stays on the device until it is logged: asking for its value would wait for the GPU.
        self._num_regions: Tensor | int = 0
        self._since: float | None = None  # when the clock was last read; None while it stands
        self._training = False
        self._logged_images, self._logged_seconds = 0, 0.0

    @property
    def images_per_s(self) -> float:
        """Images a second over the whole run, by this process; 0 before the first step."""
        return self.num_images / self.seconds if self.seconds else 0.0

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._training = True
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
        self.num_images += len(batch)
        self._num_regions = self._num_regions + batch.region_mask.sum()
        if not is_logging_step(trainer, trainer.global_step):
            return
        regions = int(self._num_regions)
        self._take_time()
        elapsed = max(self.seconds - self._logged_seconds, 1e-9)
        rates = {
            "train/images_per_s": (self.num_images - self._logged_images) / elapsed,
            "train/regions_per_s": regions / elapsed,
        }
        pl_module.log_dict(
            {name: torch.tensor(rate * trainer.world_size) for name, rate in rates.items()},
            batch_size=max(len(batch), 1),
        )
        self._num_regions = 0
        self._logged_images, self._logged_seconds = self.num_images, self.seconds

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._take_time()
        self._since = None

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._training:  # neither a sanity check nor a validation on its own
            self._since = time.perf_counter()

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._take_time()
        self._training, self._since = False, None

    def _take_time(self) -> None:
        now = time.perf_counter()
        if self._since is not None:
            self.seconds += now - self._since
            self._since = now
