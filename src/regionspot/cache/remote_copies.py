"""Tars of remote caches that are kept on this machine while they are read again and again."""

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from typing_extensions import override

from regionspot.cache.layout import REPAIR_COMMAND
from regionspot.cache.remote_files import RemoteFiles, sidecar_name, tar_name
from regionspot.cache.sidecar import ShardSidecar, read_sealed_sidecar
from regionspot.core.errors import CacheCorruptError
from regionspot.core.files import sha256_file
from regionspot.storage import file_lock, local_home, make_room, place_of

_PURPOSE = "shards"
_NAME = f"{'[0-9a-f]' * 16}/tars/*-{'[0-9a-f]' * 16}"
_PATTERNS = (f"{_NAME}.tar", f"{_NAME}.reserved")


class KeptRemoteFiles(RemoteFiles):
    """The files of a cache behind a URL, its tars kept here up to a limit.

    Each is fetched whole when it is first asked for, and compared with the size and the SHA-256 in
    its sidecar. Those of all remote caches share the limit; the longest unused go first. Processes
    of a machine share the copies.

    Args:
        url: The cache's URL.
        limit_bytes: What all kept tars may take.
    """

    def __init__(self, url: str, limit_bytes: int) -> None:
        self._place = place_of(url, _PURPOSE)
        super().__init__(url, self._place)
        self._limit_bytes = limit_bytes
        self.pull(sidecars=False)

    @override
    def pull(self, *, sidecars: bool) -> None:
        with file_lock(self._place / "lock"):
            super().pull(sidecars=sidecars)

    @override
    @contextmanager
    def tar(self, shard: int, sidecar_sha256: str = "") -> Iterator[Path]:
        path = self._copy(shard, sidecar_sha256)
        with file_lock(_lock_path(path)):
            if not self._is_whole(path, shard):
                self._fetch(shard, sidecar_sha256, path)
            now_ns = time.time_ns()  # the file system's own clock ticks in milliseconds
            os.utime(path, ns=(now_ns, now_ns))
            yield path

    @override
    def drop_copy(self, shard: int, sidecar_sha256: str) -> bool:
        path = self._copy(shard, sidecar_sha256)
        with file_lock(_lock_path(path)):
            path.unlink(missing_ok=True)
        return True

    def _copy(self, shard: int, sidecar_sha256: str) -> Path:
        # The seal in the name: the tar of another cache under the same URL is another file.
        return self._place / "tars" / f"{shard:06d}-{sidecar_sha256[:16]}.tar"

    def _is_whole(self, path: Path, shard: int) -> bool:
        """Compare sizes only: a copy got its name when it was known to be right."""
        return path.is_file() and self.tar_bytes(shard) in {None, -1, path.stat().st_size}

    def _fetch(self, shard: int, sidecar_sha256: str, path: Path) -> None:
        sidecar = self._sidecar(shard, sidecar_sha256)
        url = self.remote.url_of(tar_name(shard))
        reserved = path.with_suffix(".reserved")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        home = local_home() / _PURPOSE
        with file_lock(home / "room.lock"):
            make_room(
                sidecar.tar_bytes,
                limit_bytes=self._limit_bytes,
                home=home,
                patterns=_PATTERNS,
                lock_of=_try_lock,
            )
            with reserved.open("wb") as file:  # a hole of that size, which others count
                file.truncate(sidecar.tar_bytes)
        try:
            fetched = path.with_suffix(".fetched")
            self._fetch_and_check(sidecar, url, fetched)
            fetched.replace(path)
        finally:
            reserved.unlink(missing_ok=True)

    def _fetch_and_check(self, sidecar: ShardSidecar, url: str, path: Path) -> None:
        try:
            self.remote.fetch(tar_name(sidecar.shard), path)
        except FileNotFoundError as error:
            raise _damaged(url, "is missing, though its shard was finished") from error
        try:
            found = path.stat().st_size
            if found != sidecar.tar_bytes:
                raise _damaged(url, f"has {found} bytes; wanted {sidecar.tar_bytes}")
            if (sha256 := sha256_file(path)) != sidecar.tar_sha256:
                raise _damaged(url, f"has the sha256 {sha256}; wanted {sidecar.tar_sha256}")
        except CacheCorruptError:
            path.unlink()
            raise

    def _sidecar(self, shard: int, sha256: str) -> ShardSidecar:
        name = sidecar_name(shard)
        url = self.remote.url_of(name)
        try:
            self.remote.fetch(name, self.folder / name)
        except FileNotFoundError as error:
            raise _damaged(url, "is missing, though its shard was finished") from error
        sidecar, seal = read_sealed_sidecar(self.folder, shard)
        if seal != sha256:
            raise _damaged(url, "is not the one that the index names: the cache was changed")
        return sidecar


def _lock_path(path: Path) -> Path:
    return path.parent.with_name("locks") / f"{path.stem}.lock"


def _try_lock(path: Path) -> AbstractContextManager[bool]:
    return file_lock(_lock_path(path), wait=False)


def _damaged(url: str, what: str) -> CacheCorruptError:
    return CacheCorruptError(
        f"{url} {what}. List all damage with `regionspot cache verify`, and make it again:"
        f" {REPAIR_COMMAND}"
    )
