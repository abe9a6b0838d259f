import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook
from typing_extensions import override

from regionspot.core.errors import ConfigError, WeightsError
from regionspot.data import CachedRegions, RegionBatch
from regionspot.model import (
    FusionHead,
    HeadCard,
    HeadSpec,
    RegionClassifier,
    TrainedHead,
    classification_logits,
    load_trained_head,
    save_trained_head,
    sigmoid_focal_loss,
)
from regionspot.training import (
    ClassifierOptions,
    HeadOptions,
    OptimizerOptions,
    RegionSpotModule,
    ValidationOutput,
)
from regionspot.training.recipe import make_optimizer

MakeCache = Callable[..., Path]
SMALL = HeadOptions(num_blocks=1, num_heads=2, ffn_dim=24, dropout=0.0)

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning"
)  # Lightning 2.6, torch 2.15


class Collector(pl.Callback):
    """Keeps what the steps return."""

    def __init__(self) -> None:
        self.outputs: list[ValidationOutput] = []
        self.losses: list[tuple[RegionBatch, Tensor]] = []

    @override
    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: RegionBatch,
        batch_idx: int,
    ) -> None:
        self.losses.append((batch, outputs["loss"]))

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
        self.outputs.append(outputs)


def quiet_trainer(
    folder: Path,
    *,
    max_steps: int = 2,
    callbacks: Sequence[pl.Callback] = (),
    limit_val_batches: int | None = 0,
) -> pl.Trainer:
    return pl.Trainer(
        callbacks=list(callbacks),
        limit_val_batches=limit_val_batches,
        default_root_dir=folder,
        accelerator="cpu",
        max_steps=max_steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def start(folder: Path, *, clip_model: str = "tiny", heads: int = 2) -> TrainedHead:
    """Write a trained head that fits the small caches."""
    head = FusionHead(
        HeadSpec(token_dim=8, feature_dim=16, text_dim=6, num_blocks=1, num_heads=heads, ffn_dim=24)
    )
    card = HeadCard(head=head.spec, scale=30.0, bias=-5.0, fingerprint={"clip_model": clip_model})
    trained = TrainedHead(head=head, classifier=RegionClassifier(30.0, -5.0), card=card)
    save_trained_head(folder, trained)
    return trained


def test_the_defaults_are_the_papers_recipe(make_cache: MakeCache) -> None:
    spec = replace(CachedRegions([make_cache()]).spec, feature_dim=768, text_dim=512, token_dim=256)
    module = RegionSpotModule(spec)
    trained = [p for p in module.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == 24_226_304
    optimizer = make_optimizer(
        module.head,
        module.classifier,
        optimizer=OptimizerOptions(),
        classifier_options=ClassifierOptions(),
    )
    (group,) = optimizer.param_groups
    assert group["lr"] == 2.5e-5
    assert group["weight_decay"] == 1e-4
    assert sum(p.numel() for p in group["params"]) == 24_226_304


def test_scale_and_bias_train_without_decay_at_their_own_rate(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    data = CachedRegions([make_cache()])
    module = RegionSpotModule(
        data.spec,
        head=SMALL,
        classifier=ClassifierOptions(trainable=True, lr=0.5),
        optimizer=OptimizerOptions(lr=0.1),
    )
    trainer = quiet_trainer(tmp_path, max_steps=1)
    trainer.fit(module, datamodule=data)
    (optimizer,) = trainer.optimizers
    head, classifier = optimizer.param_groups
    assert (head["initial_lr"], classifier["initial_lr"]) == (0.1, 0.5)
    assert classifier["weight_decay"] == 0.0
    assert {id(p) for p in classifier["params"]} == {
        id(module.classifier.log_scale),
        id(module.classifier.bias),
    }


def test_a_step_trains_on_the_vocabulary_of_the_batchs_source(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    data = CachedRegions(
        [make_cache("a"), make_cache("b", names=("kiwi", "plum"), seed=1)], batch_size=4
    )
    # So low a rate leaves the weights as they are, for the comparison after the training.
    still = OptimizerOptions(lr=1e-12)
    module = RegionSpotModule(data.spec, head=SMALL, optimizer=still)
    collector = Collector()
    quiet_trainer(tmp_path, max_steps=8, callbacks=[collector]).fit(module, datamodule=data)
    sources = set()
    for batch, found in collector.losses:
        embeddings = module.head(batch.position_tokens, batch.feature_map, batch.region_mask)
        logits = classification_logits(embeddings, data.text_banks[batch.source])
        wanted = sigmoid_focal_loss(logits, batch.labels, batch.region_mask)
        torch.testing.assert_close(found, wanted.detach())
        sources.add(batch.source)
    assert sources == {0, 1}


def test_validation_returns_probabilities_of_the_validation_vocabulary(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    val = make_cache("val", names=("kiwi", "plum"), num_images=5, empty={0, 1}, seed=1)
    data = CachedRegions([make_cache()], val=val, batch_size=2)
    module = RegionSpotModule(data.spec, head=SMALL)
    collector = Collector()
    trainer = quiet_trainer(tmp_path, callbacks=[collector], limit_val_batches=None)
    trainer.validate(module, datamodule=data, verbose=False)
    outputs = collector.outputs
    assert [output["batch"].keys for output in outputs] == [
        ("image000", "image001"),
        ("image002", "image003"),
        ("image004",),
    ]
    assert outputs[0]["scores"].shape == (2, 0, 2)
    for output in outputs[1:]:
        scores, mask = output["scores"], output["batch"].region_mask
        assert scores.shape == (*mask.shape, 2)
        torch.testing.assert_close(scores.sum(dim=-1), torch.ones(mask.shape))
    right = [
        (output["scores"].argmax(dim=-1) == output["batch"].labels)[output["batch"].region_mask]
        for output in outputs
    ]
    share = torch.cat(right).float().mean()
    torch.testing.assert_close(trainer.callback_metrics["val/top1"], share)


def test_a_warm_start_takes_weights_scale_and_bias(make_cache: MakeCache, tmp_path: Path) -> None:
    trained = start(tmp_path / "head")
    module = RegionSpotModule(
        CachedRegions([make_cache()]).spec, head=SMALL, init_from=str(tmp_path / "head")
    )
    for name, tensor in trained.head.state_dict().items():
        assert module.head.state_dict()[name].equal(tensor), name
    assert module.classifier.log_scale.exp().item() == pytest.approx(30.0)
    assert module.classifier.bias.item() == -5.0


def released_layout(width: int = 16, text_dim: int = 6) -> dict[str, Tensor]:
    """Weights under the released names, out of torch's own decoder."""
    layer = torch.nn.TransformerDecoderLayer(width, 8, 2048, batch_first=True)
    parts = torch.nn.ModuleDict(
        {
            "to_clip": torch.nn.Linear(8, width),
            "decoder": torch.nn.TransformerDecoder(layer, 3, torch.nn.LayerNorm(width)),
            "projector": torch.nn.Linear(width, text_dim),
        }
    )
    return dict(parts.state_dict())


def test_a_warm_start_from_a_released_checkpoint(make_cache: MakeCache, tmp_path: Path) -> None:
    torch.manual_seed(0)
    released = released_layout()
    frozen = {"model.sam.iou_token.weight": torch.zeros(1, 8)}
    model = {f"model.{name}": tensor for name, tensor in released.items()} | frozen
    torch.save({"model": model, "iteration": 7, "trainer": {}}, tmp_path / "bl.pth")
    data = CachedRegions([make_cache()])
    module = RegionSpotModule(
        data.spec, classifier=ClassifierOptions(scale=5.0), init_from=str(tmp_path / "bl.pth")
    )
    assert len(released) == 60
    for name, tensor in released.items():
        assert module.head.state_dict()[name].equal(tensor), name
    assert module.classifier.log_scale.exp().item() == pytest.approx(100.0)
    quiet_trainer(tmp_path, max_steps=1).fit(module, datamodule=data)
    assert module.trained_head().card.training["init_from"] == str(tmp_path / "bl.pth")


def test_a_released_checkpoint_of_another_shape_is_refused_by_field(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    torch.save({"model": released_layout(width=32)}, tmp_path / "bl.pth")
    spec = CachedRegions([make_cache()]).spec
    with pytest.raises(
        WeightsError, match=r"bl\.pth does not fit.*feature_dim: found 32, wanted 16"
    ):
        RegionSpotModule(spec, init_from=str(tmp_path / "bl.pth"))
    torch.save({"model": released_layout()}, tmp_path / "bl.pth")
    with pytest.raises(WeightsError, match="num_blocks: found 3, wanted 1"):
        RegionSpotModule(spec, head=SMALL, init_from=str(tmp_path / "bl.pth"))


def test_a_warm_start_of_another_shape_is_refused_by_field(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    # Heads do not show in the weights' shapes: only the card can tell.
    start(tmp_path / "head", heads=4)
    with pytest.raises(WeightsError, match="num_heads: found 4, wanted 2"):
        RegionSpotModule(
            CachedRegions([make_cache()]).spec, head=SMALL, init_from=str(tmp_path / "head")
        )


def test_a_warm_start_from_other_features_is_warned_of(
    make_cache: MakeCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start(tmp_path / "head", clip_model="ViT-L-14")
    data = CachedRegions([make_cache()])
    module = RegionSpotModule(data.spec, head=SMALL, init_from=str(tmp_path / "head"))
    with caplog.at_level(logging.WARNING):
        quiet_trainer(tmp_path, max_steps=1).fit(module, datamodule=data)
    assert "clip_model: 'ViT-L-14' then, 'tiny' now" in caplog.text


@pytest.mark.parametrize("initial", [None, ("from before",), ()])
def test_the_card_names_the_classes_with_regions_in_training(
    make_cache: MakeCache, tmp_path: Path, initial: tuple[str, ...] | None
) -> None:
    names = tuple(f"class {number:02d}" for number in range(30))
    folder = make_cache(num_images=2, names=names)
    data = CachedRegions([folder])
    init_from = None
    if initial is not None:
        first = start(tmp_path / "head")
        card = replace(first.card, seen_classes=initial)
        save_trained_head(tmp_path / "head", replace(first, card=card))
        init_from = str(tmp_path / "head")
    module = RegionSpotModule(data.spec, head=SMALL, init_from=init_from)
    quiet_trainer(tmp_path, max_steps=1).fit(module, datamodule=data)
    (cache,) = data.train_caches
    labelled = {names[label] for image in range(2) for label in cache.sample(image).labels}
    seen = module.trained_head().card.seen_classes
    if initial == ():
        assert seen == (), "unknown before, so unknown now"
    else:
        assert set(seen) == labelled | set(initial or ())
        assert len(seen) < len(names)


def test_only_a_cached_regions_data_module_is_trained_on(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    data = CachedRegions([make_cache()])
    module = RegionSpotModule(data.spec, head=SMALL)
    with (
        pytest.warns(UserWarning, match="no `val_dataloader`"),
        pytest.raises(ConfigError, match="datamodule=CachedRegions"),
    ):
        quiet_trainer(tmp_path).fit(module, train_dataloaders=data.train_dataloader())
    with pytest.raises(ConfigError, match="has not been trained"):
        module.trained_head()


def trained_steps(
    make_cache: MakeCache, folder: Path, *, compiled: bool
) -> tuple[list[Tensor], RegionSpotModule]:
    pl.seed_everything(0)
    data = CachedRegions([make_cache("a")], batch_size=4)
    module = RegionSpotModule(data.spec, head=SMALL, compile=compiled)
    collector = Collector()
    quiet_trainer(folder, max_steps=3, callbacks=[collector]).fit(module, datamodule=data)
    return [loss for _, loss in collector.losses], module


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # inductor's own, of many kinds
def test_a_compiled_head_trains_the_same_and_leaves_no_mark_in_files(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    plain_losses, plain = trained_steps(make_cache, tmp_path, compiled=False)
    losses, compiled = trained_steps(make_cache, tmp_path, compiled=True)
    torch.testing.assert_close(losses, plain_losses, atol=0.0, rtol=1e-5)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    save_trained_head(tmp_path / "head", compiled.trained_head())
    loaded = load_trained_head(tmp_path / "head")
    for name, tensor in plain.head.state_dict().items():
        # AdamW makes steps of the rounding errors that are the gradient of a key bias.
        torch.testing.assert_close(loaded.head.state_dict()[name], tensor, atol=3e-6, rtol=1e-4)


def test_compiling_renames_no_tensor_and_compiles_nothing_yet(make_cache: MakeCache) -> None:
    spec = CachedRegions([make_cache()]).spec
    plain = RegionSpotModule(spec, head=SMALL)
    compiled = RegionSpotModule(spec, head=SMALL, compile=True)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    compiled.load_state_dict(plain.state_dict(), strict=True)
    assert compiled.head._compiled_call_impl is not None
    assert plain.head._compiled_call_impl is None


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_gradient_is_clipped_by_its_norm(
    make_cache: MakeCache,
    tmp_path: Path,
    *,
    fused: bool,
    precision: Literal["32-true", "bf16-mixed"],
) -> None:
    data = CachedRegions([make_cache()])
    options = OptimizerOptions(fused=fused)
    module = RegionSpotModule(data.spec, head=SMALL, optimizer=options)
    norms: list[float] = []
    trainer = pl.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        precision=precision,
        max_steps=2,
        gradient_clip_val=1e-3,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )

    def measure(optimizer: torch.optim.Optimizer, *_: object) -> None:
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())

    with register_optimizer_step_post_hook(measure):
        trainer.fit(module, datamodule=data)
    assert norms == pytest.approx([1e-3, 1e-3], rel=1e-3)
