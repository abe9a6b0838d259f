"""SIGTERM, by which schedulers end a run: all ranks stop after the same step."""

import signal
import threading
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

_BATCHES_BETWEEN_LOOKS = 16


class EndTogether(pl.Callback):
    """Ends training on all ranks after the same batch, once any of them was sent SIGTERM.

    In place of Lightning 2.6's own handler, which lets ranks speak with each other from inside the
    signal, in the middle of a step: two of them then wait for ever. With several GPUs it is looked
    at every few batches, as the ranks have to wait for each other to do so.
    """

    def __init__(self) -> None:
        self._asked = False

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._asked = False
        if threading.current_thread() is threading.main_thread():
            # Lightning puts back what was there before its own when the run ends.
            signal.signal(signal.SIGTERM, self._ask)

    @override
    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.world_size == 1:
            asked = self._asked
        elif self._is_time_to_look(trainer):
            mine = torch.tensor(int(self._asked), device=trainer.strategy.root_device)
            asked = bool(trainer.strategy.reduce(mine, reduce_op="sum"))
        else:
            asked = False
        if asked:
            raise SIGTERMException

    @staticmethod
    def _is_time_to_look(trainer: pl.Trainer) -> bool:
        on_cpu = trainer.strategy.root_device.type == "cpu"
        return on_cpu or trainer.fit_loop.total_batch_idx % _BATCHES_BETWEEN_LOOKS == 0

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True
