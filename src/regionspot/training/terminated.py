"""Ctrl-C and SIGTERM, by which schedulers end a run: all ranks stop after the same, saved step."""

import signal
import threading
from contextlib import ExitStack, suppress
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from typing_extensions import override

from regionspot.core.stopping import (
    StoppedError,
    answer_signal,
    forget_signal,
    noted_signal,
    safe_points,
    stopped_by,
)

_STEPS_BETWEEN_LOOKS = 16


class EndTogether(pl.Callback):
    """Ends training on all ranks after the same step, once any of them was sent a signal.

    The checkpoint callbacks without a ``monitor`` write a checkpoint then, so that no step is lost.

    SIGTERM is answered here also where training is started from Python, in place of Lightning 2.6's
    own handler, which lets ranks speak with each other from inside the signal, in the middle of a
    step: two of them then wait for ever. With several GPUs it is looked at every few steps, as the
    ranks have to wait for each other to do so.
    """

    def __init__(self) -> None:
        self._step = 0
        self._safe_points = ExitStack()

    @override
    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        _replace_lightnings_handler()

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        _replace_lightnings_handler()

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        _replace_lightnings_handler()
        forget_signal()
        self._step = trainer.global_step
        self._safe_points.enter_context(safe_points())
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
        if is_step and (trainer.world_size == 1 or self._is_time_to_look(trainer)):
            self._end_if_asked(trainer, pl_module)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._leave_safe_points()
        self._end_if_asked(trainer, pl_module)

    @override
    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._leave_safe_points()

    def _leave_safe_points(self) -> None:
        with suppress(StoppedError):  # raised where a checkpoint is written, too
            self._safe_points.close()

    def _end_if_asked(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write a checkpoint and raise, on all ranks, if a signal came to any of them."""
        number = noted_signal()
        if trainer.world_size > 1:
            mine = torch.tensor(number, device=trainer.strategy.root_device)
            number = int(trainer.strategy.reduce(mine, reduce_op="max"))
        if not number:
            return
        stop = stopped_by(number)
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.monitor is None:
                callback.save_on_exception = True
                # Here, where all ranks are: Lightning does so when some may have ended.
                callback.on_exception(trainer, pl_module, stop)
        raise stop

    @staticmethod
    def _is_time_to_look(trainer: pl.Trainer) -> bool:
        on_cpu = trainer.strategy.root_device.type == "cpu"
        return on_cpu or trainer.global_step % _STEPS_BETWEEN_LOOKS == 0


def _replace_lightnings_handler() -> None:
    """Answer SIGTERM; Lightning puts back what was there before its own when the run ends."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, answer_signal)


def _nothing() -> None:
    pass
