"""Callbacks of every training: stop on errors and signals, and reproducible dropout.

`StopOnNonFinite` stops when the loss becomes NaN or infinite, before a checkpoint is written.
`StopOnSigterm` stops all ranks after the same, saved step. `EndSiblingRanks` ends the remaining
ranks when one fails. `BatchSeeds` makes dropout independent of where a run was interrupted.
"""

import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch import Tensor
from typing_extensions import override

from regionspot.core import devices
from regionspot.core.errors import NotFiniteError, RankError, RegionSpotError
from regionspot.core.stopping import (
    StoppedError,
    answer_signal,
    forget_signal,
    noted_signal,
    safe_points,
    stopped_by,
)
from regionspot.data import CachedRegions, RegionBatch

_BATCHES_BETWEEN_LOOKS = 16
_ADVICE = (
    "Look at the learning rate and its warm-up (model.optimizer.lr, model.schedule), at"
    " trainer.precision (32-true is the safest) and at the cache (`regionspot cache verify {}`)."
    " Checkpoints of this run are from before; go on from one with --ckpt_path, or start again."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """What is kept of a batch until its loss is checked."""

    step: int
    """Optimizer steps taken when it ended."""
    keys: tuple[str, ...]
    """Images of this rank."""
    source: int
    """The cache they are from."""
    loss: Tensor
    """Loss of this rank, a scalar on its device."""


class StopOnNonFinite(pl.Callback):
    """Stops training when the loss becomes NaN or infinite, and names the images of the batch.

    On a CPU the loss is checked after every batch. On a GPU a check waits for the device, so that
    losses are checked together: every few batches, before a checkpoint is written, and at the end.
    All ranks check and stop together, at the cost of one sum of a few bytes over the ranks.
    """

    def __init__(self) -> None:
        self._kept: list[_Batch] = []

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._kept = []

    @override
    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: RegionBatch,
        batch_idx: int,
    ) -> None:
        loss = outputs["loss"].detach()
        self._kept.append(
            _Batch(step=trainer.global_step, keys=batch.keys, source=batch.source, loss=loss)
        )
        if not devices.would_sync(loss) or len(self._kept) >= _BATCHES_BETWEEN_LOOKS:
            self.look(trainer)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.look(trainer)

    def look(self, trainer: pl.Trainer) -> None:
        """Check the losses since the last check; all ranks have to call this.

        Raises:
            NotFiniteError: A loss is NaN or infinite on any rank.
        """
        if not self._kept:
            return
        kept, self._kept = self._kept, []
        mine_K = ~torch.stack([batch.loss for batch in kept]).isfinite()
        on_ranks_K = trainer.strategy.reduce(mine_K.int(), reduce_op="sum").tolist()
        for batch, is_mine, num_ranks in zip(kept, mine_K.tolist(), on_ranks_K, strict=True):
            if num_ranks:
                keys = _of_all_ranks(batch.keys if is_mine else (), trainer.world_size)
                raise NotFiniteError(
                    f"the loss of step {batch.step} is not finite. The images of this batch, of"
                    f" {_location(trainer, batch.source)}: {', '.join(keys)}."
                    f" {_ADVICE.format(_location(trainer, batch.source))}"
                )


def check_weights(tensors: Mapping[str, Tensor], *, step: int) -> None:
    """Refuse weights that are not finite, as a checkpoint of them would be useless.

    Args:
        tensors: Weights by name.
        step: Number of optimizer steps taken.

    Raises:
        NotFiniteError: A weight is NaN or infinite.
    """
    names = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if names:
        raise NotFiniteError(
            f"after step {step} weights are not finite, although the loss was: {len(names)}"
            f" tensors, {names[0]} among them. No checkpoint of them is written."
            " Look at the learning rate (model.optimizer.lr), at trainer.precision (32-true is the"
            " safest) and at trainer.gradient_clip_val, and go on from an earlier checkpoint with"
            " --ckpt_path."
        )


def _of_all_ranks(keys: tuple[str, ...], world_size: int) -> list[str]:
    if world_size == 1:
        return list(keys)
    of_ranks: list[tuple[str, ...]] = [()] * world_size
    torch.distributed.all_gather_object(of_ranks, keys)
    return [key for of_rank in of_ranks for key in of_rank]


def _location(trainer: pl.Trainer, source: int) -> str:
    data = getattr(trainer, "datamodule", None)  # attached at run time, see RegionSpotModule
    return str(data.train_caches[source].location) if isinstance(data, CachedRegions) else "?"


_STEPS_BETWEEN_LOOKS = 16


class StopOnSigterm(pl.Callback):
    """Stops training on all ranks after the same step, once any of them received a signal.

    The checkpoint callbacks without a ``monitor`` then write a checkpoint, so that no step is lost.

    This also handles SIGTERM where training is started from Python. It replaces the handler of
    Lightning 2.6, which communicates between ranks within the handler, in the middle of a step, and
    can deadlock. With several GPUs signals are checked every few steps, as ranks wait for each
    other to do so.
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
        # Lightning also asks rank 0 before each batch, which waits for the GPU.
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
        # A checkpoint does not hold gradients that are still being accumulated.
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
        """Write a checkpoint and raise, on all ranks, if any of them received a signal."""
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
                # Here, where all ranks are alive; Lightning does so when some may have ended.
                callback.on_exception(trainer, pl_module, stop)
        raise stop

    @staticmethod
    def _is_time_to_look(trainer: pl.Trainer) -> bool:
        on_cpu = trainer.strategy.root_device.type == "cpu"
        return on_cpu or trainer.global_step % _STEPS_BETWEEN_LOOKS == 0


def _replace_lightnings_handler() -> None:
    """Install our handler of SIGTERM; Lightning restores the former one when the run ends."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, answer_signal)


def _nothing() -> None:
    pass


_WAIT_S = 5.0


class EndSiblingRanks(pl.Callback):
    """Ends the remaining ranks when one fails.

    With ``--trainer.devices 8`` Lightning starts ranks 1 to 7 as child processes of rank 0. When
    rank 0 stops, they are ended, as they would wait for its part of the next gradient. When another
    rank stops, rank 0 finds its connection closed, and reports which rank to look at. (Where it
    notices nothing, as with NCCL, Lightning checks every 5 s and ends all ranks.) torchrun and
    SLURM's ``srun --kill-on-bad-exit`` do the same on their own.
    """

    @override
    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        launcher = trainer.strategy.launcher
        if not isinstance(launcher, _SubprocessScriptLauncher) or not launcher.procs:
            return
        # Signals need no report, and this rank reports its own errors with a message itself.
        told = not isinstance(exception, Exception) or isinstance(exception, RegionSpotError)
        stopped = "" if told else _stopped(launcher.procs)
        launcher.kill(signal.SIGKILL)
        for process in launcher.procs:
            process.wait()
        # Lightning watches this list, and would end rank 0 because of the ended processes in it.
        launcher.procs.clear()
        if stopped:
            raise RankError(f"{stopped}; its message is above. All other ranks are ended, too.")


def kill_launched_ranks(trainer: pl.Trainer) -> None:
    """Kill the processes that Lightning started for a trainer, if this process started them."""
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        launcher.kill(signal.SIGKILL)


def _stopped(processes: list[subprocess.Popen[bytes]]) -> str:
    """Return which rank ended with an error, or does within a few seconds; '' for none."""
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        for rank, process in enumerate(processes, start=1):
            if process.poll():
                return f"rank {rank} of this machine stopped with exit code {process.returncode}"
        time.sleep(0.1)
    return ""


class BatchSeeds(pl.Callback):
    """Seeds torch before each batch, from the run's seed, the number of the batch and the rank.

    A resumed run therefore drops the same activations as an uninterrupted one, with nothing to
    save, and no two ranks drop the same ones. The run's seed is torch's initial seed when training
    starts (``seed_everything``). With another number of ranks, other activations are dropped: each
    rank draws for its own images.
    """

    def __init__(self) -> None:
        self._run_seed = 0

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._run_seed = torch.initial_seed()

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        number = trainer.fit_loop.total_batch_idx
        sequence = np.random.SeedSequence([self._run_seed, number, trainer.global_rank])
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))
