"""Shards that several processes share: each is written by whoever gets its lock first."""

from collections.abc import Iterable, Iterator
from typing import Self

from regionspot.cache import ShardLock, try_lock_shard
from regionspot.extraction.destination import Destination
from regionspot.extraction.prepare import ShardJob


class ShardClaims:
    """The shards that this process may write, claimed one after the other.

    At the end of the block those that were not written are given back.
    """

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._locks: dict[int, ShardLock] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._locks:
            self._locks.popitem()[1].release(is_complete=False)

    def claimed(self, jobs: Iterable[ShardJob]) -> Iterator[ShardJob]:
        """Yield the jobs that nobody else is at or has done meanwhile."""
        for job in jobs:
            lock = try_lock_shard(self._destination.folder, job.shard_index)
            if lock is None:
                continue
            if self._destination.completed_meanwhile(job.shard_index):
                lock.release(is_complete=True)
                continue
            self._locks[job.shard_index] = lock
            yield job

    def done(self, shard_index: int) -> None:
        """Publish a shard that was written, and give it back."""
        self._destination.publish_shard(shard_index)
        self._locks.pop(shard_index).release(is_complete=True)
