"""URLs and their places, refusals and outages, room on the disk, mirrors, renaming into place."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from regionspot.core.errors import ConfigError
from regionspot.core.files import file_lock, folder_lock
from regionspot.storage import (
    Mirror,
    RemoteFolder,
    StorageError,
    attempt,
    is_url,
    local_home,
    make_room,
    place_of,
)


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("s3://bucket/folder", True),
        ("https://host", True),
        ("file:///data", True),
        ("caches/a", False),
        ("/data/s3:/b", False),
        ("C:/data", False),
        ("s3://", False),
        (Path("caches"), False),
    ],
)
def test_urls_are_told_from_paths(location: str | Path, expected: bool) -> None:  # noqa: FBT001
    assert is_url(location) == expected


def test_copies_are_kept_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGIONSPOT_HOME", "/somewhere/else")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert local_home() == Path("/somewhere/else")
    monkeypatch.delenv("REGIONSPOT_HOME")
    assert local_home() == Path("/caches/regionspot")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert local_home() == Path("/home/me/.cache/regionspot")


def test_a_url_has_one_place_and_others_have_others() -> None:
    # The hash as `printf s3://bucket/a | sha256sum` prints it.
    assert place_of("s3://bucket/a/", "staging") == place_of("s3://bucket/a", "staging")
    assert place_of("s3://bucket/a", "staging").name == "77828262d48e29aa"
    assert place_of("s3://bucket/b", "staging") != place_of("s3://bucket/a", "staging")


def failing(errors: list[Exception]) -> tuple[list[int], Callable[[], str]]:
    calls: list[int] = []

    def action() -> str:
        calls.append(len(calls))
        if errors:
            raise errors.pop(0)
        return "done"

    return calls, action


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
        TimeoutError("slow"),
        OSError(errno.EBUSY, "SlowDown"),  # what s3fs makes of 503
        OSError(errno.EIO, "unknown"),
    ],
)
def test_an_outage_is_sat_out(error: Exception) -> None:
    calls, action = failing([error])
    assert attempt("s3://b/x", action) == "done"
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (PermissionError("AccessDenied"), StorageError),
        (OSError(errno.EINVAL, "InvalidBucketName"), StorageError),
        (FileNotFoundError("no such key"), FileNotFoundError),
        (OSError(errno.ENOSPC, "disk full"), OSError),
        (KeyError("a bug"), KeyError),
    ],
)
def test_what_will_not_change_is_not_tried_again(error: Exception, raised: type[Exception]) -> None:
    calls, action = failing([error])
    with pytest.raises(raised) as error_info:
        attempt("s3://b/x", action)
    assert type(error_info.value) is raised
    assert len(calls) == 1


def test_a_long_outage_ends_in_an_error_that_names_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGIONSPOT_RETRY_SECONDS", "0.3")
    _, action = failing([ConnectionRefusedError("refused")] * 9)
    with pytest.raises(StorageError, match=r"s3://b/x: the server does not answer .*for 0.3 s"):
        attempt("s3://b/x", action)
    monkeypatch.setenv("REGIONSPOT_RETRY_SECONDS", "soon")
    with pytest.raises(ConfigError, match="'soon'; wanted seconds"):
        attempt("s3://b/x", action)


def copy_of(home: Path, name: str, num_bytes: int, used: int) -> Path:
    path = home / "place" / "tars" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(num_bytes))
    os.utime(path, (used, used))
    return path


def lock_of(path: Path) -> AbstractContextManager[bool]:
    return file_lock(path.parent / f"{path.stem}.lock", wait=False)


def test_room_is_made_of_the_longest_unused_that_nobody_is_at(tmp_path: Path) -> None:
    in_use = copy_of(tmp_path, "a.tar", 40, used=1)
    old = copy_of(tmp_path, "b.tar", 30, used=2)
    crashed = copy_of(tmp_path, "b.fetched.tmp", 5, used=2)
    new = copy_of(tmp_path, "c.tar", 10, used=3)
    with file_lock(in_use.parent / "a.lock"):
        make_room(40, limit_bytes=100, home=tmp_path, patterns=["*/tars/*.tar"], lock_of=lock_of)
    assert [path.exists() for path in (in_use, old, crashed, new)] == [True, False, False, True]
    with pytest.raises(ConfigError, match="a shard takes 101 B"):
        make_room(101, limit_bytes=100, home=tmp_path, patterns=["*/tars/*.tar"], lock_of=lock_of)


@pytest.fixture
def remote(tmp_path: Path) -> RemoteFolder:
    return RemoteFolder((tmp_path / "server").as_uri())


def test_where_files_grow_under_their_names_they_are_renamed_into_place(
    remote: RemoteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"123")
    seen: list[str] = []
    moved = type(remote._files).mv

    def watching(self: object, source: str, target: str, **options: object) -> None:
        seen.extend(path.name for path in (tmp_path / "server" / "x").iterdir())
        moved(self, source, target, **options)

    monkeypatch.setattr(type(remote._files), "mv", watching)
    found = remote.put(tmp_path / "a", "x/a")
    assert seen == ["a.tmp"]
    assert found.num_bytes == 3
    assert {name: one.num_bytes for name, one in remote.listing().items()} == {"x/a": 3}
    assert remote.read("x/a") == b"123"
    remote.remove("x/a")
    remote.remove("x/a")
    assert remote.listing() == {}
    with pytest.raises(FileNotFoundError):
        remote.read("x/a")


def test_a_mirror_fetches_and_sends_only_what_changed(remote: RemoteFolder, tmp_path: Path) -> None:
    server, here = tmp_path / "server", tmp_path / "here"
    server.mkdir()
    mirror = Mirror(remote, here, tmp_path / "notes")
    (server / "a").write_bytes(b"1")
    mirror.pull(["a", "b"], remote.listing())
    assert (here / "a").read_bytes() == b"1"
    assert mirror.is_copy("a")
    times = (here / "a").stat().st_mtime_ns
    mirror.pull(["a"], remote.listing())
    assert (here / "a").stat().st_mtime_ns == times
    (here / "b").write_bytes(b"mine")  # never sent: it stays, whatever lies there
    mirror.pull(["a", "b"], remote.listing())
    assert (here / "b").read_bytes() == b"mine"
    assert not mirror.is_copy("b")
    mirror.push("b")
    assert (server / "b").read_bytes() == b"mine"
    (server / "a").write_bytes(b"two")
    mirror.pull(["a"], remote.listing())
    assert (here / "a").read_bytes() == b"two"
    (here / "a").unlink()
    mirror.withdraw_removed()
    assert not (server / "a").exists()
    (server / "b").unlink()
    mirror.pull(["b"], remote.listing())
    assert not (here / "b").exists()


HOLD = """
import sys, time
from pathlib import Path
from regionspot.core.files import folder_lock
with folder_lock(Path(sys.argv[1]), advice=""):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_folder_is_one_process_s_until_it_ends_even_by_a_kill(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(ConfigError, match=rf"writing to {tmp_path}; .*Wait for it\."),
            folder_lock(tmp_path, advice="Wait for it."),
        ):
            pass
        process.kill()
    with folder_lock(tmp_path, advice=""):
        assert list(tmp_path.iterdir()) == []


def test_a_folder_is_shared_by_those_who_share_it(tmp_path: Path) -> None:
    with folder_lock(tmp_path, advice="", shared=True):
        with folder_lock(tmp_path, advice="", shared=True):
            pass
        with pytest.raises(ConfigError, match="writing to"), folder_lock(tmp_path, advice=""):
            pass
