"""Who may write into a cache: one process alone, or several that share its shards.

Locks are ``flock``: they end with their process, however it ends. Folders are locked where it can
be; a file is only needed for a single shard, and goes with the shard's completion. On a file system
that cannot lock, a warning is logged and writers are unprotected.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from regionspot.cache.layout import shard_lock_path, shards_path
from regionspot.storage import folder_lock, try_flock

_ADVICE = "Wait for it, give all of them a --part, or give another output_dir."


@contextmanager
def exclusive_writer(cache_dir: Path) -> Iterator[None]:
    """Keep all other writers out of a cache while the block runs.

    Args:
        cache_dir: The cache's folder; it is created if need be.

    Raises:
        ConfigError: Another process is writing there.
    """
    with folder_lock(cache_dir, advice=_ADVICE):
        yield


@contextmanager
def sharing_writer(cache_dir: Path) -> Iterator[None]:
    """Let only other sharing writers into a cache while the block runs.

    They agree on shards by `try_lock_shard`, and take turns at what all share by `one_at_a_time`.

    Args:
        cache_dir: The cache's folder; it is created if need be.

    Raises:
        ConfigError: A process is writing there that does not share.
    """
    with folder_lock(cache_dir, advice=_ADVICE, shared=True):
        yield


@contextmanager
def one_at_a_time(cache_dir: Path) -> Iterator[None]:
    """Wait until no other sharing writer is in such a block, then run it."""
    folder = shards_path(cache_dir)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try_flock(descriptor, fcntl.LOCK_EX, folder)
        yield
    finally:
        os.close(descriptor)


class ShardLock:
    """The right to write one shard, until it is given back or the process ends."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor

    def release(self, *, is_complete: bool) -> None:
        """Give the right back.

        Args:
            is_complete: Whether the shard is complete: then nobody needs the lock's file again.
        """
        if is_complete:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def try_lock_shard(cache_dir: Path, shard_index: int) -> ShardLock | None:
    """Take the right to write a shard; None if another process has it.

    Who gets it has to look whether the shard was completed meanwhile.
    """
    path = shard_lock_path(cache_dir, shard_index)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try_flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, path)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return ShardLock(path, descriptor)


def remove_shard_locks(cache_dir: Path) -> None:
    """Remove the locks' files that killed processes left, once all shards are complete.

    Whoever still holds one is about to give it back: a complete shard is not written again.
    """
    for path in shards_path(cache_dir).glob("[0-9]*.lock"):
        path.unlink(missing_ok=True)
