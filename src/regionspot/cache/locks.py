"""Locks of writers: one process alone writes a cache, or several share its shards.

Locks are ``flock``, released when their process ends, however it ends. Folders are locked where
possible; a lock file is needed only for a single shard, and is removed once the shard is complete.
On a file system without locks a warning is logged, and writers are not protected.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from regionspot.cache.layout import shard_path, shards_path
from regionspot.core.files import folder_lock, try_flock

_ADVICE = "Wait for it, give all of them a --part, or give another output_dir."


def exclusive_writer(cache_dir: Path) -> AbstractContextManager[None]:
    """Lock a cache against all other writers; its folder is created if necessary."""
    return folder_lock(cache_dir, advice=_ADVICE)


def sharing_writer(cache_dir: Path) -> AbstractContextManager[None]:
    """Lock a cache against all but other sharing writers; its folder is created if necessary.

    Sharing writers lock single shards by `try_lock_shard`, and common files by `one_at_a_time`.
    """
    return folder_lock(cache_dir, advice=_ADVICE, shared=True)


@contextmanager
def one_at_a_time(cache_dir: Path) -> Iterator[None]:
    """Run a block that only one of the sharing writers may run at a time; wait for the others."""
    folder = shards_path(cache_dir)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try_flock(descriptor, fcntl.LOCK_EX, folder)
        yield
    finally:
        os.close(descriptor)


class ShardLock:
    """The lock of one shard, held until it is released or the process ends."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor

    def release(self, *, is_complete: bool) -> None:
        """Release the lock; if the shard is complete, also remove the lock file."""
        if is_complete:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def try_lock_shard(cache_dir: Path, shard_index: int) -> ShardLock | None:
    """Lock a shard for writing; None if another process holds the lock.

    The shard may have been completed before the lock was acquired.
    """
    path = shard_path(cache_dir, shard_index).with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try_flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, path)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return ShardLock(path, descriptor)


def remove_shard_locks(cache_dir: Path) -> None:
    """Remove the lock files of killed processes, once all shards are complete.

    A lock that is still held is about to be released: a complete shard is not written again.
    """
    for path in shards_path(cache_dir).glob("[0-9]*.lock"):
        path.unlink(missing_ok=True)
