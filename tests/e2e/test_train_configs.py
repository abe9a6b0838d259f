"""Every training configuration is parsed by the command it is written for, and its recipe runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from regionspot.cli.train import train
from regionspot.model import load_trained_head

ROOT = Path(__file__).parents[2]
TOY = sorted((ROOT / "configs" / "toy").glob("train_stage*.yaml"))
TOY_FAST = ROOT / "configs" / "toy" / "train_fast.yaml"
PAPER = sorted((ROOT / "configs" / "train").glob("*_stage*.yaml"))
FAST = ROOT / "configs" / "train" / "bl_fast.yaml"
OWN = ROOT / "configs" / "train" / "own.yaml"
GUIDED = ROOT / "configs" / "train" / "bl_guided.yaml"
TOY_GUIDED = ROOT / "configs" / "toy" / "train_guided.yaml"
MakeCache = Callable[..., Path]


def parsed(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    with pytest.raises(SystemExit) as exit_info:
        train(["fit", "--config", str(path), "--print_config"])
    assert exit_info.value.code == 0
    config: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return config


def test_the_configurations_are_there() -> None:
    assert [path.stem for path in PAPER] == [
        *("bb_stage1", "bb_stage2", "bl336_stage1", "bl336_stage2", "bl_stage1", "bl_stage2"),
    ]
    assert [path.stem for path in TOY] == ["train_stage1", "train_stage2"]
    known_of = {"train": [*PAPER, FAST, GUIDED, OWN], "toy": [*TOY, TOY_FAST, TOY_GUIDED]}
    for folder, known in known_of.items():
        pattern = "*.yaml" if folder == "train" else "train_*.yaml"
        assert set((ROOT / "configs" / folder).glob(pattern)) == set(known)


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_the_papers_recipe_is_written_out(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = parsed(path, capsys)
    variant, stage = path.stem.split("_stage")
    trainer, model = config["trainer"], config["model"]
    assert config["max_images"] == 450_000 * 16
    assert trainer["max_steps"] == -1
    assert trainer["gradient_clip_val"] == 1.0
    assert config["data"]["batch_size"] == 16
    names = ["objects365"] if stage == "1" else ["objects365", "openimages", "v3det"]
    assert config["data"]["train"] == [f"caches/{name}_{variant}" for name in names]
    assert config["data"]["val"] == f"caches/lvis_val_{variant}"
    assert model.get("init_from") == (None if stage == "1" else f"runs/{variant}_stage1/head")
    assert model["head"] == {
        "num_blocks": 3,
        "num_heads": 8,
        "ffn_dim": 2048,
        "dropout": 0.1,
        "normalize_inputs": False,
        "position_code": "none",
        "guidance": "none",
        "guidance_region": "box",
        "guidance_spread": 0.0,
        "feature_tokens": "all",
        "regions": "together",
    }
    assert model["classifier"] | {"lr": None} == {
        "scale": 100.0,
        "bias": 0.0,
        "trainable": False,
        "lr": None,
    }
    assert (model["optimizer"]["lr"], model["optimizer"]["weight_decay"]) == (2.5e-5, 1e-4)
    assert model["loss"] == {"alpha": 0.25, "gamma": 2.0, "normalization": "paper"}
    assert model["schedule"] == {
        "shape": "steps",
        "warmup_images": 1000 * 16,
        "warmup_factor": 0.01,
        "milestones_images": [350_000 * 16, 420_000 * 16],
        "gamma": 0.1,
        "final_factor": 0.0,
    }


@pytest.mark.parametrize("path", TOY, ids=lambda path: path.stem)
def test_the_toy_recipe_drops_the_rate_late_and_checkpoints_at_the_end(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = parsed(path, capsys)
    images, batch_size = config["max_images"], config["data"]["batch_size"]
    milestones = config["model"]["schedule"]["milestones_images"]
    assert milestones == [0.75 * images, 0.92 * images]
    assert images % batch_size == 0
    steps = images // batch_size
    last = config["trainer"]["callbacks"][1]["init_args"]
    assert last["filename"] == "last"
    assert steps % last["every_n_train_steps"] == 0
    assert steps % config["trainer"]["val_check_interval"] == 0


@pytest.mark.parametrize("path", [FAST, TOY_FAST], ids=lambda path: path.stem)
def test_the_fast_recipe_sees_fewer_images_of_all_caches_in_larger_batches(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = [
        yaml.safe_load(one.read_text(encoding="utf-8"))
        for one in (PAPER[-2:] if path == FAST else TOY)
    ]
    assert [len(one["data"]["train"]) for one in stages] == [1, 3]
    fast = parsed(path, capsys)
    assert fast["max_images"] < sum(one["max_images"] for one in stages)
    assert fast["data"]["train"] == stages[1]["data"]["train"]
    assert fast["data"]["batch_size"] >= 2 * stages[1]["data"]["batch_size"]
    assert fast["max_images"] % fast["data"]["batch_size"] == 0
    assert fast["model"].get("init_from") is None
    assert fast["model"]["head"].items() >= stages[1]["model"]["head"].items()
    assert fast["model"]["schedule"]["shape"] == "cosine"
    average, *_, last = fast["trainer"]["callbacks"]
    assert average["class_path"].endswith(".EMAWeightAveraging")
    steps = fast["max_images"] // fast["data"]["batch_size"]
    assert 1 / (1 - average["init_args"]["decay"]) < steps / 3
    # The last checkpoint, and the last validation, are of the last step.
    assert steps % last["init_args"]["every_n_train_steps"] == 0
    assert steps % fast["trainer"]["val_check_interval"] == 0


@pytest.mark.parametrize(
    ("path", "stage_2"), [(GUIDED, PAPER[-1]), (TOY_GUIDED, TOY[-1])], ids=["bl", "toy"]
)
def test_the_guided_recipe_is_stage_2_but_for_guidance(path: Path, stage_2: Path) -> None:
    guided, wanted = (yaml.safe_load(one.read_text(encoding="utf-8")) for one in (path, stage_2))
    assert guided["model"]["head"].pop("guidance") == "learned"
    assert guided["trainer"].pop("default_root_dir") != wanted["trainer"].pop("default_root_dir")
    assert guided == wanted


@pytest.mark.parametrize(
    "path",
    [*TOY, TOY_FAST, TOY_GUIDED, *PAPER[:1]],
    ids=lambda path: f"{path.parent.stem}-{path.stem}",
)
def test_the_recipe_runs(make_cache: MakeCache, tmp_path: Path, path: Path) -> None:
    torch.set_num_threads(1)
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    # Only what is about real data and long runs is replaced.
    config["data"] |= {"train": [str(make_cache())], "val": None}
    config["model"]["init_from"] = None
    config["max_images"] = 3 * config["data"]["batch_size"]
    config["model"]["schedule"]["warmup_images"] = config["data"]["batch_size"]
    callbacks = config["trainer"]["callbacks"]
    config["trainer"] |= {
        "default_root_dir": str(tmp_path / "run"),
        "accelerator": "cpu",
        "devices": 1,
        "callbacks": [one for one in callbacks if "ModelCheckpoint" not in one["class_path"]],
        "log_every_n_steps": 1,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    copy = tmp_path / "config.yaml"
    copy.write_text(yaml.safe_dump(config), encoding="utf-8")
    train(["fit", "--config", str(copy)])
    trained = load_trained_head(tmp_path / "run" / "head")
    assert trained.card.training["steps"] == 3
    assert all(parameter.isfinite().all() for parameter in trained.head.parameters())
