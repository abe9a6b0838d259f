"""Writes and reads checkpoints during training, in place of Lightning's own IO.

Lightning writes to ``$TMPDIR``, from where a file may be copied over the previous checkpoint, and
reads any file or URL, possibly running code from it. Here checkpoints are written atomically, carry
a checksum, and are read as plain tensors.
"""

import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import lightning.pytorch as pl
from lightning.fabric.plugins import CheckpointIO, TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import Strategy
from typing_extensions import override

from regionspot.core.errors import ConfigError, MissingFileError, WeightsError
from regionspot.model import CHECKPOINT_SUFFIX, read_checkpoint, write_checkpoint
from regionspot.storage import is_url

CHECKPOINTS_FOLDER: Final = "checkpoints"
"""Folder of checkpoints in the folder of a run."""

_NEEDED = ("pytorch-lightning_version", "epoch", "global_step", "loops")
"""Keys that Lightning requires in every checkpoint."""
_HPC = re.compile(rf"hpc_ckpt_(\d+){re.escape(CHECKPOINT_SUFFIX)}")
_logger = logging.getLogger(__name__)


class SealedCheckpointIO(CheckpointIO):
    """Writes checkpoints atomically with a checksum, and reads them without running code."""

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Path | str, storage_options: Any = None
    ) -> None:
        """Write a checkpoint; one of the same name is kept until the new one is on disk.

        Raises:
            ConfigError: The path is a URL, or there are storage options.
        """
        if storage_options is not None:
            raise ConfigError("checkpoints are written to disk: leave storage_options out.")
        write_checkpoint(_local(path), checkpoint)

    @override
    def load_checkpoint(
        self,
        path: Path | str,
        map_location: Callable[..., Any] | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint onto the CPU, after checking its checksum.

        Raises:
            ConfigError: The path is a URL, or ``weights_only`` is False.
            WeightsError: The file is damaged, or is not a checkpoint of a training run.
        """
        if weights_only is False:
            raise ConfigError(
                "--weights_only is false, which allows a checkpoint to run code. Checkpoints of"
                " train.py contain none: leave the option out."
            )
        checkpoint = read_checkpoint(_local(path))
        missing = [key for key in _NEEDED if key not in checkpoint]
        if missing:
            raise WeightsError(
                f"{path} holds a head, but no training state: {', '.join(missing)} are missing."
                " Start a run from its weights with --model.init_from."
            )
        return checkpoint

    @override
    def remove_checkpoint(self, path: Path | str) -> None:
        """Remove a checkpoint; other files and folders are left alone."""
        local = _local(path)
        if local.suffix == CHECKPOINT_SUFFIX and (local.is_file() or local.is_symlink()):
            local.unlink()


def own_checkpoints(trainer: pl.Trainer) -> None:
    """Make a trainer write and read checkpoints with `SealedCheckpointIO`.

    Raises:
        ConfigError: The trainer has another checkpoint IO, or options that may lose a checkpoint.
    """
    strategy = trainer.strategy
    if type(strategy).load_checkpoint is not Strategy.load_checkpoint:
        raise ConfigError(
            f"trainer.strategy {type(strategy).__name__} has its own checkpoints, which carry no"
            " checksum and may run code. Use ddp: a fusion head fits on every device."
        )
    if type(strategy.checkpoint_io) not in (TorchCheckpointIO, SealedCheckpointIO):
        raise ConfigError(
            f"the trainer has the checkpoint IO {type(strategy.checkpoint_io).__name__}; RegionSpot"
            " uses its own. Remove it from trainer.plugins and trainer.strategy."
        )
    for callback in trainer.checkpoint_callbacks:
        if not isinstance(callback, ModelCheckpoint):
            continue
        if callback.dirpath is not None:
            _local(callback.dirpath)
        if callback.save_last == "link":
            raise ConfigError(
                "a checkpoint callback has save_last: link. Lightning removes the old link before"
                " creating the new one, so a kill in between leaves none. Use save_last: true."
            )
    strategy.checkpoint_io = SealedCheckpointIO()


def find_checkpoint(
    ckpt_path: str | None,
    *,
    run_dir: Path,
    callbacks: Sequence[ModelCheckpoint],
    is_fit: bool,
) -> str | None:
    """Resolve ``--ckpt_path`` to a file; None to start from the weights in the module.

    Args:
        ckpt_path: A path; ``last`` for the newest ``last*.ckpt`` of the run; ``best`` for that of
            the callback with a monitor; ``hpc`` for the one that Lightning wrote when SLURM ended
            the run; or None.
        run_dir: The folder of the run.
        callbacks: The run's checkpoint callbacks.
        is_fit: Whether this is for training, whose first start has no ``last`` yet.

    Raises:
        ConfigError: It is a URL, or there are several files for ``best``.
        MissingFileError: There is no such file.
    """
    if ckpt_path is None:
        return None
    folders = sorted({Path(callback.dirpath) for callback in callbacks if callback.dirpath})
    folders = folders or [run_dir / CHECKPOINTS_FOLDER]
    if ckpt_path == "last":
        found = [path for folder in folders for path in folder.glob(f"last*{CHECKPOINT_SUFFIX}")]
        found = [path for path in found if path.is_file()]
        if not found and is_fit:
            _logger.info("%s has no last.ckpt yet: training starts from the beginning", run_dir)
            return None
        found = sorted(found, key=lambda path: path.stat().st_mtime_ns)[-1:]
    elif ckpt_path == "hpc":
        matches = [_HPC.fullmatch(path.name) for path in run_dir.glob("hpc_ckpt_*")]
        numbers = [int(match[1]) for match in matches if match]
        found = [run_dir / f"hpc_ckpt_{max(numbers)}{CHECKPOINT_SUFFIX}"] if numbers else []
    elif ckpt_path == "best":
        found = _best(callbacks)
    else:
        path = _local(ckpt_path)
        found = [path] if path.is_file() else []
    if found:
        return str(found[0])
    there = sorted(
        str(path) for folder in (run_dir, *folders) for path in folder.glob(f"*{CHECKPOINT_SUFFIX}")
    )
    raise MissingFileError(
        f"--ckpt_path {ckpt_path} is no file. {run_dir} has {', '.join(there) or 'no checkpoints'}."
        " --ckpt_path last takes the newest last.ckpt of this run; without one, fit starts from the"
        " beginning."
    )


def remove_strays(run_dir: Path) -> None:
    """Remove incomplete checkpoints of a killed run; call this while holding the lock.

    Those of ``hpc_ckpt_3.ckpt`` would make Lightning look for that file instead of number 2.
    """
    for folder in (run_dir, run_dir / CHECKPOINTS_FOLDER):
        for path in folder.glob(f"*{CHECKPOINT_SUFFIX}.tmp"):
            path.unlink(missing_ok=True)


def _best(callbacks: Sequence[ModelCheckpoint]) -> list[Path]:
    """Find the file of the callback with a monitor, whose name may contain values of metrics."""
    found = []
    for callback in callbacks:
        if callback.monitor is not None and callback.dirpath is not None:
            pattern = re.sub(r"\{.*?\}", "*", callback.filename or "*")
            found += sorted(Path(callback.dirpath).glob(f"{pattern}{CHECKPOINT_SUFFIX}"))
    if len(found) > 1:
        raise ConfigError(
            f"--ckpt_path best could be {', '.join(map(str, found))}. Give the path of one."
        )
    return found


def _local(path: Path | str) -> Path:
    if is_url(str(path)):
        raise ConfigError(
            f"{path} is a URL; checkpoints are only written to and read from disk. Copy the file"
            " to a local folder and give its path."
        )
    return Path(path)
