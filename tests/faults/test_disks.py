"""Disks that are full or read-only: told in one line, and gone on with once they are not.

They are real ones: a tmpfs of the size that the test wants, which only root may mount.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from helpers.files import tree
from helpers.worlds import cache_options, write_world
from regionspot.cli.main import main
from regionspot.training import SealedCheckpointIO

NUM_IMAGES = 6
ROOM = 64 << 20

Capture = pytest.CaptureFixture[str]


class Disk:
    """A tmpfs."""

    def __init__(self, path: Path, num_bytes: int) -> None:
        self.path = path
        path.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(path)],  # noqa: S607 - PATH
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")

    def change(self, options: str) -> None:
        words = ["mount", "-o", f"remount,{options}", str(self.path)]
        subprocess.run(words, check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.path)], check=True)  # noqa: S607 - PATH


MakeDisk = Callable[[int], Disk]


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[MakeDisk]:
    """Return a function that makes the one disk of a test, of so many bytes."""
    disks: list[Disk] = []

    def make(num_bytes: int) -> Disk:
        disks.append(Disk(tmp_path / "disk", num_bytes))
        return disks[-1]

    yield make
    for disk in disks:
        disk.unmount()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"), NUM_IMAGES)


def words(world: Path, cache: Path, *command: str) -> list[str]:
    return ["cache", *command, *cache_options(world / "own.csv", world, cache)]


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    cache = tmp_path_factory.mktemp("finished") / "cache"
    main(words(world, cache))
    return cache


def refused(words: list[str], capsys: Capture) -> str:
    """Run a command that has to exit with 2, and return the last thing that it says."""
    with pytest.raises(SystemExit) as exit_info:
        main(words)
    assert exit_info.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "name",
    [
        *("manifest.json", "text_banks.h5", "shards/000000.tar", "shards/000000.json"),
        *("shards/000001.tar", "index.h5"),
    ],
)
def test_a_full_disk_is_told_leaves_nothing_half_written_and_is_gone_on_with(
    name: str, world: Path, finished: Path, make_disk: MakeDisk, capsys: Capture
) -> None:
    files = sorted(tree(finished), key=lambda file: (finished / file).stat().st_mtime_ns)
    before = files[: files.index(name)]
    pages = sum(-(-(finished / file).stat().st_size // 4096) for file in before)
    # Room for all files before this one, and for no byte more. (A folder takes no page of a tmpfs.)
    disk = make_disk((pages + 1) * 4096)
    cache = disk.path / "cache"
    (disk.path / "other").write_bytes(b"x")
    assert refused(words(world, cache), capsys) == (
        f"error: cannot write to {cache}: No space left on device. Finished shards are safe: make"
        " room, or allow writing there, and run the same command again; or set another"
        " --output_dir."
    )
    whole = {file: data for file, data in tree(cache).items() if not file.endswith(".tmp")}
    assert whole == {file: tree(finished)[file] for file in before}
    disk.change(f"size={ROOM}")
    main(words(world, cache))
    assert tree(cache) == tree(finished)


def test_a_repair_without_room_is_gone_on_with(
    world: Path, finished: Path, make_disk: MakeDisk, capsys: Capture
) -> None:
    disk = make_disk(ROOM)
    cache = disk.path / "cache"
    main(words(world, cache))
    tar = cache / "shards" / "000000.tar"
    tar.write_bytes(tar.read_bytes()[:1000])
    used = disk_usage(disk)
    disk.change(f"size={used}")
    assert "No space left on device" in refused(words(world, cache, "repair"), capsys)
    disk.change(f"size={ROOM}")
    main(words(world, cache, "repair"))
    assert tree(cache) == tree(finished)


def disk_usage(disk: Disk) -> int:
    state = os.statvfs(disk.path)
    return (state.f_blocks - state.f_bfree) * state.f_frsize


def test_a_read_only_disk_is_told_and_gone_on_with(
    world: Path, finished: Path, make_disk: MakeDisk, capsys: Capture
) -> None:
    disk = make_disk(ROOM)
    cache = disk.path / "cache"
    disk.change("ro")
    told = "Read-only file system. Finished shards are safe: make room, or allow writing there"
    assert told in refused(words(world, cache), capsys)
    disk.change("rw")
    main(words(world, cache))
    before = tree(cache)
    (cache / "shards" / "000001.json").unlink()
    disk.change("ro")
    assert told in refused(words(world, cache), capsys)
    assert told in refused(words(world, cache, "repair"), capsys)
    main(["cache", "stats", str(finished)])  # who only reads is not concerned
    disk.change("rw")
    main(words(world, cache))
    assert tree(cache) == before == tree(finished)


@pytest.mark.parametrize("command", ["toy", "fit"])
def test_other_commands_tell_a_full_disk_as_well(
    command: str, finished: Path, make_disk: MakeDisk, capsys: Capture
) -> None:
    disk = make_disk(8192)
    typed = {
        "toy": ["toy", "--output_dir", str(disk.path / "world"), "--num_val", "4"],
        "fit": [
            *("fit", "--data.train", f"[{finished}]", "--data.val", "null"),
            *("--data.templates", "none", "--trainer.max_steps", "2"),
            *("--trainer.accelerator", "cpu", "--trainer.default_root_dir", str(disk.path)),
        ],
    }
    told = refused(typed[command], capsys)
    assert told.startswith("error: ")
    assert "No space left on device. Make room, or give another path" in told


def test_a_checkpoint_without_room_leaves_the_former_one(make_disk: MakeDisk) -> None:
    disk = make_disk(3 << 20)
    path = disk.path / "last.ckpt"
    former, larger = torch.zeros(250_000), torch.zeros(600_000)  # 1 and 2.4 MB
    SealedCheckpointIO().save_checkpoint({"weights": former}, path)
    before = tree(disk.path)
    with pytest.raises(OSError, match="No space left on device"):
        SealedCheckpointIO().save_checkpoint({"weights": larger}, path)
    assert tree(disk.path) == before
