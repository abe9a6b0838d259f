"""The files of a cache behind a URL.

`RemoteFiles` copies the small files to this machine and downloads a tar for one use.
`KeptRemoteFiles` also keeps the tars, up to a limit, as training reads them again and again.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path

from typing_extensions import override

from regionspot.cache.cache_files import CacheFiles
from regionspot.cache.layout import (
    EXTRAS,
    MANIFEST,
    REPAIR_ADVICE,
    SHARDS,
    shard_path,
    shards_path,
    sidecar_name,
    tar_name,
)
from regionspot.cache.manifest import read_manifest
from regionspot.cache.sidecar import ShardSidecar, read_sealed_sidecar
from regionspot.core.errors import CacheCorruptError, RegionSpotError
from regionspot.core.files import file_lock, sha256_file
from regionspot.storage import (
    Mirror,
    RemoteFolder,
    RemoteObject,
    is_url,
    local_home,
    make_room,
    place_of,
)


class RemoteFiles(CacheFiles):
    """The files of a cache behind a URL; each tar is downloaded for one use.

    Args:
        url: The cache's URL.
        place: Local folder for copies; the small files go to ``place/cache``.
    """

    def __init__(self, url: str, place: Path) -> None:
        super().__init__(place / "cache")
        self.remote = RemoteFolder(url)
        self.mirror = Mirror(self.remote, self.folder, place / "notes")

    @property
    @override
    def location(self) -> str:
        return self.remote.url

    @cached_property
    def listing(self) -> Mapping[str, RemoteObject]:
        """The remote files, as of the first access or the last `refresh`."""
        if self.remote.can_list:
            return self.remote.listing()
        found = self.remote.find_all([MANIFEST, *EXTRAS])
        self.mirror.pull([MANIFEST], found)
        try:
            shards = range(read_manifest(self.folder).plan.num_shards)
        except RegionSpotError:  # reported when the cache is opened
            return found
        names = [name(shard) for shard in shards for name in (tar_name, sidecar_name)]
        return {**found, **self.remote.find_all(names)}

    def refresh(self) -> None:
        """List the remote files again when `listing` is next used."""
        self.__dict__.pop("listing", None)

    @override
    def pull(self, *, sidecars: bool) -> None:
        names = {MANIFEST, *EXTRAS}
        if sidecars:
            copies = (path.name for path in shards_path(self.folder).glob("*.json"))
            names |= {
                f"{SHARDS}/{name}"
                for name in (*copies, *self.names_of_shards())
                if name.endswith(".json") and "/" not in name
            }
        self.mirror.pull(sorted(names), self.listing)

    @override
    def sizes(self) -> Mapping[str, int]:
        return {name: found.num_bytes for name, found in self.listing.items()}

    @override
    def remove(self, name: str) -> None:
        self.mirror.withdraw(name)

    @override
    def names_of_shards(self) -> frozenset[str]:
        folder = f"{SHARDS}/"
        return frozenset(
            name.removeprefix(folder) for name in self.listing if name.startswith(folder)
        )

    @override
    def tar_bytes(self, shard: int) -> int | None:
        found = self.listing.get(tar_name(shard))
        return None if found is None else found.num_bytes

    @override
    @contextmanager
    def tar(self, shard: int, sidecar_sha256: str = "") -> Iterator[Path]:
        path = shard_path(self.folder, shard)
        self.remote.fetch(tar_name(shard), path)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def opened_files(cache: str | Path) -> Iterator[CacheFiles]:
    """Open the files of a cache to read each once; nothing is kept of a remote cache.

    Errors inside the block that name a copy name the URL instead.

    Args:
        cache: A folder or a URL.
    """
    if not is_url(cache):
        yield CacheFiles(Path(cache))
        return
    with tempfile.TemporaryDirectory(prefix="regionspot-") as place:
        files = RemoteFiles(str(cache), Path(place))
        with named_by_url(files):
            files.pull(sidecars=True)
            yield files


@contextmanager
def named_by_url(files: CacheFiles) -> Iterator[None]:
    """Make errors inside the block name a remote file by its URL, not by its local copy."""
    try:
        yield
    except RegionSpotError as error:
        text = by_url(str(error), files)
        if text == str(error):
            raise
        raise type(error)(text) from error


def by_url(text: str, files: CacheFiles) -> str:
    """Replace the folder of copies in a text by the URL."""
    return text.replace(str(files.folder), files.location)


_PURPOSE = "shards"
_NAME = f"{'[0-9a-f]' * 16}/tars/*-{'[0-9a-f]' * 16}"
_PATTERNS = (f"{_NAME}.tar", f"{_NAME}.reserved")


class KeptRemoteFiles(RemoteFiles):
    """The files of a cache behind a URL, with the tars kept on this machine up to a limit.

    A tar is downloaded when first used, and compared with the size and SHA-256 in its sidecar. The
    tars of all remote caches share the limit; the least recently used are removed first. All
    processes of a machine share the copies.

    Args:
        url: The cache's URL.
        limit_bytes: Disk space for all kept tars.
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
            # A copy gets its name only after its hash was compared, so its size is enough here.
            if not path.is_file() or self.tar_bytes(shard) not in {None, -1, path.stat().st_size}:
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
        # The seal in the name tells tars of different caches under the same URL apart.
        return self._place / "tars" / f"{shard:06d}-{sidecar_sha256[:16]}.tar"

    def _fetch(self, shard: int, sidecar_sha256: str, path: Path) -> None:
        sidecar, name = self._fetch_sidecar(shard, sidecar_sha256), tar_name(shard)
        reserved, fetched = path.with_suffix(".reserved"), path.with_suffix(".fetched")
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
            with reserved.open("wb") as file:  # a hole of that size, which other processes count
                file.truncate(sidecar.tar_bytes)
        try:
            self._fetch_file(name, fetched)
            if (found := fetched.stat().st_size) != sidecar.tar_bytes:
                raise self._damaged(name, f"has {found} bytes; wanted {sidecar.tar_bytes}")
            if (sha256 := sha256_file(fetched)) != sidecar.tar_sha256:
                raise self._damaged(name, f"has the sha256 {sha256}; wanted {sidecar.tar_sha256}")
            fetched.replace(path)
        finally:
            fetched.unlink(missing_ok=True)
            reserved.unlink(missing_ok=True)

    def _fetch_sidecar(self, shard: int, sha256: str) -> ShardSidecar:
        name = sidecar_name(shard)
        self._fetch_file(name, self.folder / name)
        sidecar, seal = read_sealed_sidecar(self.folder, shard)
        if seal != sha256:
            raise self._damaged(name, "is not the one that the index names: the cache was changed")
        return sidecar

    def _fetch_file(self, name: str, path: Path) -> None:
        try:
            self.remote.fetch(name, path)
        except FileNotFoundError as error:
            raise self._damaged(name, "is missing, though its shard was finished") from error

    def _damaged(self, name: str, what: str) -> CacheCorruptError:
        return CacheCorruptError(f"{self.remote.url_of(name)} {what}. {REPAIR_ADVICE}")


def _lock_path(path: Path) -> Path:
    return path.parent.with_name("locks") / f"{path.stem}.lock"


def _try_lock(path: Path) -> AbstractContextManager[bool]:
    return file_lock(_lock_path(path), wait=False)
