"""``regionspot cache repair``: whatever was damaged, the cache ends with the bytes it had."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.files import flip_bit, tree
from helpers.format3 import as_format3
from helpers.worlds import cache_options, write_world
from regionspot.cache import MeasuredError, read_sidecar, verify_cache
from regionspot.cli.main import main

NUM_IMAGES = 7


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"), NUM_IMAGES)


def words(world: Path, cache: Path) -> list[str]:
    options = ("--max_quarantined_share", "0.5")
    return cache_options(world / "own.csv", world, cache, *options)


@pytest.fixture(scope="module")
def finished(world: Path) -> Path:
    main(["cache", *words(world, world / "cache")])
    return world / "cache"


@pytest.fixture
def damaged(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "cache")
    return tmp_path / "cache"


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit of a tar": lambda cache: flip_bit(cache / "shards" / "000001.tar", 3000),
    "a cut tar": lambda cache: (cache / "shards" / "000000.tar").write_bytes(b""),
    "a lost tar": lambda cache: (cache / "shards" / "000002.tar").unlink(),
    "a bit of a sidecar": lambda cache: flip_bit(cache / "shards" / "000001.json", 100),
    "a lost sidecar": lambda cache: (cache / "shards" / "000001.json").unlink(),
    "a bit of the manifest": lambda cache: flip_bit(cache / "manifest.json", 60),
    "a bit of the index": lambda cache: flip_bit(cache / "index.h5", 2000),
    "a lost index": lambda cache: (cache / "index.h5").unlink(),
    "a bit of the text banks": lambda cache: flip_bit(cache / "text_banks.h5", 2000),
    "another quarantine": lambda cache: (cache / "quarantine.jsonl").write_text("{}"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_repair_ends_in_the_bytes_before_the_damage(
    damage: str, finished: Path, damaged: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    DAMAGES[damage](damaged)
    assert verify_cache(damaged)
    main(["cache", "repair", *words(world, damaged)])
    assert "found and repaired" in capsys.readouterr().out
    assert tree(damaged) == tree(finished)
    assert verify_cache(damaged) == []


def test_repair_tells_a_script_what_it_mended(
    finished: Path, damaged: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip_bit(damaged / "shards" / "000001.tar", 3000)
    main(["cache", "repair", "--json", "true", *words(world, damaged)])
    told = json.loads(capsys.readouterr().out)
    (mended,) = told.pop("mended")
    assert (mended["shard"], mended["member"], mended["offset"]) == (1, "feature_map.npy", 1536)
    num_bytes = sum(len(content) for content in tree(finished).values())
    assert told.pop("seconds") > 0
    assert told == {
        "cache_dir": str(damaged),
        "num_images": 7,
        "num_regions": 7,
        "num_shards": 3,
        "num_bytes": num_bytes,
        "num_clipped_regions": 0,
        "num_dropped_regions": 0,
        "num_quarantined": 0,
        "num_new_images": 3,
        "num_reused_maps": 0,
        "num_reused_tokens": 0,
        "num_ignored_orientations": 0,
    }


def test_whole_shards_are_not_written_again(damaged: Path, world: Path) -> None:
    flip_bit(damaged / "shards" / "000001.tar", 3000)
    before = {path.name: path.stat().st_mtime_ns for path in (damaged / "shards").iterdir()}
    main(["cache", "repair", *words(world, damaged)])
    after = {path.name: path.stat().st_mtime_ns for path in (damaged / "shards").iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"000001.tar", "000001.json"}


def test_a_whole_cache_is_left_alone(
    damaged: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    times = {path: path.stat().st_mtime_ns for path in (damaged / "shards").iterdir()}
    main(["cache", "repair", *words(world, damaged)])
    assert "no damage found" in capsys.readouterr().out
    assert times == {path: path.stat().st_mtime_ns for path in (damaged / "shards").iterdir()}


def test_images_that_were_mended_come_back_when_asked_for(
    finished: Path, world: Path, tmp_path: Path
) -> None:
    own = tmp_path / "world"
    shutil.copytree(world, own, ignore=shutil.ignore_patterns("cache"))
    good = (own / "4.png").read_bytes()
    (own / "4.png").write_bytes(good[:50])
    main(["cache", *words(own, tmp_path / "cache")])
    assert [image.file_name for image in read_sidecar(tmp_path / "cache", 1).quarantined] == [
        "4.png"
    ]
    (own / "4.png").write_bytes(good)
    main(["cache", "repair", *words(own, tmp_path / "cache")])
    assert read_sidecar(tmp_path / "cache", 1).quarantined
    main(["cache", "repair", *words(own, tmp_path / "cache"), "--retry_quarantined", "true"])
    assert tree(tmp_path / "cache") == tree(finished)


def test_a_cache_of_something_else_is_refused_and_not_touched(
    damaged: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip_bit(damaged / "shards" / "000001.tar", 3000)
    before = tree(damaged)
    with pytest.raises(SystemExit) as exit_info:
        main(["cache", "repair", *words(world, damaged), "--exif_policy", "apply"])
    assert exit_info.value.code == 2
    assert "fingerprint.exif_policy: found 'ignore', wanted 'apply'" in capsys.readouterr().err
    assert tree(damaged) == before


def test_a_folder_without_a_cache_is_no_repair(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["cache", "repair", *words(world, tmp_path / "nothing")])
    assert exit_info.value.code == 2
    assert "there is no cache to repair. Set --output_dir" in capsys.readouterr().err
    assert not (tmp_path / "nothing").exists()


def test_stats_count_what_is_there(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["cache", "stats", str(finished), "--json"])
    stats = json.loads(capsys.readouterr().out)
    assert (stats["num_images"], stats["num_regions"], stats["num_shards"]) == (7, 7, 3)
    assert stats["most_frequent_classes"] == {"class 0": 4, "class 1": 3}
    assert stats["regions_per_image"] == {"median": 1, "p95": 1, "max": 1}
    assert stats["total_bytes"] == sum(len(content) for content in tree(finished).values())
    assert stats["text_banks"] == ["none"]
    assert (stats["precision"], stats["codec"]) == ("float32", "float16")
    assert stats["measured_error"] is None
    main(["cache", "stats", str(finished)])
    table = capsys.readouterr().out
    assert "7 in 3 shards, 0 without regions" in table
    assert "class 0 (4), class 1 (3)" in table
    assert "computed in float32, feature maps stored as float16\n" in table
    assert re.search(r"format +4, without masks\n", table)
    old = as_format3(finished, tmp_path / "old")
    main(["cache", "stats", str(old)])
    assert re.search(r"format +3, without predicted IoUs, masks", capsys.readouterr().out)


def test_stats_tell_what_a_codec_costs(
    make_cache: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    error = MeasuredError(feature_map=0.0112, position_tokens=None, num_images=16)
    cache = make_cache(codec="int8", measured_error=error)
    main(["cache", "stats", str(cache), "--json"])
    stats = json.loads(capsys.readouterr().out)
    assert stats["codec"] == "int8"
    assert stats["measured_error"] == {
        "feature_map": 0.0112,
        "position_tokens": None,
        "num_images": 16,
    }
    main(["cache", "stats", str(cache)])
    assert "stored as int8; error on 16 images: feature maps 1.12%\n" in capsys.readouterr().out


def test_garbage_is_listed_and_only_removed_when_asked(
    damaged: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (damaged / "notes.txt").write_text("of a person")
    (damaged / "shards" / "mine.tar").write_text("of a person")
    left_over = [
        damaged / "index.h5.tmp",
        damaged / "shards" / "000001.tar.tmp",
        damaged / "shards" / "000003.json",
        damaged / "shards" / "000003.tar",
    ]
    for path in left_over:
        path.write_bytes(b"12345")
    main(["cache", "gc", str(damaged)])
    printed = capsys.readouterr().out.splitlines()
    assert printed[:-1] == [str(path) for path in left_over]
    assert printed[-1] == f"{damaged}: 4 files, 20 B to remove with --delete"
    assert all(path.is_file() for path in left_over)
    main(["cache", "gc", str(damaged), "--json"])
    assert json.loads(capsys.readouterr().out) == {
        "cache_dir": str(damaged),
        "files": [str(path) for path in left_over],
        "num_bytes": 20,
        "is_removed": False,
    }
    main(["cache", "gc", str(damaged), "--delete"])
    assert capsys.readouterr().out.splitlines()[-1] == f"{damaged}: 4 files, 20 B removed"
    assert tree(damaged) == {
        **tree(finished),
        "notes.txt": b"of a person",
        "shards/mine.tar": b"of a person",
    }


@pytest.mark.parametrize("command", ["stats", "gc"])
def test_a_folder_that_is_no_cache_is_refused(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(SystemExit) as exit_info:
        main(["cache", command, str(tmp_path), *(["--delete"] if command == "gc" else [])])
    assert exit_info.value.code == 2
    assert "is no feature cache" in capsys.readouterr().err
    assert (tmp_path / "precious.txt").is_file()
