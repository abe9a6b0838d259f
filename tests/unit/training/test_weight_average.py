"""Lightning's EMA callback around our module; the oracle is an average calculated by hand."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import Tensor
from typing_extensions import override

from regionspot.data import CachedRegions
from regionspot.model import load_trained_head, save_trained_head
from regionspot.training import (
    ClassifierOptions,
    HeadOptions,
    ImagesPerSecond,
    OptimizerOptions,
    RegionSpotModule,
)

DECAY = 0.75
Weights = dict[str, Tensor]
MakeCache = Callable[..., Path]

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning"
)  # Lightning 2.6, torch 2.15


def weights_of(module: pl.LightningModule) -> Weights:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


class Watcher(pl.Callback):
    """Keeps the weights after each step, and those that are validated."""

    def __init__(self) -> None:
        self.after_steps: list[Weights] = []
        self.validated: list[Weights] = []

    @override
    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self.after_steps.append(weights_of(pl_module))

    @override
    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.validated.append(weights_of(pl_module))


def averages(after_steps: Sequence[Weights]) -> list[Weights]:
    """Return the average after each step: it starts as the weights after the first one."""
    found = [after_steps[0]]
    for weights in after_steps[1:]:
        last = found[-1]
        found.append({name: DECAY * last[name] + (1 - DECAY) * w for name, w in weights.items()})
    return found


def fit(
    cache: Path, folder: Path, *, max_steps: int, ckpt_path: Path | None = None
) -> tuple[Watcher, RegionSpotModule]:
    pl.seed_everything(3, verbose=False)
    data = CachedRegions([cache], val=cache, batch_size=4)
    module = RegionSpotModule(
        data.spec,
        head=HeadOptions(num_blocks=1, num_heads=2, ffn_dim=24, dropout=0.0),
        classifier=ClassifierOptions(scale=10.0, bias=-2.0, trainable=True),
        optimizer=OptimizerOptions(lr=0.05),
    )
    watcher = Watcher()
    pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_steps=max_steps,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        callbacks=[
            watcher,
            ImagesPerSecond(),
            EMAWeightAveraging(decay=DECAY),
            ModelCheckpoint(
                dirpath=folder / "kept", filename="{step}", every_n_train_steps=2, save_top_k=-1
            ),
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    ).fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    return watcher, module


def assert_weights(found: Weights, wanted: Weights) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-6, msg=name)


def test_validation_checkpoint_and_head_are_the_average(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    watcher, module = fit(make_cache(), tmp_path, max_steps=6)
    wanted = averages(watcher.after_steps)
    assert len(wanted) == 6
    with pytest.raises(AssertionError):  # or the average would say nothing
        assert_weights(watcher.after_steps[-1], wanted[-1])

    for weights, average in zip(watcher.validated, wanted[1::2], strict=True):
        assert_weights(weights, average)
    for step in (2, 4, 6):
        path = tmp_path / "kept" / f"step={step}.ckpt"
        checkpoint = torch.load(path, weights_only=True)
        assert_weights(checkpoint["state_dict"], wanted[step - 1])
        trained = load_trained_head(path)
        weight = trained.head.state_dict()["projector.weight"]
        torch.testing.assert_close(weight, wanted[step - 1]["head.projector.weight"])
        bias = wanted[step - 1]["classifier.bias"].item()
        assert (trained.card.bias, trained.classifier.bias.item()) == pytest.approx((bias, bias))
    save_trained_head(tmp_path / "head", module.trained_head())
    exported = load_trained_head(tmp_path / "head")
    found = {f"head.{name}": tensor for name, tensor in exported.head.state_dict().items()}
    found |= {f"classifier.{n}": tensor for n, tensor in exported.classifier.state_dict().items()}
    assert_weights(found, wanted[-1])
    assert exported.card.bias == pytest.approx(wanted[-1]["classifier.bias"].item())


@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # so that the whole run is kept
def test_a_resumed_run_goes_on_with_the_same_average(make_cache: MakeCache, tmp_path: Path) -> None:
    cache = make_cache()
    _, whole = fit(cache, tmp_path / "whole", max_steps=6)
    watcher, resumed = fit(
        cache,
        tmp_path / "resumed",
        max_steps=6,
        ckpt_path=tmp_path / "whole" / "kept" / "step=4.ckpt",
    )
    assert len(watcher.after_steps) == 2
    for name, tensor in whole.state_dict().items():
        assert resumed.state_dict()[name].equal(tensor), name


def test_text_banks_are_neither_copied_nor_averaged(make_cache: MakeCache, tmp_path: Path) -> None:
    _, module = fit(make_cache(), tmp_path, max_steps=2)
    bank = CachedRegions([tmp_path / "tiny"]).text_banks[0]
    assert module.get_buffer("text_bank_0").equal(bank)
    checkpoint = torch.load(tmp_path / "kept" / "step=2.ckpt", weights_only=True)
    names = [*checkpoint["state_dict"], *checkpoint["current_model_state"]]
    assert not any("text_bank" in name for name in names)
    assert checkpoint["averaging_state"].keys() == {"n_averaged"}
