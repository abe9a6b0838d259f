"""Run ``train.py`` several times in one process, or in several that train together.

Usage: ``ranks_worker.py COMMANDS.json``, a list of lists of words. A process costs seconds to
start, a training of the small caches less than one.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from regionspot.cli.train import train
from regionspot.data import CachedRegions, CacheLoader, Collator, RegionBatch, SequentialOrder


class Recorder(pl.Callback):
    """Writes down what a rank trains on, a JSON line a batch; and kills it, if asked."""

    def __init__(self, folder: str, kill_at_step: int = 0, kill_by: str = "SIGKILL") -> None:
        self._folder = Path(folder)
        self._kill_at_step = kill_at_step
        self._signal = signal.Signals[kill_by]
        self._broadcast = Mock(wraps=torch.distributed.broadcast)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size > 1:  # in a process of its own
            torch.distributed.broadcast = self._broadcast

    @override
    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: RegionBatch,
        batch_idx: int,
    ) -> None:
        self._folder.mkdir(exist_ok=True)
        line = {
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "keys": batch.keys,
            "loss": outputs["loss"].item().hex(),
            # What DDP sends from rank 0 before each forward pass.
            "num_buffers_sent": len(getattr(trainer.strategy.model, "modules_buffers", ())),
            "num_broadcasts": self._broadcast.call_count,
        }
        path = self._folder / f"rank{trainer.global_rank}.jsonl"
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._kill_at_step and trainer.global_step == self._kill_at_step:
            os.kill(os.getpid(), self._signal)


def all_in_order(data: CachedRegions) -> CacheLoader:
    """Return all images in order, also those without regions; the last batch is smaller."""
    (cache,), trainer = data.train_caches, data.trainer
    assert trainer is not None
    return CacheLoader(
        SequentialOrder(num_images=len(cache), batch_size=data.batch_sizes[0]),
        Collator([cache]),
        rank=trainer.global_rank,
        world_size=trainer.world_size,
    )


def run(words: list[str]) -> None:
    """Run one command; the first word may be ``in-order``."""
    if words[0] != "in-order":
        return train(words)
    with patch.object(CachedRegions, "train_dataloader", all_in_order):
        return train(words[1:])


def run_all(commands: list[list[str]]) -> None:
    """Run commands one after the other."""
    for command in commands:
        run(command)


def run_all_in_fork(commands: list[list[str]], rank: int) -> None:
    """Run commands as one of the ranks of a machine, in a fork that had imported Lightning."""
    os.environ["LOCAL_RANK"] = str(rank)
    # Lightning reads it from the environment when it is imported.
    rank_zero_only.rank = rank  # type: ignore[attr-defined]
    run_all(commands)


if __name__ == "__main__":
    run_all(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
