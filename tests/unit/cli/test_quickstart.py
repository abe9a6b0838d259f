"""Quickstart does steps again that changed or lost a file, and removes only what it has made."""

import fnmatch
import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.files import tree
from regionspot.cli.main import main
from regionspot.cli.quickstart import MADE, Step, claim_folder, plan_steps, run_steps
from regionspot.core.errors import ConfigError
from regionspot.toy import WorldArguments, generate_world, world_is_complete

ROOT = Path(__file__).parents[3]


def toy_step(folder: Path, *, seed: int = 5) -> Step:
    sizes = ("--num_val", "1", "--num_train", "1")
    return Step(
        name="generate the toy world",
        words=("toy", "--output_dir", str(folder / "world"), "--seed", str(seed), *sizes),
        outputs=(folder / "world",),
        folder=folder / "world",
    )


def cache_step(folder: Path) -> Step:
    world, cache = folder / "world", folder / "cache" / "val"
    return Step(
        name="cache val",
        words=(
            *("cache", "--annotations.format", "lvis", "--annotations.path", f"{world}/val.json"),
            *("--annotations.images_dir", str(world), "--models.preset", "toy"),
            *("--device", "cpu", "--templates", "[single]", "--output_dir", str(cache)),
        ),
        outputs=(cache,),
        folder=cache,
    )


# --- Which steps are done ------------------------------------------------------------------------


def test_a_finished_step_is_not_done_again(tmp_path: Path) -> None:
    (first,) = run_steps([toy_step(tmp_path)], tmp_path)
    written_ns = (tmp_path / "world" / "world.json").stat().st_mtime_ns
    (second,) = run_steps([toy_step(tmp_path)], tmp_path)
    assert second == first
    assert (tmp_path / "world" / "world.json").stat().st_mtime_ns == written_ns


def test_a_step_whose_command_changed_starts_from_nothing(tmp_path: Path) -> None:
    run_steps([toy_step(tmp_path, seed=5)], tmp_path)
    (tmp_path / "world" / "leftover.txt").write_text("of the former world")
    run_steps([toy_step(tmp_path, seed=6)], tmp_path)
    facts = json.loads((tmp_path / "world" / "world.json").read_text(encoding="utf-8"))
    assert facts["seed"] == 6
    assert not (tmp_path / "world" / "leftover.txt").exists()


def test_a_step_that_lost_a_file_is_done_again(tmp_path: Path) -> None:
    steps = [toy_step(tmp_path), cache_step(tmp_path)]
    run_steps(steps, tmp_path)
    whole = {name: data for name, data in tree(tmp_path).items() if name != "steps.json"}
    image, tar = "world/val/000000900000.jpg", "cache/val/shards/000000.tar"
    for removed in ("world/val.json", "world/val", "cache/val/index.h5", "cache/val/shards"):
        path = tmp_path / removed
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        run_steps(steps, tmp_path)
        assert tree(tmp_path).items() >= whole.items(), removed
    for cut in (image, tar):
        (tmp_path / cut).write_bytes(whole[cut][:-1])
        run_steps(steps, tmp_path)
        assert tree(tmp_path).items() >= whole.items(), cut


def test_a_step_that_wrote_fewer_files_in_a_former_version_is_done_again(tmp_path: Path) -> None:
    step = toy_step(tmp_path)
    run_steps([step], tmp_path)
    rows = json.loads((tmp_path / "steps.json").read_text(encoding="utf-8"))
    del rows[0]["num_bytes"]["world/val.json"]
    (tmp_path / "steps.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "world" / "val.json").unlink()
    run_steps([replace(step, outputs=(*step.outputs, tmp_path / "world" / "val.json"))], tmp_path)
    assert (tmp_path / "world" / "val.json").is_file()


def test_a_copy_that_was_removed_is_made_again_without_its_step(tmp_path: Path) -> None:
    step = toy_step(tmp_path)
    head = Step(
        name=step.name,
        words=step.words,
        outputs=(tmp_path / "world" / "val", tmp_path / "world"),
        folder=step.folder,
        copy_to=tmp_path / "copy",
    )
    run_steps([head], tmp_path)
    written_ns = (tmp_path / "world" / "world.json").stat().st_mtime_ns
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["000000900000.jpg"]
    shutil.rmtree(tmp_path / "copy")
    run_steps([head], tmp_path)
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["000000900000.jpg"]
    assert (tmp_path / "world" / "world.json").stat().st_mtime_ns == written_ns


def test_a_damaged_memory_is_told(tmp_path: Path) -> None:
    (tmp_path / "steps.json").write_text('[{"name": "cache val"')
    with pytest.raises(ConfigError, match=r"steps\.json is damaged .* Give --fresh"):
        run_steps([toy_step(tmp_path)], tmp_path)


def test_a_world_that_lost_an_image_is_not_complete(tmp_path: Path) -> None:
    arguments = WorldArguments(seed=5, num_val=1, num_train=1)
    generate_world(tmp_path, seed=5, num_val=1, num_train=1)
    assert world_is_complete(tmp_path, arguments)
    (tmp_path / "val" / "000000900000.jpg").unlink()
    assert not world_is_complete(tmp_path, arguments)


# --- What is removed -----------------------------------------------------------------------------


def test_fresh_removes_what_quickstart_made_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claim_folder(tmp_path, fresh=False)
    for name in MADE:
        path = tmp_path / name
        if "." in name:
            path.write_text("made")
        else:
            path.mkdir()
            (path / "file").write_text("made")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("mine")
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").symlink_to(elsewhere)
    (tmp_path / "notes.txt").write_text("mine")
    claim_folder(tmp_path, fresh=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("elsewhere", "notes.txt", "quickstart.json"),
    ]
    assert (elsewhere / "mine").read_text() == "mine"
    assert "not made by quickstart: elsewhere, notes.txt" in capsys.readouterr().out


@pytest.mark.parametrize("fresh", [[], ["--fresh"]])
@pytest.mark.parametrize("marker", [None, "{}", '{"made": ["../mine"]}', "[", '{"made": [""]}'])
def test_a_folder_of_something_else_is_refused_and_not_touched(
    marker: str | None,
    fresh: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    photos = tmp_path / "photos"
    (photos / "cache").mkdir(parents=True)
    (photos / "cache" / "holiday.jpg").write_bytes(b"the only copy")
    (tmp_path / "mine").write_text("mine")
    if marker is not None:
        (photos / "quickstart.json").write_text(marker)
    before = tree(tmp_path)
    with pytest.raises(SystemExit) as exit_info:
        main(["quickstart", "--output_dir", "photos", *fresh])
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: photos")
    assert "Nothing was touched" in error
    assert tree(tmp_path) == before


def test_an_output_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="is a file; wanted a folder"):
        claim_folder(tmp_path / "file", fresh=True)


# --- What is needed ------------------------------------------------------------------------------


def test_every_path_of_the_tour_lies_below_its_output_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    steps = plan_steps(out, out / "configs", world_seed=1, seed=0)
    assert [step.words[0] for step in steps] == ["toy", *["cache"] * 4, *["fit"] * 3, "evaluate"]
    paths = [path for step in steps for path in step.outputs]
    paths += [
        path for step in steps for path in (step.folder, step.copy_to, *step.config_paths) if path
    ]
    # What is made there is named by quickstart.json.
    assert {path.relative_to(out).parts[0] for path in paths} <= set(MADE)
    assert not any("runs/quickstart" in word for step in steps for word in step.words)


def test_in_any_folder_the_package_s_configurations_are_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("regionspot.cli.quickstart.run_steps", lambda *_: [])
    main(["quickstart", "--output_dir", "out"])
    for step in plan_steps(Path("out"), Path("out/configs"), world_seed=1, seed=0):
        for path in step.config_paths:
            assert path.read_bytes() == (ROOT / "configs" / "toy" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--configs_dir", "nowhere"],
            "no configuration at nowhere/cache.yaml: leave --configs_dir",
        ),
        (["--configs_dir", "runs/quickstart/configs"], "is where quickstart writes copies"),
        ([], 'quickstart needs hotcoco, which is not installed: pip install "regionspot[eval]"'),
    ],
)
def test_what_is_missing_is_told_before_anything_is_made(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if not words:
        monkeypatch.setattr(
            "regionspot.cli.quickstart.find_spec", lambda name: None if name == "hotcoco" else name
        )
    with pytest.raises(SystemExit) as exit_info:
        main(["quickstart", *words])
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_everything_that_the_package_reads_is_named_as_its_data() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["regionspot"]
    package = ROOT / "src" / "regionspot"
    data = [
        path
        for path in package.rglob("*")
        if path.is_file() and path.suffix in {".yaml", ".json", ".jinja", ".css"}
    ]
    assert len(data) >= 9
    for path in data:
        name = path.relative_to(package).as_posix()
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), name


@pytest.mark.slow
def test_a_wheel_holds_the_configurations_and_the_template_of_the_report(
    tmp_path: Path,
) -> None:
    for name in ("src", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*pip, "--wheel-dir", str(tmp_path), str(tmp_path)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    configs = {path.relative_to(ROOT) for path in (ROOT / "configs").glob("*/*")}
    assert len(configs) > 30
    assert {f"regionspot/{path.as_posix()}" for path in configs} <= {*names}
    assert {f"regionspot/evaluation/report.{kind}" for kind in ("html.jinja", "css")} <= {*names}
