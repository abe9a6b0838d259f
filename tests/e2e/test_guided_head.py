"""A guided head through the commands: cache, fit, evaluate, recognize."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml

from helpers.training import training_config
from regionspot.cli.cache import make_cache
from regionspot.cli.evaluate import evaluate
from regionspot.cli.recognize import recognize
from regionspot.cli.train import train
from regionspot.toy import generate_world


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world with a cache of its validation images, and a run that trained on them."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("guided")
    generate_world(folder / "world", seed=3, num_val=8, num_train=1)
    make_cache(
        [
            *("--output_dir", str(folder / "cache"), "--models.preset", "toy"),
            *("--annotations.format", "lvis", "--annotations.path", f"{folder}/world/val.json"),
            *("--annotations.images_dir", f"{folder}/world", "--templates", "[none]"),
            *("--device", "cpu"),
        ]
    )
    config = training_config(folder / "run", [folder / "cache"], max_steps=8)
    config["data"] |= {"val": str(folder / "cache"), "templates": "none"}
    config["val_annotations"] = f"{folder}/world/val.json"
    config["model"]["head"] |= {"guidance": "learned", "guidance_spread": 4.0}
    (folder / "train.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    train(["fit", "--config", str(folder / "train.yaml")])
    return folder


def test_the_report_shows_the_guidance_and_ap_is_that_of_training(folder: Path) -> None:
    evaluate(
        [
            *("--cache", f"{folder}/cache", "--annotations", f"{folder}/world/val.json"),
            *("--images_dir", f"{folder}/world", "--output_dir", f"{folder}/evaluated"),
            *("--checkpoints", f"[guided={folder}/run]", "--templates", "none"),
            *("--training_dirs", f"[{folder}/run]", "--device", "cpu"),
        ]
    )
    metrics = json.loads((folder / "evaluated" / "metrics.json").read_text(encoding="utf-8"))
    (log,) = (folder / "run" / "csv").glob("version_*/metrics.csv")
    with log.open(encoding="utf-8") as file:
        *_, last = (float(row["val/AP"]) for row in csv.DictReader(file) if row["val/AP"])
    found = metrics["methods"]["guided"]["AP"]
    assert found == pytest.approx(last, abs=1e-3)
    report = (folder / "evaluated" / "report.html").read_text(encoding="utf-8")
    assert "Learned guidance of each attention head" in report


def test_regions_of_a_picture_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = next((folder / "world").rglob("*.jpg"))
    recognize(
        [
            *(str(picture), "--model", f"{folder}/run", "--device", "cpu"),
            *("--boxes", "10,10,60,60 5,5,20,90", "--top_k", "1"),
        ]
    )
    _head, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:5] for line in lines] == [
        ["0", "10", "10", "60", "60"],
        ["1", "5", "5", "20", "90"],
    ]
