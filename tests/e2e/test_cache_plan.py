"""``regionspot cache plan``: what it foretells is what the run then writes."""

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from helpers.worlds import cache_options, draw_images, write_own_csv
from regionspot.cli.main import main

NUM_IMAGES = 7
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    draw_images(folder, [f"{number}.png" for number in range(NUM_IMAGES)])
    boxes = [(number, place) for number in range(NUM_IMAGES) for place in range(4 * number)]
    rows = [f"{number}.png,1,{place},30,25,cat" for number, place in boxes]
    write_own_csv(folder, [*rows, "0.png,,,,,"])
    return folder


def words(world: Path, cache: Path, *more: str) -> list[str]:
    return cache_options(world / "own.csv", world, cache, *more)


def planned(
    world: Path, cache: Path, capsys: pytest.CaptureFixture[str], *more: str
) -> dict[str, float]:
    main(["cache", "plan", *words(world, cache, *more), "--json", "true"])
    found: dict[str, float] = json.loads(capsys.readouterr().out)
    return found


def test_the_plan_foretells_the_bytes_and_writes_nothing(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    plan = planned(world, cache, capsys)
    assert not cache.exists()
    assert (plan["num_images"], plan["num_shards"]) == (7, 3)
    assert (plan["num_shards_done"], plan["num_regions"]) == (0, 4 * 21)
    main(["cache", *words(world, cache)])
    tar_bytes = sum(path.stat().st_size for path in cache.glob("shards/*.tar"))
    # 400 bytes an image stand for the files beside the tars; a tar ends with 1,024 bytes.
    assert plan["total_bytes"] == tar_bytes - 3 * 1024 + 400 * NUM_IMAGES
    assert plan["missing_bytes"] == plan["total_bytes"]
    assert plan["seconds"] == pytest.approx(7 * plan["seconds_per_image"])
    assert plan["seconds_per_image"] > 0


def test_the_bytes_of_masks_are_estimated_from_the_probed_images(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, masks = tmp_path / "cache", ("--masks", "true")
    plan = planned(world, cache, capsys, *masks)
    assert planned(world, cache, capsys)["bytes_per_mask"] is None
    main(["cache", *words(world, cache, *masks)])
    tar_bytes = sum(path.stat().st_size for path in cache.glob("shards/*.tar"))
    # All images are probed, but an image's own masks may fill more blocks, or fewer, than the mean.
    assert abs(plan["total_bytes"] - (tar_bytes - 3 * 1024 + 400 * NUM_IMAGES)) <= 1024 * NUM_IMAGES
    capsys.readouterr()
    main(["cache", "plan", *words(world, tmp_path / "other", *masks)])
    wanted = f"(an estimate: masks take {plan['bytes_per_mask']} bytes each in those probed)"
    assert wanted in capsys.readouterr().out


def test_shards_that_are_there_are_not_planned_again(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    main(["cache", *words(world, cache)])
    (cache / "shards" / "000002.json").unlink()  # the last shard has one image
    capsys.readouterr()
    plan = planned(world, cache, capsys)
    assert plan["num_shards_done"] == 2
    assert 0 < plan["missing_bytes"] < plan["total_bytes"] / 3
    assert plan["seconds"] == pytest.approx(plan["seconds_per_image"])


def test_a_disk_that_is_too_small_is_refused(
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10_000, 9_000, 1_000))
    with pytest.raises(SystemExit) as exit_info:
        main(["cache", "plan", *words(world, tmp_path / "deep" / "cache")])
    assert exit_info.value.code == 2
    captured = capsys.readouterr()
    assert "1.0 kB free on the disk" in captured.out
    assert "has only 1.0 kB free. Make room, set another --output_dir" in captured.err


def test_another_cache_in_the_folder_is_refused(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["cache", *words(world, tmp_path / "cache")])
    with pytest.raises(SystemExit) as exit_info:
        main(["cache", "plan", *words(world, tmp_path / "cache"), "--limit", "3"])
    assert exit_info.value.code == 2
    assert "plan.num_images: found 7, wanted 3" in capsys.readouterr().err
