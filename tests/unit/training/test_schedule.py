"""The learning rate follows the images seen; torch's own schedulers are the oracle."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    SequentialLR,
)
from typing_extensions import override

from regionspot.core.errors import ConfigError
from regionspot.data import CachedRegions
from regionspot.training import (
    HeadOptions,
    OptimizerOptions,
    RegionSpotModule,
    ScheduleOptions,
)
from regionspot.training.recipe import learning_rate_factor


@pytest.mark.parametrize("batch_size", [1, 16, 50])
@pytest.mark.parametrize(
    ("images", "factor"),
    [
        (0, 0.01),
        (8_000, 0.505),
        (16_000, 1.0),
        (5_599_950, 1.0),
        (5_600_000, 0.1),
        (6_719_950, 0.1),
        (6_720_000, 0.01),
        (7_200_000, 0.01),
    ],
)
def test_the_papers_schedule_by_hand(batch_size: int, images: int, factor: float) -> None:
    step = math.ceil(images / batch_size)
    found = learning_rate_factor(step * batch_size, ScheduleOptions(), end_images=math.inf)
    assert found == pytest.approx(factor)


@pytest.mark.parametrize(
    ("step_of_16", "factor"),
    [(0, 0.01), (500, 0.505), (349_999, 1.0), (350_000, 0.1), (419_999, 0.1), (420_000, 0.01)],
)
def test_the_papers_steps_are_those_of_batches_of_16(step_of_16: int, factor: float) -> None:
    found = learning_rate_factor(step_of_16 * 16, ScheduleOptions(), end_images=math.inf)
    assert found == pytest.approx(factor)


@pytest.mark.parametrize(
    ("images", "factor"),
    # Warm-up to 100, then half a cosine over 400 from 1 to 0.2; cos(pi / 3) is a half.
    [(0, 0.5), (50, 0.75), (100, 1.0), (300, 0.6), (100 + 400 / 3, 0.8), (500, 0.2), (600, 0.2)],
)
def test_a_cosine_by_hand(images: float, factor: float) -> None:
    options = ScheduleOptions(
        shape="cosine", warmup_images=100, warmup_factor=0.5, final_factor=0.2
    )
    assert learning_rate_factor(images, options, end_images=500) == pytest.approx(factor)


def chained_steps(optimizer: torch.optim.Optimizer) -> LRScheduler:
    return ChainedScheduler(
        [
            LinearLR(optimizer, start_factor=0.2, total_iters=7),
            MultiStepLR(optimizer, milestones=[5, 12], gamma=0.3),
        ]
    )


def warm_up_then_cosine(optimizer: torch.optim.Optimizer) -> LRScheduler:
    return SequentialLR(
        optimizer,
        [
            LinearLR(optimizer, start_factor=0.2, total_iters=7),
            CosineAnnealingLR(optimizer, T_max=13, eta_min=0.1),
        ],
        milestones=[7],
    )


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")  # theirs
@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        (ScheduleOptions(milestones_images=(20, 48), gamma=0.3), chained_steps),
        (ScheduleOptions(shape="cosine", final_factor=0.1), warm_up_then_cosine),
    ],
    ids=["steps", "cosine"],
)
def test_it_equals_torchs_schedulers_for_batches_of_4(
    options: ScheduleOptions, theirs: Callable[[torch.optim.Optimizer], Any]
) -> None:
    ours = ScheduleOptions(
        **{**options.__dict__, "warmup_images": 28, "warmup_factor": 0.2},
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = theirs(optimizer)
    for step in range(21):
        found = learning_rate_factor(step * 4, ours, end_images=80)
        assert found == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9), step
        optimizer.step()
        scheduler.step()


def test_without_warm_up_the_first_step_is_at_full_rate() -> None:
    options = ScheduleOptions(warmup_images=0, milestones_images=())
    assert learning_rate_factor(0, options, end_images=math.inf) == 1.0


class Rates(pl.Callback):
    """Notes the rate of each step under the images that were seen before it."""

    def __init__(self, images_per_step: int) -> None:
        self.images_per_step = images_per_step
        self.found: dict[int, float] = {}

    @override
    def on_before_optimizer_step(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        images = trainer.global_step * self.images_per_step
        self.found[images] = optimizer.param_groups[0]["lr"]


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning 2.6, torch 2.15
@pytest.mark.parametrize("shape", ["steps", "cosine"])
def test_runs_with_other_batches_have_the_same_rate_after_the_same_images(
    make_cache: Callable[..., Path], tmp_path: Path, shape: Any
) -> None:
    cache = make_cache(num_images=16)
    rates = {}
    for batch_size, accumulated in ((8, 1), (16, 1), (4, 4)):
        data = CachedRegions([cache], batch_size=batch_size)
        module = RegionSpotModule(
            data.spec,
            head=HeadOptions(num_blocks=1, num_heads=2, ffn_dim=8),
            optimizer=OptimizerOptions(lr=0.1),
            schedule=ScheduleOptions(
                shape=shape, warmup_images=32, milestones_images=(64,), final_factor=0.05
            ),
        )
        rates[batch_size] = Rates(batch_size * accumulated)
        pl.Trainer(
            default_root_dir=tmp_path,
            accelerator="cpu",
            max_steps=96 // (batch_size * accumulated),
            accumulate_grad_batches=accumulated,
            limit_val_batches=0,
            callbacks=[rates[batch_size]],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(module, datamodule=data)
    assert list(rates[16].found) == [0, 16, 32, 48, 64, 80]
    assert rates[4].found == pytest.approx(rates[16].found)
    assert {i: rates[8].found[i] for i in rates[16].found} == pytest.approx(rates[16].found)
    assert rates[16].found[32] == pytest.approx(0.1)
    if shape == "steps":
        assert rates[16].found[64] == pytest.approx(0.01)
    else:  # half of the way from 32 to 96
        assert rates[16].found[64] == pytest.approx(0.1 * (1 + 0.05) / 2)


@pytest.mark.parametrize("end_images", [math.inf, 100])
def test_a_cosine_without_an_end_is_refused(end_images: float) -> None:
    options = ScheduleOptions(shape="cosine", warmup_images=100)
    with pytest.raises(ConfigError, match=r"wanted a finite run.*--max_images"):
        learning_rate_factor(0, options, end_images=end_images)


@pytest.mark.parametrize(
    "options",
    [
        {"warmup_images": -1},
        {"warmup_factor": 0.0},
        {"gamma": 0.0},
        {"milestones_images": (5, 3)},
        {"final_factor": 1.5},
    ],
)
def test_senseless_schedules_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"model\.schedule"):
        ScheduleOptions(**options)


def test_a_senseless_optimizer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.optimizer"):
        OptimizerOptions(lr=0.0)
