"""The loss of each data set, where several are mixed."""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from regionspot.data import RegionBatch
from regionspot.training.throughput import is_logging_step


class LossByCache(pl.Callback):
    """Logs ``train/loss/<name>``: the mean loss of each cache's batches since it was last logged.

    ``train/loss`` jumps from batch to batch, as every batch is of another cache. A cache that had
    no batch since then is logged with its last value.

    Args:
        names: Names of the training caches. Of several with one name each is also numbered.
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
            # Of all ranks, which have batches of the same caches: they are planned together.
            mean = torch.stack(losses).mean()
            pl_module.log(self._keys[source], mean, sync_dist=True, batch_size=1)
        self._losses.clear()
        self._logged_step = step
