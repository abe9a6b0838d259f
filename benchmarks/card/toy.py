"""(g) The quickstart's caching and training on the device, beside this machine's CPU."""

import contextlib
import csv
import io
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from card.sizes import SIZES, Size
from card.table import Row
from card.worker import Setup

from regionspot.backbones import ModelsConfig
from regionspot.cli.main import main as regionspot
from regionspot.cli.quickstart import REPORTED_WORLD_SEED, SOURCES
from regionspot.extraction import AnnotationsConfig, CacheConfig, CacheSummary, cache_features
from regionspot.toy import generate_world

_RECIPE = Path(__file__).parents[2] / "configs" / "toy" / "train_stage1.yaml"
_BATCH_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class _Figures:
    caching: float
    training: float
    ap: float


def toy(setup: Setup) -> Iterator[Row]:
    """Cache one source and train stage 1, on the CPU and on the device."""
    size = SIZES[setup.size]
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder) / "world"
        generate_world(
            world,
            seed=REPORTED_WORLD_SEED,
            num_val=max(2, size.toy_images // 4),
            num_train=size.toy_images,
            num_processes=torch.get_num_threads(),
        )
        on_cpu = _measured(world, Path(folder) / "cpu", size, "cpu")
        if setup.device == "cpu":
            yield from _rows(on_cpu, None)
        else:
            yield from _rows(_measured(world, Path(folder) / "device", size, setup.device), on_cpu)


def _rows(ours: _Figures, on_cpu: _Figures | None) -> Iterator[Row]:
    for what, name, unit in (
        ("caching the toy world", "caching", "images/s"),
        ("training its stage 1", "training", "images/s"),
        ("AP after stage 1", "ap", "AP"),
    ):
        figure = getattr(ours, name)
        if on_cpu is None:
            yield Row(what=what, figure=figure, unit=unit)
            continue
        theirs = getattr(on_cpu, name)
        yield Row(
            what=what,
            figure=figure,
            unit=unit,
            peer=f"the CPU: {theirs:,.3g}",
            ratio=figure / theirs if theirs else None,
        )


def _measured(world: Path, folder: Path, size: Size, device: str) -> _Figures:
    caching = [_cache(world, folder, split, device) for split in (SOURCES[0], "val")]
    run = folder / "run"
    num_steps = size.toy_training_images // _BATCH_SIZE
    words = [
        *("fit", "--config", str(_RECIPE), "--trainer.default_root_dir", str(run)),
        *("--data.train", json.dumps([str(folder / SOURCES[0])])),
        *("--data.val", str(folder / "val"), "--val_annotations", str(world / "val.json")),
        *("--data.batch_size", str(_BATCH_SIZE), "--max_images", str(size.toy_training_images)),
        *("--trainer.val_check_interval", str(num_steps)),
        *("--trainer.accelerator", "cpu" if device == "cpu" else "cuda"),
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        regionspot(words)
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return _Figures(caching=caching[0], training=summary["images_per_s"], ap=_last_ap(run))


def _cache(world: Path, folder: Path, split: str, device: str) -> float:
    """Return images a second, without the loading of models."""
    config = CacheConfig(
        output_dir=str(folder / split),
        annotations=AnnotationsConfig(
            format="lvis", path=str(world / f"{split}.json"), images_dir=str(world)
        ),
        models=ModelsConfig(preset="toy"),
        batch_size=_BATCH_SIZE,
        device=device,
    )
    summary = cache_features(config)
    assert isinstance(summary, CacheSummary)  # noqa: S101 - for the type checker
    return summary.num_new_images / summary.seconds


def _last_ap(run: Path) -> float:
    *_, newest = sorted(run.glob("csv/version_*/metrics.csv"))
    with newest.open(encoding="utf-8") as file:
        values = [row["val/AP"] for row in csv.DictReader(file) if row.get("val/AP")]
    return float(values[-1])
