"""The loss of each cache is the mean over its own batches; the oracle sums them by hand."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from typing_extensions import override

from regionspot.data import CachedRegions, RegionBatch
from regionspot.model import sigmoid_focal_loss
from regionspot.training import HeadOptions, LossByCache, RegionSpotModule

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning"
)  # Lightning 2.6, torch 2.15


class OwnLosses(pl.Callback):
    """Works out the loss of each batch another way, and keeps what is logged after each step."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, float]] = []
        self.logged: dict[int, dict[str, Tensor]] = {}

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: RegionBatch, batch_idx: int
    ) -> None:
        with torch.no_grad():
            logits = pl_module(batch, pl_module.get_buffer(f"text_bank_{batch.source}"))
        loss = sigmoid_focal_loss(logits, batch.labels, batch.region_mask)
        self.batches.append((batch.source, loss.item()))

    @override
    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: RegionBatch,
        batch_idx: int,
    ) -> None:
        self.logged[trainer.global_step] = dict(trainer.callback_metrics)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_it_logs_the_mean_of_each_caches_batches_since_the_last_time(
    make_cache: Callable[..., Path], tmp_path: Path, accumulated: int
) -> None:
    caches = [make_cache("a"), make_cache("b", names=("kiwi", "plum"), seed=1)]
    data = CachedRegions(caches, batch_size=4)
    head = HeadOptions(num_blocks=1, num_heads=2, ffn_dim=24, dropout=0.0)
    module = RegionSpotModule(data.spec, head=head)
    own = OwnLosses()
    pl.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_steps=10,
        accumulate_grad_batches=accumulated,
        limit_val_batches=0,
        log_every_n_steps=5,
        callbacks=[LossByCache(data.names), own],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, datamodule=data)
    assert len(own.batches) == 10 * accumulated
    for number, last_step in enumerate((5, 10)):
        losses = defaultdict(list)
        for source, loss in own.batches[number * 5 * accumulated :][: 5 * accumulated]:
            losses[f"train/loss/{'ab'[source]}"].append(loss)
        assert losses  # of each cache that was drawn
        for name, values in losses.items():
            mean = sum(values) / len(values)
            assert own.logged[last_step][name].item() == pytest.approx(mean, rel=1e-5)
    assert {source for source, _ in own.batches} == {0, 1}


def test_caches_of_one_name_are_numbered() -> None:
    assert LossByCache(["a", "b", "a"])._keys == [
        *("train/loss/a_0", "train/loss/b", "train/loss/a_2"),
    ]
