"""Shards shared by several processes: whoever locks a shard first writes it."""

from collections.abc import Iterable, Iterator
from typing import Self

from regionspot.cache import ShardLock, try_lock_shard
from regionspot.extraction.destination import Destination
from regionspot.extraction.job import CacheJob
from regionspot.extraction.prepare import ShardJob
from regionspot.extraction.summary import WriteCounts
from regionspot.extraction.writing import ShardsWriter


class ShardClaims:
    """Claims shards for this process, one at a time, inside of a ``with`` block.

    At the end of the block, claims on shards that were not written are released.
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
        """Yield the jobs whose shard no other process is writing or has finished."""
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
        """Publish a shard that was written, and release the claim on it."""
        self._destination.publish_shard(shard_index)
        self._locks.pop(shard_index).release(is_complete=True)


def write_claimed(job: CacheJob, shards: Iterable[int], *, done: Iterable[int]) -> WriteCounts:
    """Write those shards that no other process is writing or has finished.

    Args:
        job: What is cached. The caller holds `sharing_writer` of the cache.
        shards: Missing shards.
        done: Finished shards, whose unusable images count towards the limits.

    Returns:
        What was written.

    Raises:
        RegionSpotError: As for `ShardsWriter`.
    """
    with ShardClaims(job.destination) as claims:
        return ShardsWriter(job).write(
            claims.claimed(job.shard_jobs(shards)), done=done, after_shard=claims.done
        )
