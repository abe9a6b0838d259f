"""``--part``: processes that share nothing but a folder end with the bytes of one alone."""

import signal
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from helpers.files import tree
from helpers.processes import Fork, fork_regionspot
from helpers.worlds import cache_options, write_world
from regionspot.cache import exclusive_writer, sharing_writer, try_lock_shard, verify_cache
from regionspot.core.errors import ConfigError
from regionspot.extraction.parts import Part

NUM_IMAGES, NUM_SHARDS = 23, 8


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"), NUM_IMAGES)


def start(world: Path, cache: Path, part: str) -> Fork:
    options = cache_options(world / "own.csv", world, cache)
    return fork_regionspot(["cache", *options, "--part", part])


@pytest.fixture(scope="module")
def finished(world: Path) -> dict[str, bytes]:
    """What one process writes that does it all, with the threads that the others have."""
    code, _, errors = start(world, world / "whole", "1/1").ended()
    assert code == 0, errors
    return tree(world / "whole")


def test_parts_one_after_the_other_end_in_the_bytes_of_one_run(
    world: Path, finished: dict[str, bytes], tmp_path: Path
) -> None:
    cache, printed = tmp_path / "cache", []
    for part in ("3/3", "1/3", "2/3"):
        assert not (cache / "index.h5").exists()
        code, output, errors = start(world, cache, part).ended()
        assert code == 0, errors
        printed.append(output)
    assert "2 of the cache's 8 shards are done" in printed[0]
    assert "5 of the cache's 8 shards are done" in printed[1]
    assert "23 images, 23 regions, 8 shards" in printed[2]
    assert verify_cache(cache) == []
    assert tree(cache) == finished


def test_processes_at_once_even_on_the_same_part_end_in_the_bytes_of_one(
    world: Path, finished: dict[str, bytes], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    processes = [start(world, cache, part) for part in ("1/2", "2/2", "1/2")]
    for process in processes:
        code, _, errors = process.ended()
        assert code == 0, errors
    assert tree(cache) == finished


def test_a_killed_part_is_done_by_the_next_command(
    world: Path, finished: dict[str, bytes], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    process = start(world, cache, "1/2")
    deadline = time.monotonic() + 60
    while not list(cache.glob("shards/*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.ended()[0] == -signal.SIGKILL
    for part in ("2/2", "1/2"):
        code, _, errors = start(world, cache, part).ended()
        assert code == 0, errors
    assert tree(cache) == finished


def test_who_does_it_alone_and_who_shares_exclude_each_other(tmp_path: Path) -> None:
    with sharing_writer(tmp_path), sharing_writer(tmp_path):
        alone = exclusive_writer(tmp_path)
        with pytest.raises(ConfigError, match="another process is writing"):
            alone.__enter__()
    with exclusive_writer(tmp_path):
        sharing = sharing_writer(tmp_path)
        with pytest.raises(ConfigError, match="give all of them a --part"):
            sharing.__enter__()


def test_a_shard_has_one_writer(tmp_path: Path) -> None:
    lock = try_lock_shard(tmp_path, 3)
    assert lock is not None
    assert try_lock_shard(tmp_path, 3) is None
    other = try_lock_shard(tmp_path, 4)
    assert other is not None
    lock.release(is_complete=False)
    again = try_lock_shard(tmp_path, 3)
    assert again is not None
    again.release(is_complete=True)
    other.release(is_complete=True)
    assert list((tmp_path / "shards").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "environ", "wanted"),
    [
        ("1/1", {}, (0, 1, 0)),
        ("2/8", {"RANK": "5", "WORLD_SIZE": "9"}, (1, 8, 0)),
        ("auto", {"RANK": "5", "WORLD_SIZE": "9", "LOCAL_RANK": "1"}, (5, 9, 1)),
        ("auto", {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "3"}, (3, 4, 3)),
        (
            "auto",
            {
                "SLURM_ARRAY_TASK_ID": "12",
                "SLURM_ARRAY_TASK_COUNT": "8",
                "SLURM_ARRAY_TASK_MIN": "10",
                "SLURM_PROCID": "0",
                "SLURM_NTASKS": "1",
            },
            (2, 8, 0),
        ),
    ],
)
def test_a_part_is_read_from_the_option_or_the_environment(
    text: str, environ: Mapping[str, str], wanted: tuple[int, int, int]
) -> None:
    part = Part.parse(text, environ)
    assert (part.index, part.count, part.local_index) == wanted


@pytest.mark.parametrize(
    ("text", "environ", "message"),
    [
        ("0/8", {}, "wanted 2/8 for the second of eight parts, counted from 1"),
        ("9/8", {}, "wanted 2/8"),
        ("2", {}, "wanted 2/8"),
        ("auto", {}, "give --part 1/8 and so on yourself"),
        (
            "auto",
            {"SLURM_ARRAY_TASK_ID": "20", "SLURM_ARRAY_TASK_COUNT": "3"},
            "wanted task numbers without gaps",
        ),
    ],
)
def test_no_part_at_all_is_refused(text: str, environ: Mapping[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Part.parse(text, environ)


def test_locks_that_a_killed_process_left_go_when_the_cache_is_finished(
    world: Path, finished: dict[str, bytes], tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    for name, content in finished.items():
        if name != "index.h5":
            (cache / name).parent.mkdir(parents=True, exist_ok=True)
            (cache / name).write_bytes(content)
    (cache / "shards" / "000003.lock").touch()  # its shard was complete, its process died
    code, _, errors = start(world, cache, "2/2").ended()
    assert code == 0, errors
    assert tree(cache) == finished


def test_every_shard_is_of_one_part() -> None:
    parts = [Part(index=index, count=3) for index in range(3)]
    assert [[part.index for part in parts if part.has(shard)] for shard in range(5)] == [
        *([0], [1], [2], [0], [1]),
    ]
