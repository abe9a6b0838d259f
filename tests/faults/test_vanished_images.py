"""The folder of the images goes away in the middle of a run: nothing is left out for good."""

import json
from pathlib import Path

import pytest

from helpers.files import tree
from helpers.worlds import cache_options, draw_images, write_own_csv
from regionspot.cli.main import main

NUM_IMAGES, IMAGES_PER_SHARD, IN_A_ROW = 12, 3, 4


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    (folder / "photos").mkdir()
    draw_images(folder / "photos", [f"{number}.png" for number in range(NUM_IMAGES)])
    rows = [f"{number}.png,1,2,9,12,class {number % 2}" for number in range(NUM_IMAGES)]
    write_own_csv(folder, rows)
    return folder


def words(world: Path, cache: Path, *changes: str) -> list[str]:
    options = cache_options(
        world / "own.csv", world / "photos", cache, images_per_shard=IMAGES_PER_SHARD
    )
    allowed = ("--max_quarantined_share", "1", "--max_quarantined_in_a_row", str(IN_A_ROW))
    return ["cache", *options, *allowed, *changes]


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    cache = tmp_path_factory.mktemp("finished")
    main(words(world, cache))
    return tree(cache)


@pytest.mark.parametrize(
    ("first_gone", "num_gone", "shards_done", "part"),
    [
        (0, 12, [], ()),
        (3, 9, ["000000"], ()),  # with a shard of its own
        (5, 7, ["000000"], ()),  # from the last image of a shard on
        (5, 7, ["000000"], ("--part", "1/1")),
        (4, 4, ["000000"], ()),  # just as many as stop the run
        (8, 4, ["000000", "000001"], ()),
    ],
)
def test_a_run_stops_before_any_shard_is_finished_without_images_that_are_only_away(
    first_gone: int,
    num_gone: int,
    shards_done: list[str],
    part: tuple[str, ...],
    world: Path,
    finished: dict[str, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gone = [world / "photos" / f"{first_gone + place}.png" for place in range(num_gone)]
    for path in gone:
        path.rename(path.with_suffix(".away"))
    try:
        with pytest.raises(SystemExit) as exit_info:
            main(words(world, tmp_path, *part))
    finally:
        for path in gone:
            path.with_suffix(".away").rename(path)
    assert exit_info.value.code == 2
    first, example, *_ = capsys.readouterr().err.splitlines()
    assert first == (
        f"error: 4 images in a row cannot be used. The first of them, in {world / 'photos'}:"
    )
    assert example == f"  {first_gone}.png does not exist"
    assert sorted(path.stem for path in tmp_path.glob("shards/*.json")) == shards_done
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("shards/*.json")}
    main(words(world, tmp_path, *part))
    assert tree(tmp_path) == finished
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_fewer_in_a_row_are_left_out_and_the_limit_changes_no_byte(
    world: Path, tmp_path: Path
) -> None:
    for number in (4, 5, 6, 8, 9, 10):
        path = world / "photos" / f"{number}.png"
        path.rename(path.with_suffix(".away"))
    try:
        main(words(world, tmp_path / "a"))
        main(words(world, tmp_path / "b", "--max_quarantined_in_a_row", "100"))
    finally:
        for path in (world / "photos").glob("*.away"):
            path.rename(path.with_suffix(".png"))
    lines = (tmp_path / "a" / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    names = [json.loads(line)["file_name"] for line in lines]
    assert names == [f"{number}.png" for number in (4, 5, 6, 8, 9, 10)]
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
