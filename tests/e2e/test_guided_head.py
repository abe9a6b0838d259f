"""Guided heads through the commands: cache, fit, evaluate, recognize, export."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from helpers.training import training_config
from regionspot.cache import FeatureCache
from regionspot.cli.cache import make_cache
from regionspot.cli.evaluate import evaluate
from regionspot.cli.export import export
from regionspot.cli.recognize import recognize
from regionspot.cli.train import train
from regionspot.inference import RegionSpot, score_cached
from regionspot.model import load_trained_head
from regionspot.toy import generate_world


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world with a cache of its validation images, and two runs that trained on them."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("guided")
    generate_world(folder / "world", seed=3, num_val=8, num_train=1)
    make_cache(
        [
            *("--output_dir", str(folder / "cache"), "--models.preset", "toy"),
            *("--annotations.format", "lvis", "--annotations.path", f"{folder}/world/val.json"),
            *("--annotations.images_dir", f"{folder}/world", "--templates", "[none]"),
            *("--device", "cpu", "--masks", "true"),
        ]
    )
    for region in ("box", "mask"):
        config = training_config(folder / region, [folder / "cache"], max_steps=8)
        config["data"] |= {"val": str(folder / "cache"), "templates": "none"}
        config["val_annotations"] = f"{folder}/world/val.json"
        config["model"]["head"] |= {
            "guidance": "learned",
            "guidance_region": region,
            "guidance_spread": 4.0,
        }
        (folder / "train.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        train(["fit", "--config", str(folder / "train.yaml")])
    return folder


def test_the_report_shows_the_guidance_and_ap_is_that_of_training(folder: Path) -> None:
    evaluate(
        [
            *("--cache", f"{folder}/cache", "--annotations", f"{folder}/world/val.json"),
            *("--images_dir", f"{folder}/world", "--output_dir", f"{folder}/evaluated"),
            *("--checkpoints", f"[box={folder}/box,mask={folder}/mask]", "--templates", "none"),
            *("--training_dirs", f"[{folder}/box,{folder}/mask]", "--device", "cpu"),
        ]
    )
    metrics = json.loads((folder / "evaluated" / "metrics.json").read_text(encoding="utf-8"))
    for region in ("box", "mask"):
        (log,) = (folder / region / "csv").glob("version_*/metrics.csv")
        with log.open(encoding="utf-8") as file:
            *_, last = (float(row["val/AP"]) for row in csv.DictReader(file) if row["val/AP"])
        assert metrics["methods"][region]["AP"] == pytest.approx(last, abs=1e-3)
    assert metrics["methods"]["box"]["AP"] != metrics["methods"]["mask"]["AP"]
    report = (folder / "evaluated" / "report.html").read_text(encoding="utf-8")
    assert "Learned guidance of each attention head" in report


def test_regions_of_a_picture_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = next((folder / "world").rglob("*.jpg"))
    recognize(
        [
            *(str(picture), "--model", f"{folder}/box", "--device", "cpu"),
            *("--boxes", "10,10,60,60 5,5,20,90", "--top_k", "1"),
        ]
    )
    _head, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:5] for line in lines] == [
        ["0", "10", "10", "60", "60"],
        ["1", "5", "5", "20", "90"],
    ]


def test_masks_from_pixels_guide_as_those_of_the_cache_do(folder: Path) -> None:
    model = RegionSpot.from_pretrained(folder / "mask", device="cpu")
    cache = FeatureCache.open(folder / "cache")
    bank = cache.text_bank("none")
    head = load_trained_head(folder / "mask")
    for position, scores in enumerate(score_cached(head, cache, bank)):
        sample = cache.sample(position)
        regions = model.recognize(
            folder / "world" / str(sample.file_name),
            boxes=np.array(sample.boxes_xyxy),
            vocabulary=cache.manifest.vocabulary.names,
            templates="none",
            top_k=len(cache.manifest.vocabulary),
            with_masks=position % 2 == 0,
        )
        wanted = np.take_along_axis(scores.scores, regions.top_class_ids, axis=1)
        np.testing.assert_allclose(regions.top_scores, wanted, atol=1e-2)
        assert (regions.masks is None) == bool(position % 2)


def test_a_head_guided_by_masks_is_not_exported(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        export([str(folder / "mask"), "--output", f"{folder}/head.onnx"])
    assert "guided by masks (guidance_region 'mask'), which cannot be" in capsys.readouterr().err
