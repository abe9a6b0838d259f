"""One end for all processes of a training that Lightning has started on this machine."""

import signal
import subprocess
import time

import lightning.pytorch as pl
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from typing_extensions import override

from regionspot.core.errors import RankError, RegionSpotError

_WAIT_S = 5.0


class LaunchedRanks(pl.Callback):
    """Lets no rank wait for one that has stopped with an error.

    With ``--trainer.devices 8`` Lightning starts ranks 1 to 7 as processes of rank 0. When rank 0
    stops, they are ended; else they would wait for its part of the next gradient. When another
    one stops, rank 0 finds its connection closed, and says whose message to look for. (Where it
    finds nothing, as with NCCL, Lightning looks every 5 s and ends all.) torchrun and SLURM's
    ``srun --kill-on-bad-exit`` do the same by themselves.
    """

    @override
    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        launcher = trainer.strategy.launcher
        if not isinstance(launcher, _SubprocessScriptLauncher) or not launcher.procs:
            return
        # A signal is no news, and an error with a message is told by this rank itself.
        told = not isinstance(exception, Exception) or isinstance(exception, RegionSpotError)
        stopped = "" if told else _stopped(launcher.procs)
        launcher.kill(signal.SIGKILL)
        for process in launcher.procs:
            process.wait()
        # Lightning watches this list, and would end rank 0 as well for what it finds in it.
        launcher.procs.clear()
        if stopped:
            raise RankError(f"{stopped}; its message is above. All other ranks are ended, too.")


def kill_launched_ranks(trainer: pl.Trainer) -> None:
    """End the processes that Lightning has started for a trainer, if this is the one that did."""
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        launcher.kill(signal.SIGKILL)


def _stopped(processes: list[subprocess.Popen[bytes]]) -> str:
    """Say which process has ended with an error, or will within a few seconds; '' for none."""
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        for rank, process in enumerate(processes, start=1):
            if process.poll():
                return f"rank {rank} of this machine stopped with exit code {process.returncode}"
        time.sleep(0.1)
    return ""
