"""A cache behind s3://: the bytes of a local one, whatever is killed on the way."""

import json
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from helpers.files import flip_bit
from helpers.files import tree as local_tree
from helpers.processes import fork_regionspot
from helpers.worlds import cache_options, write_world
from regionspot.cli.main import main
from regionspot.storage import RemoteFolder, RemoteObject

NUM_IMAGES, NUM_SHARDS = 13, 5


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"), NUM_IMAGES)


def words(world: Path, cache: str, *more: str) -> list[str]:
    return cache_options(world / "own.csv", world, cache, *more)


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a local run writes."""
    folder = tmp_path_factory.mktemp("local") / "cache"
    run(world, str(folder))
    return local_tree(folder)


def run(world: Path, cache: str, *more: str) -> None:
    main(["cache", *words(world, cache, *more)])


def tree(url: str) -> dict[str, bytes]:
    """Return what lies behind a URL, as s3fs tells, not as we do."""
    files = S3FileSystem(use_listings_cache=False)
    root = f"{url.removeprefix('s3://')}/"
    names: list[str] = [name for name in files.find(root) if name.startswith(root)]
    return {name.removeprefix(root): files.cat_file(name) for name in names}


def test_a_cache_in_a_bucket_has_the_bytes_of_a_local_one_and_leaves_no_tar_here(
    world: Path,
    finished: dict[str, bytes],
    bucket: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = f"{bucket}/some/cache"
    staging = ("--staging_dir", str(tmp_path / "staging"))
    run(world, url, *staging)
    assert f"{url}: 13 images, 13 regions, 5 shards" in capsys.readouterr().out
    assert tree(url) == finished
    assert (tmp_path / "staging" / "cache" / "manifest.json").is_file()
    assert [path.name for path in tmp_path.rglob("*.tar")] == []
    run(world, url, *staging)
    assert "already complete, nothing to do" in capsys.readouterr().out
    assert tree(url) == finished


def test_a_run_that_is_killed_goes_on_with_the_same_command(
    world: Path, finished: dict[str, bytes], bucket: str
) -> None:
    url = f"{bucket}/cache"
    process = fork_regionspot(["cache", *words(world, url)])
    deadline = time.monotonic() + 120
    while "shards/000001.tar" not in tree(url) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.ended()[0] == -signal.SIGKILL
    there = tree(url)
    assert "index.h5" not in there
    assert {name: finished[name] for name in there} == there
    run(world, url)
    assert tree(url) == finished


class StoppedError(Exception):
    """Stands for the end of a process between two requests to the server."""


@contextmanager
def stopped(monkeypatch: pytest.MonkeyPatch, when: str, step: str) -> Iterator[None]:
    """Stop what runs within, before or after it publishes a file."""
    put = RemoteFolder.put

    def stopping(self: RemoteFolder, path: Path, name: str) -> RemoteObject:
        found = None if (name, when) == (step, "before") else put(self, path, name)
        if name == step or found is None:
            raise StoppedError
        return found

    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(RemoteFolder, "put", stopping)
        yield


STEPS = [
    *(("manifest.json", "after"), ("shards/000000.tar", "before"), ("shards/000000.tar", "after")),
    *(("shards/000004.json", "after"), ("index.h5", "before")),
]


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_a_run_that_ends_at_any_step_of_publishing_goes_on_here_or_elsewhere(
    where: str,
    world: Path,
    finished: dict[str, bytes],
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number, (step, when) in enumerate(STEPS):
        url, first = f"{bucket}/{number}", tmp_path / str(number)
        with stopped(monkeypatch, when, step):
            run(world, url, "--staging_dir", str(first))
        there = tree(url)
        assert (step in there) == (when == "after")
        sidecars = [name for name in there if name.startswith("shards/") and ".json" in name]
        assert {name.replace(".json", ".tar") for name in sidecars} <= set(there)
        run(world, url, "--staging_dir", str(first if where == "here" else tmp_path / "second"))
        assert tree(url) == finished, step
        assert where == "elsewhere" or not list(first.rglob("*.tar"))
        shutil.rmtree(tmp_path / "second", ignore_errors=True)


def test_a_shard_that_was_written_and_not_published_is_not_made_again(
    world: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{bucket}/cache"
    with stopped(monkeypatch, "before", "shards/000001.tar"):
        run(world, url)
    capsys.readouterr()
    run(world, url)
    assert "\n7 images in " in capsys.readouterr().out  # 13 less those of two shards


def test_a_cache_that_was_removed_from_the_bucket_can_be_made_otherwise(
    world: Path, bucket: str
) -> None:
    url = f"{bucket}/cache"
    run(world, url)
    S3FileSystem().rm(url.removeprefix("s3://"), recursive=True)
    run(world, url, "--images_per_shard", "7")
    assert [name for name in tree(url) if ".tar" in name] == [
        "shards/000000.tar",
        "shards/000001.tar",
    ]


def test_what_one_machine_had_no_time_to_publish_gives_way_to_what_another_did(
    world: Path,
    finished: dict[str, bytes],
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = f"{bucket}/cache"
    with stopped(monkeypatch, "before", "shards/000001.tar"):
        run(world, url, "--staging_dir", str(tmp_path / "a"))
    tar = tmp_path / "a" / "cache" / "shards" / "000001.tar"
    flip_bit(tar, 3000, bit=0)  # as the other machine's numbers may differ in their last bit
    run(world, url, "--staging_dir", str(tmp_path / "b"))
    run(world, url, "--staging_dir", str(tmp_path / "a"))
    assert tree(url) == finished
    assert not tar.exists()


def test_a_staging_folder_of_something_else_is_refused_and_not_touched(
    world: Path, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    staging = ("--staging_dir", str(tmp_path))
    run(world, str(tmp_path / "cache"))  # a cache of its own, where staging would have one
    before = local_tree(tmp_path)
    refused(world, f"{bucket}/cache", *staging)
    assert f"{tmp_path} holds files in {tmp_path / 'cache'}; wanted" in capsys.readouterr().err
    assert local_tree(tmp_path) == before
    staging = ("--staging_dir", str(tmp_path / "staging"))
    run(world, f"{bucket}/cache", *staging)
    before = local_tree(tmp_path)
    refused(world, f"{bucket}/another", *staging)
    assert f"is the staging folder of {bucket}/cache; wanted" in capsys.readouterr().err
    assert local_tree(tmp_path) == before


def test_parts_on_two_machines_end_in_the_bytes_of_one_run(
    world: Path,
    finished: dict[str, bytes],
    bucket: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = f"{bucket}/cache"
    run(world, url, "--part", "2/2", "--staging_dir", str(tmp_path / "b"))
    assert "2 of the cache's 5 shards are done" in capsys.readouterr().out
    assert "index.h5" not in tree(url)
    run(world, url, "--part", "1/2", "--staging_dir", str(tmp_path / "a"))
    assert "13 images, 13 regions, 5 shards" in capsys.readouterr().out
    assert tree(url) == finished


def test_a_network_disk_by_url_gets_the_bytes_of_a_local_cache(
    world: Path, finished: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGIONSPOT_HOME", str(tmp_path / "home"))
    disk = tmp_path / "disk" / "cache"
    run(world, disk.as_uri())
    assert local_tree(disk) == finished


@pytest.mark.slow
def test_processes_that_share_a_staging_folder_end_in_the_same_bytes(
    world: Path, finished: dict[str, bytes], bucket: str
) -> None:
    url = f"{bucket}/cache"
    command = ["cache", *words(world, url, "--part", "1/2")]
    processes = [fork_regionspot(command) for _ in range(2)]
    for process in processes:
        code, _, errors = process.ended()
        assert code == 0, errors
    run(world, url, "--part", "2/2")
    assert tree(url) == finished


def test_repair_mends_in_the_bucket_what_verify_finds_there(
    world: Path, finished: dict[str, bytes], bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{bucket}/cache"
    run(world, url)
    main(["cache", "verify", url])
    assert f"{url}: whole" in capsys.readouterr().out
    flipped = bytearray(finished["shards/000001.tar"])
    flipped[3000] ^= 4
    put(f"{url}/shards/000001.tar", bytes(flipped))
    put(f"{url}/text_banks.h5", finished["text_banks.h5"][:-1])
    put(f"{url}/shards/000003.tar", finished["shards/000003.tar"][:-512])
    with pytest.raises(SystemExit) as exit_info:
        main(["cache", "verify", url])
    assert exit_info.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{url}/shards/000001.tar, image 3-2epng, feature_map.npy, byte ")
    assert lines[1].startswith(
        f"{url}/shards/000003.tar, byte {len(finished['shards/000003.tar']) - 512}: {url}"
    )
    assert lines[2].startswith(f"{url}/text_banks.h5 is damaged")
    main(["cache", "repair", *words(world, url)])
    assert "3 problems found and repaired" in capsys.readouterr().out
    assert tree(url) == finished


def put(url: str, content: bytes) -> None:
    S3FileSystem().pipe_file(url.removeprefix("s3://"), content)


def test_plan_counts_what_is_in_the_bucket_and_writes_nothing(
    world: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{bucket}/cache"
    main(["cache", "plan", *words(world, url)])
    output = capsys.readouterr().out
    assert "5 shards (0 of them done)" in output
    assert "free on the disk" not in output
    assert tree(url) == {}
    run(world, url, "--part", "1/5")
    capsys.readouterr()
    main(["cache", "plan", *words(world, url)])
    assert "5 shards (1 of them done)" in capsys.readouterr().out


def test_a_cache_of_something_else_and_a_folder_of_something_else_are_refused(
    world: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{bucket}/cache"
    put(f"{bucket}/photos/1.jpg", b"1")
    refused(world, f"{bucket}/photos")
    assert f"{bucket}/photos is no cache, and not empty either: it holds 1.jpg" in (
        capsys.readouterr().err
    )
    run(world, url)
    before = tree(url)
    refused(world, url, "--images_per_shard", "4")
    assert "plan.images_per_shard: found 3, wanted 4" in capsys.readouterr().err
    assert tree(url) == before


def test_gc_and_stats_look_into_the_bucket(
    world: Path, finished: dict[str, bytes], bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{bucket}/cache"
    run(world, url)
    put(f"{url}/shards/000009.tar", b"123")
    capsys.readouterr()
    main(["cache", "gc", "--delete", url])
    assert capsys.readouterr().out.splitlines() == [
        f"{url}/shards/000009.tar",
        f"{url}: 1 files, 3 B removed",
    ]
    assert tree(url) == finished
    main(["cache", "stats", "--json", url])
    stats = json.loads(capsys.readouterr().out)
    assert stats["cache_dir"] == url
    assert stats["num_images"] == 13
    assert stats["total_bytes"] == sum(map(len, finished.values()))


def refused(world: Path, url: str, *more: str) -> None:
    with pytest.raises(SystemExit) as exit_info:
        run(world, url, *more)
    assert exit_info.value.code == 2


def test_what_cannot_be_written_to_is_told(
    world: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(world, "s3://no-such-bucket-here/cache")
    assert "s3://no-such-bucket-here/cache: there is no such bucket" in capsys.readouterr().err
    refused(world, "tape://archive/cache")
    assert "tape:// is not a scheme that fsspec supports" in capsys.readouterr().err
    refused(world, "gs://bucket/cache")
    assert "pip install gcsfs" in capsys.readouterr().err
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    S3FileSystem.clear_instance_cache()
    refused(world, f"{bucket}/cache")
    assert "the server does not answer (EndpointConnectionError" in capsys.readouterr().err


def test_what_a_remote_cache_holds_is_taken_over(
    world: Path, finished: dict[str, bytes], bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(world, f"{bucket}/old")
    run(world, f"{bucket}/new", "--reuse", f"{bucket}/old")
    assert "reused: 13 feature maps, 13 position tokens" in capsys.readouterr().out
    new = tree(f"{bucket}/new")
    for name in finished:
        if name.endswith((".tar", ".h5")) and name != "index.h5":
            assert new[name] == finished[name]
    assert sorted(new) == sorted(finished)
