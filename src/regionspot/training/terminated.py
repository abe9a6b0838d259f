"""SIGTERM, by which schedulers end a run: all ranks stop after the same step, which is saved."""

import signal
import threading
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

_STEPS_BETWEEN_LOOKS = 16


class EndTogether(pl.Callback):
    """Ends training on all ranks after the same step, once any of them was sent SIGTERM.

    The checkpoint callbacks without a ``monitor`` write a checkpoint then, so that no step is lost.

    In place of Lightning 2.6's own handler, which lets ranks speak with each other from inside the
    signal, in the middle of a step: two of them then wait for ever. With several GPUs it is looked
    at every few steps, as the ranks have to wait for each other to do so.
    """

    def __init__(self) -> None:
        self._asked = False
        self._step = 0

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._asked = False
        self._step = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            # Lightning puts back what was there before its own when the run ends.
            signal.signal(signal.SIGTERM, self._ask)
        # Lightning asks rank 0 before each batch, too, for which a GPU has to be waited for.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]  # noqa: SLF001

    @override
    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        is_step, self._step = trainer.global_step > self._step, trainer.global_step
        # Of gradients that are still added up a checkpoint knows nothing.
        if is_step and self._is_asked(trainer):
            end = SIGTERMException()
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, ModelCheckpoint) and callback.monitor is None:
                    callback.save_on_exception = True
                    # Here, where all ranks are: Lightning does so when some may have ended.
                    callback.on_exception(trainer, pl_module, end)
            raise end

    def _is_asked(self, trainer: pl.Trainer) -> bool:
        if trainer.world_size == 1:
            return self._asked
        if not self._is_time_to_look(trainer):
            return False
        mine = torch.tensor(int(self._asked), device=trainer.strategy.root_device)
        return bool(trainer.strategy.reduce(mine, reduce_op="sum"))

    @staticmethod
    def _is_time_to_look(trainer: pl.Trainer) -> bool:
        on_cpu = trainer.strategy.root_device.type == "cpu"
        return on_cpu or trainer.global_step % _STEPS_BETWEEN_LOOKS == 0

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True


def _nothing() -> None:
    pass
