"""Learned guidance in a training: its rate, its bound, its start, its log."""

import csv
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from regionspot.core.errors import ConfigError, WeightsError
from regionspot.data import CachedRegions
from regionspot.model import (
    FusionHead,
    HeadCard,
    HeadSpec,
    RegionClassifier,
    TrainedHead,
    load_trained_head,
    save_trained_head,
)
from regionspot.training import (
    ClassifierOptions,
    HeadOptions,
    OptimizerOptions,
    RegionSpotModule,
    ScheduleOptions,
)
from regionspot.training.recipe import make_optimizer

MakeCache = Callable[..., Path]
SPEC = HeadSpec(token_dim=8, feature_dim=16, text_dim=6, num_blocks=2, num_heads=2, ffn_dim=24)
GUIDED = HeadOptions(num_blocks=2, num_heads=2, ffn_dim=24, dropout=0.0, guidance="learned")

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning"
)  # Lightning 2.6, torch 2.15


def trainer_of(folder: Path, *, max_steps: int) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_steps=max_steps,
        limit_val_batches=0,
        log_every_n_steps=1,
        logger=CSVLogger(folder, name="csv", version=0),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def write_head(folder: Path, spec: HeadSpec) -> FusionHead:
    torch.manual_seed(5)
    head = FusionHead(spec)
    for guidance in head.guidance():
        torch.nn.init.constant_(guidance.weight, 3.0)
    card = HeadCard(head=spec, scale=30.0, bias=-5.0)
    save_trained_head(
        folder, TrainedHead(head=head, classifier=RegionClassifier(30.0, -5.0), card=card)
    )
    return head


def test_strengths_train_at_ten_times_the_rate_without_decay() -> None:
    head = FusionHead(replace(SPEC, guidance="learned"))
    optimizer = make_optimizer(
        head,
        RegionClassifier(),
        optimizer=OptimizerOptions(lr=0.25),
        classifier_options=ClassifierOptions(),
    )
    weights, strengths = optimizer.param_groups
    assert (weights["lr"], weights["weight_decay"]) == (0.25, 1e-4)
    assert (strengths["lr"], strengths["weight_decay"]) == (2.5, 0.0)
    assert [tuple(p.shape) for p in strengths["params"]] == [(2,), (2,)]
    listed = [id(p) for p in (*weights["params"], *strengths["params"])]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(p) for p in head.parameters()}


def test_a_step_below_zero_ends_at_zero_from_where_the_next_one_goes_up() -> None:
    head = FusionHead(replace(SPEC, num_blocks=1, guidance="learned"))
    optimizer = make_optimizer(
        head,
        RegionClassifier(),
        optimizer=OptimizerOptions(lr=0.01),
        classifier_options=ClassifierOptions(),
    )
    (guidance,) = head.guidance()
    for gradient, wanted in (((1.0, -1.0), (0.0, 0.1)), ((1.0, -1.0), (0.0, 0.2))):
        guidance.weight.grad = torch.tensor(gradient)
        optimizer.step()
        torch.testing.assert_close(guidance.weight.data, torch.tensor(wanted))
        assert guidance.weight[0] == 0.0
    for _ in range(30):  # until AdamW has forgotten the first gradients
        guidance.weight.grad = torch.tensor([-1.0, 1.0])
        optimizer.step()
    assert guidance.weight[0] > 0.1


def test_a_training_moves_strengths_logs_them_and_keeps_them_in_the_head(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    data = CachedRegions([make_cache()], batch_size=4)
    pl.seed_everything(1, verbose=False)
    module = RegionSpotModule(
        data.spec,
        head=GUIDED,
        optimizer=OptimizerOptions(lr=0.01),
        schedule=ScheduleOptions(warmup_images=0),
    )
    trainer_of(tmp_path, max_steps=6).fit(module, datamodule=data)
    save_trained_head(tmp_path / "head", module.trained_head())
    kept = [g.weight.tolist() for g in load_trained_head(tmp_path / "head").head.guidance()]
    assert all(0.0 <= strength <= 0.6 + 1e-6 for block in kept for strength in block)
    assert max(map(max, kept)) > 0
    with (tmp_path / "csv" / "version_0" / "metrics.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    names = [f"train/guidance/block{block}_head{head}" for block in (0, 1) for head in (0, 1)]
    assert len(rows) == 6
    assert [float(rows[0][name]) for name in names] == [0.0] * 4
    # AdamW's first step is its rate; one that would lead below 0 is not taken.
    after_one = {round(float(rows[1][name]), 6) for name in names}
    assert after_one == {0.0, 0.1}


def test_a_head_without_guidance_starts_a_guided_one_at_zero(
    make_cache: MakeCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = write_head(tmp_path / "head", SPEC)
    spec = CachedRegions([make_cache()]).spec
    with caplog.at_level(logging.INFO, logger="regionspot"):
        module = RegionSpotModule(spec, head=GUIDED, init_from=str(tmp_path / "head"))
    assert "has no guidance; that of this run (learned) starts from" in caplog.text
    found = module.head.state_dict()
    for name, tensor in start.state_dict().items():
        assert found.pop(name).equal(tensor)
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        "decoder.layers.0.guidance.weight": [0.0, 0.0],
        "decoder.layers.1.guidance.weight": [0.0, 0.0],
    }


def test_a_guided_head_starts_another_with_its_strengths(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    write_head(tmp_path / "head", replace(SPEC, guidance="learned"))
    spec = CachedRegions([make_cache()]).spec
    spread = replace(GUIDED, guidance_spread=8.0)
    module = RegionSpotModule(spec, head=spread, init_from=str(tmp_path / "head"))
    assert [g.weight.tolist() for g in module.head.guidance()] == [[3.0, 3.0], [3.0, 3.0]]


def test_guidance_by_masks_needs_a_cache_of_masks(make_cache: MakeCache, tmp_path: Path) -> None:
    by_masks = replace(GUIDED, guidance_region="mask")
    for name, masks in (("with", True), ("without", False)):
        data = CachedRegions([make_cache(name, masks=masks)], batch_size=4)
        module = RegionSpotModule(data.spec, head=by_masks)
        trainer = trainer_of(tmp_path / name, max_steps=2)
        if masks:
            trainer.fit(module, datamodule=data)
            continue
        with pytest.raises(ConfigError, match=r"no masks .*--masks true"):
            trainer.fit(module, datamodule=data)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"guidance": "none"}, "guidance: found 'learned', wanted 'none'"),
        ({"guidance_region": "mask"}, "guidance_region: found 'box', wanted 'mask'"),
    ],
)
def test_guidance_is_neither_dropped_nor_changed_unasked(
    make_cache: MakeCache, tmp_path: Path, wanted: dict[str, Any], message: str
) -> None:
    write_head(tmp_path / "head", replace(SPEC, guidance="learned"))
    spec = CachedRegions([make_cache()]).spec
    with pytest.raises(WeightsError, match=message):
        RegionSpotModule(spec, head=replace(GUIDED, **wanted), init_from=str(tmp_path / "head"))
