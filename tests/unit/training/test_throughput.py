import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from typing_extensions import override

from regionspot.data import CachedRegions
from regionspot.training import (
    HeadOptions,
    ImagesPerSecond,
    RegionSpotModule,
    TrainingSummary,
    summarize,
)

SLEEP_S = 0.2
MakeCache = Callable[..., Path]

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning"
)  # Lightning 2.6, torch 2.15


class SlowValidation(pl.Callback):
    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        time.sleep(SLEEP_S)


class Logged(pl.Callback):
    """Keeps what a run logs at each of its steps."""

    def __init__(self) -> None:
        self.steps: dict[int, dict[str, float]] = {}

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        logged = {name: value.item() for name, value in trainer.logged_metrics.items()}
        self.steps.setdefault(trainer.global_step, logged)


def run(
    data: CachedRegions, folder: Path, *callbacks: pl.Callback, max_steps: int = 6, **options: Any
) -> pl.Trainer:
    """Train a small head with these callbacks."""
    module = RegionSpotModule(
        data.spec, head=HeadOptions(num_blocks=1, num_heads=2, ffn_dim=8, dropout=0.0)
    )
    trainer = pl.Trainer(
        **{
            "default_root_dir": folder,
            "accelerator": "cpu",
            "max_steps": max_steps,
            "limit_val_batches": 0,
            "log_every_n_steps": 2,
            "callbacks": list(callbacks),
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **options,
        }
    )
    trainer.fit(module, datamodule=data)
    return trainer


def test_it_counts_images_and_keeps_validation_apart(make_cache: MakeCache, tmp_path: Path) -> None:
    cache = make_cache(num_images=8)
    data = CachedRegions([cache], val=cache, batch_size=4)
    throughput = ImagesPerSecond()
    start = time.perf_counter()
    trainer = run(
        data,
        tmp_path,
        throughput,
        SlowValidation(),
        limit_val_batches=None,
        val_check_interval=1,
        num_sanity_val_steps=1,
    )
    elapsed = time.perf_counter() - start
    assert throughput.num_images == 24
    assert elapsed > 6 * SLEEP_S
    assert 0 < throughput.seconds < elapsed - 6 * SLEEP_S
    assert throughput.validation_seconds > 6 * SLEEP_S
    assert throughput.images_per_s == pytest.approx(24 / throughput.seconds)
    assert throughput.training_device_seconds == pytest.approx(throughput.seconds)
    both = throughput.seconds + throughput.validation_seconds
    assert throughput.device_seconds == pytest.approx(both)
    assert 0 < throughput.seconds_waited < throughput.seconds
    images = trainer.callback_metrics["train/images_per_s"]
    regions = trainer.callback_metrics["train/regions_per_s"]
    # 8 images have 1 + 2 + 3 + 4 + 1 + 2 + 3 + 4 regions, and the last two steps see each once.
    assert (regions / images).item() == pytest.approx(20 / 8, rel=1e-3)
    assert trainer.callback_metrics["train/images"].item() == 24
    assert 0 < trainer.callback_metrics["train/data_wait"].item() < 1


def test_accumulated_batches_are_logged_with_the_step_they_end_in(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    data = CachedRegions([make_cache(num_images=24)], batch_size=4)
    logged = Logged()
    run(data, tmp_path, ImagesPerSecond(), logged, accumulate_grad_batches=3, max_steps=5)
    # Logged at steps 2 and 4 of 12 images each, and so seen from the batch after it on.
    seen = {step: values.get("train/images") for step, values in logged.steps.items()}
    assert seen == {0: None, 1: None, 2: 24, 3: 24, 4: 48}
    ratios = [
        values["train/regions_per_s"] / values["train/images_per_s"]
        for step, values in logged.steps.items()
        if step >= 2
    ]
    # Six batches are all 24 images, which have 6 times 1 + 2 + 3 + 4 regions.
    assert ratios == pytest.approx([60 / 24] * 3, rel=1e-3)


def test_totals_go_on_from_those_of_the_checkpoint(make_cache: MakeCache, tmp_path: Path) -> None:
    data = CachedRegions([make_cache(num_images=8)], batch_size=4)
    before, after = ImagesPerSecond(), ImagesPerSecond()
    run(data, tmp_path, before)
    state = json.loads(json.dumps(before.state_dict()))
    after.load_state_dict(state)
    after.device_seconds = 7200.0  # as if the former run had been one of two hours
    trainer = run(data, tmp_path, after, max_steps=2)
    assert after.num_images == 24 + 8
    assert after.seconds > before.seconds
    assert after.seconds_waited > before.seconds_waited
    summary = summarize(trainer, after)
    assert (summary.steps, summary.images, summary.num_devices) == (2, 32, 1)
    assert 2 < summary.device_hours < 2.1
    assert summary.device.startswith("CPU")


def test_the_summary_says_what_a_training_took() -> None:
    summary = TrainingSummary(
        steps=10,
        images=2560,
        training_s=1800.0,
        validation_s=900.0,
        images_per_s=2560 / 1800,
        data_wait=0.0123,
        device="NVIDIA H100",
        num_devices=4,
        training_device_hours=2.0,
        device_hours=3.0,
        loss=0.01234567,
        top1=0.745,
        AP=89.96,
    )
    assert summary.line() == (
        "10 steps in 1800.0 s: 2560 images (1 images/s, 1.2% of the time waiting for data)."
        " 2 GPU hours, 3 with validation (4 x NVIDIA H100). Loss 0.01235, top-1 74.5%, AP 90.0."
    )
    unvalidated = dataclasses.replace(summary, top1=None, AP=None)
    assert unvalidated.line().endswith("(4 x NVIDIA H100). Loss 0.01235.")
    assert json.loads(summary.to_json())["training_device_hours"] == 2.0
