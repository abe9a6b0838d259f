"""Callbacks of every training: stop on errors and signals, and make dropout reproducible."""

import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any, Final

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

_CHECK_INTERVAL: Final = 16
"""Batches or steps between checks that wait for a GPU."""
_EXIT_WAIT_S: Final = 5.0
"""How long to wait for a rank to exit with an error."""
_ADVICE = (
    "Check the learning rate and its warm-up (model.optimizer.lr, model.schedule),"
    " trainer.precision (32-true is the safest) and the cache (`regionspot cache verify {}`)."
    " Checkpoints of this run are not affected: resume from one with --ckpt_path, or start again."
)


class StopOnNonFinite(pl.Callback):
    """Stops training when the loss becomes NaN or infinite, and names the images of the batch.

    On a CPU the loss is checked after every batch. On a GPU, where a check waits for the device, it
    is checked every few batches, before a checkpoint is written, and at the end. All ranks check
    and stop together, at the cost of summing a few bytes over the ranks.
    """

    def __init__(self) -> None:
        # Of each unchecked batch: step, image keys, source, and the loss of this rank.
        self._kept: list[tuple[int, tuple[str, ...], int, Tensor]] = []

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
        self._kept.append((trainer.global_step, batch.keys, batch.source, loss))
        if not devices.would_sync(loss) or len(self._kept) >= _CHECK_INTERVAL:
            self.check(trainer)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.check(trainer)

    def check(self, trainer: pl.Trainer) -> None:
        """Check the losses since the last check; must be called on all ranks.

        Raises:
            NotFiniteError: A loss is NaN or infinite on any rank.
        """
        if not self._kept:
            return
        kept, self._kept = self._kept, []
        mine_K = ~torch.stack([loss for *_, loss in kept]).isfinite()
        on_ranks_K = trainer.strategy.reduce(mine_K.int(), reduce_op="sum").tolist()
        for batch, is_mine, num_ranks in zip(kept, mine_K.tolist(), on_ranks_K, strict=True):
            if num_ranks:
                step, keys, source, _ = batch
                where = _location(trainer, source)
                all_keys = _gather(keys if is_mine else (), trainer.world_size)
                raise NotFiniteError(
                    f"the loss of step {step} is not finite. The images of this batch, of {where}:"
                    f" {', '.join(all_keys)}. {_ADVICE.format(where)}"
                )


def check_weights(tensors: Mapping[str, Tensor], *, step: int) -> None:
    """Check that all weights are finite; a checkpoint of others would be useless.

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
            f" tensors, {names[0]} among them. No checkpoint is written. Check the learning rate"
            " (model.optimizer.lr), trainer.precision (32-true is the safest) and"
            " trainer.gradient_clip_val, and resume from an earlier checkpoint with --ckpt_path."
        )


def _gather(keys: tuple[str, ...], world_size: int) -> list[str]:
    of_ranks = [keys] * world_size
    if world_size > 1:
        torch.distributed.all_gather_object(of_ranks, keys)
    return [key for of_rank in of_ranks for key in of_rank]


def _location(trainer: pl.Trainer, source: int) -> str:
    data = getattr(trainer, "datamodule", None)  # see RegionSpotModule
    return str(data.train_caches[source].location) if isinstance(data, CachedRegions) else "?"


class StopOnSigterm(pl.Callback):
    """Stops training on all ranks after the same step when any of them receives a signal.

    The checkpoint callbacks without a ``monitor`` then write a checkpoint, so that no step is lost.

    SIGTERM is handled even if training is started from Python. The handler of Lightning 2.6 is
    replaced, since it communicates with other ranks in the middle of a step and can deadlock. With
    several GPUs, signals are checked every few steps, as a check synchronizes the ranks.
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
        # Lightning also broadcasts from rank 0 before each batch, which waits for the GPU.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]  # noqa: SLF001

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
        # Checkpoints do not hold gradients that are being accumulated.
        if not is_step:
            return
        on_cpu = trainer.strategy.root_device.type == "cpu"
        if on_cpu or trainer.world_size == 1 or trainer.global_step % _CHECK_INTERVAL == 0:
            self._stop_if_signalled(trainer, pl_module)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._leave_safe_points()
        self._stop_if_signalled(trainer, pl_module)

    @override
    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._leave_safe_points()

    def _leave_safe_points(self) -> None:
        with suppress(StoppedError):  # `_stop_if_signalled` raises it, after a checkpoint
            self._safe_points.close()

    def _stop_if_signalled(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write a checkpoint and raise on all ranks if any of them received a signal."""
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
                # Now, while all ranks are alive; Lightning would do so after some have ended.
                callback.on_exception(trainer, pl_module, stop)
        raise stop


def _replace_lightnings_handler() -> None:
    """Install our SIGTERM handler; Lightning restores the previous one when the run ends."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, answer_signal)


class EndSiblingRanks(pl.Callback):
    """Ends the remaining ranks when one fails.

    With ``--trainer.devices 8``, Lightning starts ranks 1 to 7 as child processes of rank 0. When
    rank 0 fails, they are killed, since they would wait for its gradients forever. When another
    rank fails, rank 0 gets a connection error and reports the rank that failed. (With NCCL there is
    no such error, but Lightning checks every 5 s and ends all ranks.) torchrun and SLURM's
    ``srun --kill-on-bad-exit`` do the same.
    """

    @override
    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        launcher = trainer.strategy.launcher
        if not isinstance(launcher, _SubprocessScriptLauncher) or not launcher.procs:
            return
        # Signals need no report, and `RegionSpotError` has its own.
        is_reported = not isinstance(exception, Exception) or isinstance(exception, RegionSpotError)
        failed = "" if is_reported else _failed_rank(launcher.procs)
        launcher.kill(signal.SIGKILL)
        for process in launcher.procs:
            process.wait()
        # Lightning monitors this list, and would kill rank 0 because of dead processes in it.
        launcher.procs.clear()
        if failed:
            raise RankError(f"{failed}; its message is above. All other ranks have been ended.")


def kill_launched_ranks(trainer: pl.Trainer) -> None:
    """Kill the processes that Lightning started from this process for a trainer."""
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        launcher.kill(signal.SIGKILL)


def _failed_rank(processes: list[subprocess.Popen[bytes]]) -> str:
    """Describe the rank that has exited with an error, or does within seconds; '' if none does."""
    deadline = time.monotonic() + _EXIT_WAIT_S
    while time.monotonic() < deadline:
        for rank, process in enumerate(processes, start=1):
            if process.poll():
                return f"rank {rank} on this machine failed with exit code {process.returncode}"
        time.sleep(0.1)
    return ""


class BatchSeeds(pl.Callback):
    """Seeds torch before each batch from the run's seed, the batch number and the rank.

    Dropout is then the same in a resumed run as in an uninterrupted one, and different on each
    rank. The run's seed is torch's initial seed when training starts (``seed_everything``). Dropout
    depends on the number of ranks, as each rank draws for its own images.
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
