"""LVIS files as people have them: what can be cached can be scored, or is refused in a sentence."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.heads import random_head
from helpers.training import training_config
from helpers.worlds import draw_images
from regionspot.annotations import read_annotations
from regionspot.backbones import ModelsConfig, load_frozen_models
from regionspot.cache import CacheMerge
from regionspot.cli.evaluate import evaluate as evaluate_main
from regionspot.cli.train import train as train_main
from regionspot.extraction import AnnotationsConfig, CacheConfig, cache_features
from regionspot.model import save_trained_head
from regionspot.scoring import Predictions
from regionspot.scoring.lvis_reference import reference_lvis_figures


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Two images, and a head that nobody trained."""

    images: Path
    head: Path


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("odd")
    draw_images(folder, ["a.png", "b.png"])
    head = random_head(load_frozen_models(ModelsConfig(preset="toy")), seed=1)
    save_trained_head(folder / "run" / "head", head)
    return Setting(images=folder, head=folder / "run")


def dataset() -> dict[str, Any]:
    images = [
        {
            "id": number,
            "file_name": name,
            "width": 40,
            "height": 30,
            "neg_category_ids": [1, 2],
            "not_exhaustive_category_ids": [],
        }
        for number, name in ((1, "a.png"), (2, "b.png"))
    ]
    boxes = [(1, 1, [2, 3, 10, 10]), (1, 2, [20, 10, 15, 15]), (2, 2, [5, 5, 20, 20])]
    return {
        "images": images,
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": 90}
            for number, (image, category, box) in enumerate(boxes, start=1)
        ],
        "categories": [
            {"id": 1, "name": "plain red ring", "frequency": "r"},
            {"id": 2, "name": "dotted red circle", "frequency": "f"},
        ],
    }


def cache(setting: Setting, path: Path, folder: Path, *, crowds: Any = None) -> Path:
    """Cache a data set from a file."""
    annotations = AnnotationsConfig(
        format="lvis", path=str(path), images_dir=str(setting.images), crowds=crowds
    )
    config = CacheConfig(
        output_dir=str(folder),
        annotations=annotations,
        models=ModelsConfig(preset="toy"),
        templates=["none"],
        device="cpu",
    )
    cache_features(config)
    return folder


def evaluate(setting: Setting, path: Path, cache_dir: Path, output: Path) -> dict[str, Any]:
    """Score a cache by a file, and return metrics.json."""
    evaluate_main(
        [
            *("--cache", str(cache_dir), "--annotations", str(path), "--num_pictures", "0"),
            *("--checkpoints", f"[{setting.head}]", "--templates", "none", "--device", "cpu"),
            *("--output_dir", str(output)),
        ]
    )
    metrics: dict[str, Any] = json.loads((output / "metrics.json").read_text())
    return metrics


def written(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "odd.json"
    path.write_text(json.dumps(content))
    return path


def with_an_empty_box(content: dict[str, Any]) -> None:
    content["annotations"][0]["bbox"] = []


def with_ids_in_letters(content: dict[str, Any]) -> None:
    for region in content["annotations"]:
        region["id"] = f"a{region['id']}"


def with_an_unlisted_image(content: dict[str, Any]) -> None:
    content["annotations"][0]["image_id"] = 77


def with_null_fields(content: dict[str, Any]) -> None:
    content["annotations"][0].update(iscrowd=None, segmentation=None, ignore=None)


@pytest.mark.parametrize(
    ("change", "num_scored"),
    [
        (with_an_empty_box, 2),
        (with_ids_in_letters, 3),
        (with_an_unlisted_image, 2),
        (with_null_fields, 3),
    ],
)
def test_what_is_cached_is_scored(
    setting: Setting,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    change: Callable[[dict[str, Any]], None],
    num_scored: int,
) -> None:
    content = dataset()
    change(content)
    path = written(tmp_path, content)
    cache_dir = cache(setting, path, tmp_path / "cache")
    with caplog.at_level(logging.WARNING):
        metrics = evaluate(setting, path, cache_dir, tmp_path / "scored")
    assert metrics["data"]["num_regions"] == metrics["data"]["num_cached_regions"] == num_scored
    assert metrics["methods"]["fusion_head"]["AP"] is not None
    assert ("not scored: 1 annotations" in caplog.text) == (num_scored == 2)
    assert "very file" not in caplog.text


@pytest.mark.parametrize(("crowds", "num_cached"), [("keep", 3), ("drop", 2)])
def test_a_crowd_is_scored_as_lvis_does_whether_it_was_cached_or_not(
    setting: Setting,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    crowds: str,
    num_cached: int,
) -> None:
    content = dataset()
    content["annotations"][1]["iscrowd"] = 1
    path = written(tmp_path, content)
    cache_dir = cache(setting, path, tmp_path / "cache", crowds=crowds)
    with caplog.at_level(logging.WARNING):
        metrics = evaluate(setting, path, cache_dir, tmp_path / "scored")
    predictions = Predictions.read_lvis_json(tmp_path / "scored" / "predictions.json")
    theirs = reference_lvis_figures(path, predictions)
    assert metrics["methods"]["fusion_head"]["AP"] == 100 * theirs["AP"]
    assert metrics["data"]["num_regions"] == 3
    assert metrics["data"]["num_cached_regions"] == num_cached
    assert "very file" not in caplog.text  # it is


def test_the_same_content_in_other_bytes_is_remarked_on(
    setting: Setting, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path, dataset())
    cache_dir = cache(setting, path, tmp_path / "cache")
    first = evaluate(setting, path, cache_dir, tmp_path / "first")
    path.write_text(json.dumps(dataset(), indent=2))
    with caplog.at_level(logging.WARNING):
        second = evaluate(setting, path, cache_dir, tmp_path / "second")
    assert "is not the very file that" in caplog.text
    assert second["methods"] == first["methods"]


def test_a_merged_cache_is_not_said_to_be_of_another_file(
    setting: Setting, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path, dataset())
    merged = tmp_path / "merged"
    sources = [cache(setting, path, tmp_path / "cache")]
    CacheMerge(sources, images_per_shard=2).write(merged)
    with caplog.at_level(logging.WARNING):
        evaluate(setting, path, merged, tmp_path / "scored")
    assert "very file" not in caplog.text


def test_both_commands_refuse_what_cannot_be_scored_in_a_sentence(
    setting: Setting, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = dataset()
    content["images"][1]["neg_category_ids"] = None
    path = written(tmp_path, content)
    (note,) = read_annotations("lvis", path, setting.images).report.notes
    assert note.startswith("evaluate.py and --val_annotations will refuse this file: ")
    assert note.endswith(
        "images[1].neg_category_ids is None; wanted a list of category ids, [] if there are none"
    )
    cache_dir = cache(setting, path, tmp_path / "cache")
    config = tmp_path / "train.yaml"
    config.write_text(yaml.safe_dump(training_config(tmp_path / "run", [cache_dir], max_steps=1)))
    for command in (
        lambda: evaluate(setting, path, cache_dir, tmp_path / "scored"),
        lambda: train_main(
            [
                *("fit", "--config", str(config), "--data.templates", "none"),
                *("--data.val", str(cache_dir), "--val_annotations", str(path)),
            ]
        ),
    ):
        with pytest.raises(SystemExit) as exit_info:
            command()
        assert exit_info.value.code == 2
        printed = capsys.readouterr().err
        assert "images[1].neg_category_ids is None; wanted a list of category ids" in printed
        assert "Traceback" not in printed
