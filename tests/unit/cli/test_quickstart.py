"""Quickstart does a step again only if something before it changed, or if it was not finished."""

import json
from pathlib import Path

from regionspot.cli.quickstart import Step, plan_steps, run_steps


def toy_step(folder: Path, *, seed: int) -> Step:
    sizes = ("--num_val", "1", "--num_train", "1")
    return Step(
        name="generate the toy world",
        words=("toy", "--output_dir", str(folder / "world"), "--seed", str(seed), *sizes),
        product=folder / "world" / "world.json",
        folder=folder / "world",
    )


def test_a_finished_step_is_not_done_again(tmp_path: Path) -> None:
    (first,) = run_steps([toy_step(tmp_path, seed=5)], tmp_path)
    written_ns = (tmp_path / "world" / "world.json").stat().st_mtime_ns
    (second,) = run_steps([toy_step(tmp_path, seed=5)], tmp_path)
    assert second == first
    assert (tmp_path / "world" / "world.json").stat().st_mtime_ns == written_ns


def test_a_step_whose_command_changed_starts_from_nothing(tmp_path: Path) -> None:
    run_steps([toy_step(tmp_path, seed=5)], tmp_path)
    (tmp_path / "world" / "leftover.txt").write_text("of the former world")
    run_steps([toy_step(tmp_path, seed=6)], tmp_path)
    facts = json.loads((tmp_path / "world" / "world.json").read_text(encoding="utf-8"))
    assert facts["seed"] == 6
    assert not (tmp_path / "world" / "leftover.txt").exists()


def test_a_step_whose_product_is_missing_is_done_again(tmp_path: Path) -> None:
    run_steps([toy_step(tmp_path, seed=5)], tmp_path)
    (tmp_path / "world" / "world.json").unlink()
    run_steps([toy_step(tmp_path, seed=5)], tmp_path)
    assert (tmp_path / "world" / "world.json").is_file()


def test_every_path_of_the_tour_lies_below_its_output_folder(tmp_path: Path) -> None:
    steps = plan_steps(tmp_path / "out", Path("configs/toy"), world_seed=1, seed=0)
    assert [step.words[0] for step in steps] == ["toy", *["cache"] * 4, "fit", "fit", "evaluate"]
    assert all(step.product.is_relative_to(tmp_path / "out") for step in steps)
    assert not any("runs/quickstart" in word for step in steps for word in step.words)
