"""The real W&B, offline: what a run tells it, beside the CSV and TensorBoard logs."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from regionspot.cli.train import train


@pytest.mark.slow
def test_wandb_gets_the_runs_name_configuration_and_metrics(
    make_cache: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb  # starts a process of its own when a run begins

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    torch.set_num_threads(1)
    run_dir = tmp_path / "bl_first"
    train(
        [
            *("fit", "--data.train", f"[{make_cache()}]", "--data.batch_size", "4"),
            *("--max_images", "16", "--model.head.num_blocks", "1", "--model.head.ffn_dim", "24"),
            *("--trainer.default_root_dir", str(run_dir), "--trainer.logger", "WandbLogger"),
            *("--trainer.accelerator", "cpu", "--trainer.log_every_n_steps", "1"),
            *("--trainer.enable_progress_bar", "false", "--trainer.enable_checkpointing", "false"),
        ]
    )
    run = wandb.run
    assert run is not None
    assert (run.name, run.project) == ("bl_first", "regionspot")
    assert Path(run.dir).is_relative_to(run_dir)
    config = yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))
    assert dict(run.config) == config
    with (run_dir / "csv" / "version_0" / "metrics.csv").open(encoding="utf-8") as file:
        *_, last = csv.DictReader(file)
    assert run.summary["train/images"] == 16
    assert run.summary["train/loss"] == pytest.approx(float(last["train/loss"]))
    assert list((run_dir / "tensorboard").rglob("events.*"))
    run.finish()
