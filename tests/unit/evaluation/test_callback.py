import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from regionspot.cache import FeatureCache
from regionspot.core.errors import ConfigError
from regionspot.core.region_scores import RegionScores
from regionspot.data import CachedRegions
from regionspot.scoring import Predictions, emit_predictions
from regionspot.scoring.callback import ApValidation, gather_predictions
from regionspot.scoring.lvis_reference import reference_lvis_figures
from regionspot.training import ClassifierOptions, HeadOptions, RegionSpotModule

# Lightning 2.6 asks torch's pytree in a way that newer torch versions call deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")

MakeCache = Callable[..., Path]
AnnotationsOf = Callable[[Path], Path]


def module_for(data: CachedRegions) -> RegionSpotModule:
    head = HeadOptions(num_blocks=1, num_heads=2, ffn_dim=16)
    return RegionSpotModule(data.spec, head=head, classifier=ClassifierOptions(scale=10.0))


def trainer_for(callback: ApValidation, folder: Path, **options: object) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[callback],
        **options,  # type: ignore[arg-type]
    )


@torch.no_grad()
def reference_ap(
    module: RegionSpotModule, cache_dir: Path, annotations: Path, num_images: int
) -> float:
    """AP by the reference, every image scored alone."""
    parts = []
    with FeatureCache.open(cache_dir) as cache:
        bank = torch.from_numpy(np.array(cache.text_bank("ensemble81")))
        for position in range(num_images):
            sample = cache.sample(position)
            tokens = torch.from_numpy(np.array(sample.position_tokens, np.float32))
            features = torch.from_numpy(np.array(sample.feature_map, np.float32))
            logits = module.classifier(module.head(tokens[None], features[None])[0], bank)
            scores = RegionScores(
                image_id=sample.image_id,
                boxes_xyxy=np.array(sample.boxes_xyxy),
                scores=logits.softmax(dim=-1).numpy(),
            )
            ids = cache.manifest.category_ids
            parts.append(emit_predictions([scores], ids, protocol="flattened_top300"))
    return 100 * reference_lvis_figures(annotations, Predictions.concatenate(parts))["AP"]


def test_validation_logs_the_references_ap(
    make_cache: MakeCache, annotations_of: AnnotationsOf, tmp_path: Path
) -> None:
    cache = make_cache(empty=[3])
    annotations = annotations_of(cache)
    data = CachedRegions([cache], cache, batch_size=4)
    module = module_for(data)
    trainer = trainer_for(ApValidation(annotations), tmp_path)
    trainer.validate(module, datamodule=data, verbose=False)
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert {"val/AP", "val/APr", "val/APc", "val/APf"} <= logged.keys()
    assert logged["val/AP"] == pytest.approx(
        reference_ap(module.eval(), cache, annotations, num_images=12), abs=1e-3
    )


def test_every_epoch_of_training_logs_anew(
    make_cache: MakeCache, annotations_of: AnnotationsOf, tmp_path: Path
) -> None:
    cache = make_cache()
    data = CachedRegions([cache], cache, batch_size=4)
    trainer = trainer_for(ApValidation(annotations_of(cache)), tmp_path, max_epochs=2)
    trainer.fit(module_for(data), datamodule=data)
    assert 0 <= float(trainer.callback_metrics["val/AP"]) <= 100


def test_only_images_that_validation_saw_are_scored(
    make_cache: MakeCache, annotations_of: AnnotationsOf, tmp_path: Path
) -> None:
    cache = make_cache()
    data = CachedRegions([cache], cache, batch_size=4)
    annotations = annotations_of(cache)
    trainer = trainer_for(ApValidation(annotations), tmp_path, limit_val_batches=1)
    module = module_for(data)
    trainer.validate(module, datamodule=data, verbose=False)
    content = json.loads(annotations.read_text())
    content["images"] = content["images"][:4]
    seen = [image["id"] for image in content["images"]]
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] in seen]
    first_batch = tmp_path / "first_batch.json"
    first_batch.write_text(json.dumps(content))
    assert float(trainer.callback_metrics["val/AP"]) == pytest.approx(
        reference_ap(module.eval(), cache, first_batch, num_images=4), abs=1e-3
    )


def test_without_a_validation_cache_the_error_says_so(
    make_cache: MakeCache, annotations_of: AnnotationsOf, tmp_path: Path
) -> None:
    cache = make_cache()
    callback = ApValidation(annotations_of(cache))
    trainer = trainer_for(callback, tmp_path)
    with pytest.raises(ConfigError, match=r"Set data\.val"):
        callback.on_validation_epoch_start(trainer, pl.LightningModule())


def test_modules_that_return_no_scores_are_named(
    make_cache: MakeCache, annotations_of: AnnotationsOf, tmp_path: Path
) -> None:
    callback = ApValidation(annotations_of(make_cache()))
    trainer = trainer_for(callback, tmp_path)
    with pytest.raises(ConfigError, match="LightningModule returned NoneType"):
        callback.on_validation_batch_end(trainer, pl.LightningModule(), None, None, 0)


def predict(image_ids: list[int]) -> Predictions:
    count = len(image_ids)
    return Predictions(
        image_ids=np.array(image_ids, np.int64),
        category_ids=np.ones(count, np.int64),
        boxes_xywh=np.ones((count, 4)),
        scores=np.linspace(0.5, 1, count),
    )


def test_one_process_keeps_its_predictions() -> None:
    gathered, seen = gather_predictions(predict([3, 3, 1]), [1, 3, 9])
    assert gathered.image_ids.tolist() == [3, 3, 1]
    assert seen == [1, 3, 9]


GATHER = """
import sys, numpy as np, torch
from regionspot.scoring import Predictions
from regionspot.scoring.callback import gather_predictions

rank, store = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
ids, seen = [([1, 1, 2], [1, 2]), ([2, 3], [2, 3, 4])][rank]
ones = np.ones(len(ids))
mine = Predictions(
    image_ids=np.array(ids), category_ids=ones.astype(int), boxes_xywh=np.ones((len(ids), 4)),
    scores=ones,
)
gathered, all_seen = gather_predictions(mine, seen)
print(gathered.image_ids.tolist(), all_seen)
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_processes_gather_every_image_once(tmp_path: Path) -> None:
    store = f"file://{tmp_path}/store"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", GATHER, str(rank), store], stdout=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    texts = [process.communicate(timeout=120)[0] for process in processes]
    assert texts == ["[1, 1, 2, 3] [1, 2, 3, 4]\n"] * 2
