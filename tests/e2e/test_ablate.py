"""``regionspot ablate``: from a configuration to tables, in parts, and again."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from helpers.files import tree
from helpers.training import training_config
from regionspot.cli.ablate import Job, ablate, plan_jobs, plan_steps
from regionspot.cli.evaluate import parse_config
from regionspot.cli.options import parse_options
from regionspot.evaluation.ablation import AblationConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ablation of two heads with two seeds each, finished."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("ablation")
    stage = training_config(folder / "unused", [folder / "unused"], max_steps=2)
    stage["data"] |= {"templates": "none"}
    (folder / "stage.yaml").write_text(yaml.safe_dump(stage), encoding="utf-8")
    scored = {"templates": "none", "num_pictures": 0, "checkpoints": ["of/another/run"]}
    scored |= {"models": {"preset": "toy"}, "images_dir": str(folder / "data" / "world")}
    (folder / "eval.yaml").write_text(yaml.safe_dump(scored), encoding="utf-8")
    cache = (
        "cache --output_dir {data}/cache --models.preset toy --annotations.format lvis"
        " --annotations.path {data}/world/val.json --annotations.images_dir {data}/world"
        " --templates [none] --device cpu"
    )
    data = {"data.train": ["{data}/cache"]}
    options = {"cache": "{data}/cache", "annotations": "{data}/world/val.json", "device": "cpu"}
    write_config(
        folder,
        {
            "output_dir": str(folder / "out"),
            "data": str(folder / "data"),
            "prepare": ["toy --output_dir {data}/world --num_val 6 --num_train 1", cache],
            "seeds": [0, 1],
            "stages": [{"config": str(folder / "stage.yaml"), "options": data}] * 2,
            "evaluations": {"val": {"config": str(folder / "eval.yaml"), "options": options}},
            "runs": {
                "whole": {},
                "alone": {"fit": {"model.head.regions": "alone"}},
                "untrained": {"methods": ["pooled_patches"]},
            },
            "tables": {
                "regions": {
                    "title": "Regions",
                    "evaluation": "val",
                    "rows": [
                        {"name": "alone", "run": "alone", "paper": 18.5},
                        {"name": "together", "run": "whole", "paper": 22.1},
                        {"name": "patches", "run": "untrained", "method": "pooled_patches"},
                    ],
                }
            },
        },
    )
    ablate(["--config", str(folder / "ablation.yaml")])
    return folder


def write_config(folder: Path, config: dict[str, Any]) -> None:
    (folder / "ablation.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def read_config(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((folder / "ablation.yaml").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy whose paths are its own."""
    copied = tmp_path / "copy"
    shutil.copytree(folder, copied)
    names = {"ablation.yaml", "stage.yaml", "eval.yaml", "prepared.json", "step.json"}
    for path in copied.rglob("*"):
        if path.name in names:
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace(str(folder), str(copied)), encoding="utf-8")
    return copied


def test_the_tables_have_the_figures_of_every_run_and_seed(folder: Path) -> None:
    (table,) = json.loads((folder / "out" / "ablation.json").read_text())["tables"]
    *trained, untrained = table["rows"]
    path = folder / "out" / "runs" / "untrained" / "val" / "metrics.json"
    assert untrained["values"] == [json.loads(path.read_text())["methods"]["pooled_patches"]["AP"]]
    for row, run in zip(trained, ("alone", "whole"), strict=True):
        for seed, value in zip((0, 1), row["values"], strict=True):
            path = folder / "out" / "runs" / run / f"seed{seed}" / "val" / "metrics.json"
            assert json.loads(path.read_text())["methods"]["fusion_head"]["AP"] == value
    card = folder / "out" / "runs" / "alone" / "seed1" / "stage2" / "head" / "head.json"
    assert json.loads(card.read_text())["head"]["regions"] == "alone"
    config = (folder / "out" / "runs" / "alone" / "seed1" / "stage2" / "config.yaml").read_text()
    assert "runs/alone/seed1/stage1/head" in config


def test_the_same_command_again_runs_nothing(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(copy / "out" / "runs")
    capsys.readouterr()
    ablate(["--config", str(copy / "ablation.yaml")])
    assert "$" not in capsys.readouterr().out
    assert tree(copy / "out" / "runs") == before


def test_what_was_interrupted_is_finished(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = copy / "out" / "runs" / "whole" / "seed1"
    wanted = (run / "stage2" / "head" / "head.safetensors").read_bytes()
    shutil.rmtree(run / "val")
    shutil.rmtree(run / "stage2" / "head")
    capsys.readouterr()
    ablate(["--config", str(copy / "ablation.yaml")])
    commands = [line.split()[2] for line in capsys.readouterr().out.splitlines() if "$" in line]
    assert commands == ["fit", "evaluate"]
    assert (run / "stage2" / "head" / "head.safetensors").read_bytes() == wanted


def test_a_run_of_other_options_is_kept_and_named(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = read_config(copy)
    config["runs"]["alone"]["fit"]["model.head.num_blocks"] = 2
    write_config(copy, config)
    before = tree(copy / "out" / "runs")
    with pytest.raises(SystemExit) as exit_info:
        ablate(["--config", str(copy / "ablation.yaml")])
    assert exit_info.value.code == 2
    message = capsys.readouterr().err
    assert "seed0/stage1 was made by another command" in message
    assert "--model.head.num_blocks 2" in message
    assert tree(copy / "out" / "runs") == before


def test_parts_share_the_runs_and_the_last_one_writes_the_tables(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for scored in (copy / "out" / "runs").glob("**/val"):
        shutil.rmtree(scored)
    (copy / "out" / "ablation.json").unlink()
    ablate(["--config", str(copy / "ablation.yaml"), "--part", "2/2"])
    assert "3 of 5 runs are not finished" in capsys.readouterr().out
    assert not (copy / "out" / "ablation.json").exists()
    ablate(["--config", str(copy / "ablation.yaml"), "--part", "1/2"])
    assert (copy / "out" / "ablation.json").is_file()


def test_a_figure_that_is_not_there_is_named(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = read_config(copy)
    config["tables"]["regions"]["figure"] = "mAP"
    write_config(copy, config)
    with pytest.raises(SystemExit):
        ablate(["--config", str(copy / "ablation.yaml")])
    assert "has no figure 'mAP'" in capsys.readouterr().err


def test_without_options_it_says_which_to_give(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        ablate([])
    assert exit_info.value.code == 2
    assert "--config configs/ablation/toy.yaml" in capsys.readouterr().err


@pytest.mark.slow
def test_several_processes_share_the_runs(copy: Path) -> None:
    shutil.rmtree(copy / "out" / "runs")
    ablate(["--config", str(copy / "ablation.yaml"), "--num_processes", "2"])
    assert {path.name for path in (copy / "out" / "logs").iterdir()} == {
        *("part_1_of_2.txt", "part_2_of_2.txt")
    }
    (table,) = json.loads((copy / "out" / "ablation.json").read_text())["tables"]
    assert [len(row["values"]) for row in table["rows"]] == [2, 2, 1]


@pytest.mark.slow
def test_a_process_that_fails_ends_the_others_and_its_message_is_shown(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = read_config(copy)
    config["runs"]["alone"]["fit"]["model.head.num_heads"] = 5
    write_config(copy, config)
    shutil.rmtree(copy / "out" / "runs")
    with pytest.raises(SystemExit):
        ablate(["--config", str(copy / "ablation.yaml"), "--num_processes", "2"])
    assert "num_heads is 5, which does not divide" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["toy", "toy_worlds", "bl"])
def test_the_configurations_are_consistent(name: str) -> None:
    path = ROOT / "configs" / "ablation" / f"{name}.yaml"
    config = parse_options(AblationConfig, ["--config", str(path)], prog="ablate", about=None)
    jobs = plan_jobs(config)
    assert {job.name for job in jobs} == set(config.runs), "a run that no table shows"
    folders: list[Path] = []
    for job in jobs:
        for step in plan_steps(config, job):
            assert (ROOT / step.words[2]).is_file()
            assert "{data}" not in step.command
            folders.append(step.folder)
            if step.words[0] == "evaluate":
                words = [*step.words[3:], "--config", str(ROOT / step.words[2])]
                parse_config([*words[-2:], *words[:-2]])
    assert len(set(folders)) == len(folders)


def test_stages_start_from_the_head_before(folder: Path) -> None:
    config = parse_options(
        AblationConfig, ["--config", str(folder / "ablation.yaml")], prog="ablate", about=None
    )
    first, second, scored = plan_steps(config, Job(name="alone", seed=1))
    assert "--model.init_from" not in first.words
    at = second.words.index("--model.init_from")
    assert second.words[at + 1] == str(first.folder / "head")
    assert scored.words[scored.words.index("--checkpoints") + 1] == json.dumps(
        [str(second.folder / "head")]
    )
