"""A small training: what it is told, and what it logs."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from regionspot.data import CachedRegions
from regionspot.training import HeadOptions, ImagesPerSecond, LossByCache, RegionSpotModule

SMALL_HEAD = HeadOptions(num_blocks=1, num_heads=2, ffn_dim=24)


def training_config(
    run_dir: Path,
    caches: Sequence[Path],
    *,
    max_steps: int,
    save_every: int = 1000,
    dropout: float = 0.0,
) -> dict[str, Any]:
    """Return a configuration of ``train.py fit``: a head of one block, on the CPU."""
    checkpoint = {"filename": "last", "every_n_train_steps": save_every}
    return {
        "seed_everything": 7,
        "trainer": {
            "default_root_dir": str(run_dir),
            "accelerator": "cpu",
            "max_steps": max_steps,
            "max_epochs": -1,
            "gradient_clip_val": 1.0,
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            "callbacks": [
                {
                    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "init_args": {**checkpoint, "enable_version_counter": False},
                }
            ],
        },
        "data": {"train": [str(cache) for cache in caches], "batch_size": 4},
        "model": {
            "head": {"num_blocks": 1, "num_heads": 2, "ffn_dim": 24, "dropout": dropout},
            "classifier": {"scale": 10.0, "bias": -2.0, "trainable": True},
            "optimizer": {"lr": 0.01},
            "schedule": {"warmup_images": 8, "milestones_images": []},
        },
    }


def column(run_dir: Path, name: str) -> list[float]:
    """Return what the newest log of a run has of one quantity, step by step."""
    *_, newest = sorted(run_dir.glob("csv/version_*/metrics.csv"))
    with newest.open(encoding="utf-8") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def train_briefly(
    data: CachedRegions,
    *,
    max_steps: int,
    log_every: int,
    accelerator: str = "cpu",
    head: HeadOptions = SMALL_HEAD,
    callbacks: Sequence[pl.Callback] = (),
) -> None:
    """Train with all that ``train.py fit`` does in a step, but in this process, writing nothing."""
    pl.seed_everything(3, verbose=False)
    trainer = pl.Trainer(
        accelerator=accelerator,
        devices=1,
        max_steps=max_steps,
        limit_val_batches=0,
        callbacks=[ImagesPerSecond(), LossByCache(("one",)), *callbacks],
        gradient_clip_val=1.0,
        log_every_n_steps=log_every,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        logger=False,
    )
    trainer.fit(RegionSpotModule(data.spec, head=head), datamodule=data)
