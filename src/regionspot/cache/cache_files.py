"""The files of a cache in a local folder, opened only if they are regular files.

A cache may come from a stranger. Reading a named pipe would block forever, opening a device could
do anything, and a link could have another file of this machine read or (at the next repair)
overwritten. Only the path of the cache's folder may contain links. For URLs, see `remote_files`.
"""

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from regionspot.cache.layout import shard_path, shards_path
from regionspot.core.errors import CacheCorruptError

_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: Path) -> BinaryIO:
    """Open a file of a cache for reading.

    Raises:
        FileNotFoundError: The file does not exist.
        CacheCorruptError: It is not a regular file; it is neither opened nor followed.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENXIO}:  # a link, a socket
            raise
        raise _irregular(path, os.lstat(path)) from None
    try:
        _check_regular(path, os.fstat(descriptor))
    except CacheCorruptError:
        os.close(descriptor)
        raise
    return cast("BinaryIO", os.fdopen(descriptor, "rb"))


def size_of_regular(path: Path) -> int | None:
    """Return the size of a file of a cache in bytes; None if it is missing."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    _check_regular(path, found)
    return found.st_size


def _check_regular(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise _irregular(path, found)


def _irregular(path: Path, found: os.stat_result) -> CacheCorruptError:
    kind = stat.S_IFMT(found.st_mode)
    advice = "Do not trust where the cache came from, or copy it again."
    if kind == stat.S_IFLNK:
        advice = (
            "Links to the folder of a cache are followed, links inside it are not. Copy the cache"
            " with the files that they point to, if you trust them: cp -rL <cache> <new cache>"
        )
    return CacheCorruptError(f"{path} is {_KINDS.get(kind, 'no file')}; wanted a file. {advice}")


class CacheFiles:
    """The files of a cache in a folder.

    Args:
        folder: The cache's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        """Folder of the small files."""

    @property
    def location(self) -> str:
        """Folder or URL by which the cache was opened."""
        return str(self.folder)

    def pull(self, *, sidecars: bool) -> None:
        """Update the local copies of small files, with or without all sidecars."""

    def sizes(self) -> Mapping[str, int]:
        """Return the size in bytes of each file of the cache, by its name below the cache."""
        return {
            path.relative_to(self.folder).as_posix(): path.stat().st_size if path.exists() else 0
            for path in self.folder.rglob("*")
            if not path.is_dir()
        }

    def remove(self, name: str) -> None:
        """Remove a file of the cache by its name below the cache."""
        (self.folder / name).unlink(missing_ok=True)

    def names_of_shards(self) -> frozenset[str]:
        """Return the file names of the existing tars and sidecars."""
        folder = shards_path(self.folder)
        return frozenset(path.name for path in folder.iterdir()) if folder.is_dir() else frozenset()

    def tar_bytes(self, shard: int) -> int | None:
        """Return the size of a tar; None if it is missing."""
        return size_of_regular(shard_path(self.folder, shard))

    @contextmanager
    def tar(self, shard: int, sidecar_sha256: str = "") -> Iterator[Path]:  # noqa: ARG002
        """Make the tar of a shard available on this machine while the block runs.

        Args:
            shard: Number of the shard.
            sidecar_sha256: Seal of the sidecar that a downloaded tar must match.
        """
        yield shard_path(self.folder, shard)

    def drop_copy(self, shard: int, sidecar_sha256: str) -> bool:  # noqa: ARG002
        """Remove the local copy of a tar; return whether copies are kept at all."""
        return False
