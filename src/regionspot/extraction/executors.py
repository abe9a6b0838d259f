"""Who writes the missing shards of a cache. `run_job` is the same for all of them.

- `WholeExecutor`: this process, with the cache to itself.
- `PartExecutor`: this process and others beside it, each with its part of the shards.
- `RayExecutor`, in `ray_executor`: workers on the machines of a Ray cluster.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from typing import Generic, TypeVar

from typing_extensions import override

from regionspot.cache import exclusive_writer, one_at_a_time, remove_shard_locks, sharing_writer
from regionspot.extraction.claims import write_claimed
from regionspot.extraction.destination import check_cache_or_empty
from regionspot.extraction.job import CacheJob
from regionspot.extraction.parts import Part
from regionspot.extraction.summary import CacheSummary, PartSummary, WriteCounts
from regionspot.extraction.writing import ShardsWriter

SummaryT_co = TypeVar("SummaryT_co", bound=CacheSummary | PartSummary, covariant=True)


class Executor(ABC, Generic[SummaryT_co]):
    """Writes the missing shards of a begun cache, and finishes it.

    Unless a subclass says otherwise, other processes may write shards of the cache meanwhile.

    Args:
        job: What is cached.
    """

    def __init__(self, job: CacheJob) -> None:
        self.job = job

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep processes out of the cache that do not share its shards.

        Raises:
            ConfigError: Such a process is writing there.
            DiskError: The folder holds files, but no cache.
        """
        with sharing_writer(self.job.output_dir):
            check_cache_or_empty(self.job.output_dir)  # before `turn` makes a folder in it
            yield

    def turn(self) -> AbstractContextManager[None]:
        """Wait for other processes that do, while files of the whole cache are written."""
        return one_at_a_time(self.job.output_dir)

    @abstractmethod
    def write(self, missing: Sequence[int], *, done: Sequence[int]) -> WriteCounts:
        """Write missing shards.

        Args:
            missing: The shards that are not there yet.
            done: Those that are; their unusable images count towards the limits.

        Returns:
            What was written.
        """

    @abstractmethod
    def finish(self, counts: WriteCounts, seconds: float) -> SummaryT_co:
        """Write the index, unless other processes have shards left to write.

        Args:
            counts: What `write` returned.
            seconds: How long that took.

        Returns:
            What there is now.
        """


class WholeExecutor(Executor[CacheSummary]):
    """Writes all missing shards in this process, which has the cache to itself."""

    @override
    @contextmanager
    def lock(self) -> Iterator[None]:
        with exclusive_writer(self.job.output_dir):
            yield

    @override
    def turn(self) -> AbstractContextManager[None]:
        return nullcontext()

    @override
    def write(self, missing: Sequence[int], *, done: Sequence[int]) -> WriteCounts:
        destination = self.job.destination
        completed = {shard for shard in missing if destination.completed_meanwhile(shard)}
        return ShardsWriter(self.job).write(
            self.job.shard_jobs(shard for shard in missing if shard not in completed),
            done=[*done, *completed],
            after_shard=destination.publish_shard,
        )

    @override
    def finish(self, counts: WriteCounts, seconds: float) -> CacheSummary:
        return finish_cache(self.job, counts, seconds)


class PartExecutor(Executor[CacheSummary | PartSummary]):
    """Writes the missing shards of a part; the part that ends last finishes the cache.

    Args:
        job: What is cached.
        part: Which shards this process writes.
    """

    def __init__(self, job: CacheJob, part: Part) -> None:
        super().__init__(job)
        self._part = part

    @override
    def write(self, missing: Sequence[int], *, done: Sequence[int]) -> WriteCounts:
        return write_claimed(self.job, filter(self._part.has, missing), done=done)

    @override
    def finish(self, counts: WriteCounts, seconds: float) -> CacheSummary | PartSummary:
        self.job.destination.refresh()
        done, missing = self.job.done_and_missing()
        if not missing:
            return finish_cache(self.job, counts, seconds)
        return PartSummary(
            part=str(self._part),
            num_shards=len(done) + len(missing),
            num_shards_done=len(done),
            num_own_missing=sum(map(self._part.has, missing)),
            seconds=seconds,
            **asdict(counts),
        )


def finish_cache(job: CacheJob, counts: WriteCounts, seconds: float) -> CacheSummary:
    """Write the index of a cache that has all its shards, and summarize it.

    Args:
        job: What is cached.
        counts: What this run has written.
        seconds: How long that took.
    """
    remove_shard_locks(job.output_dir)
    index = job.destination.finish()
    return CacheSummary(
        location=job.destination.location,
        annotations=job.annotated.report,
        name_notes=job.name_notes,
        num_images=len(index),
        num_regions=int(index.num_regions.sum()),
        num_clipped_regions=index.num_clipped_regions,
        num_dropped_regions=index.num_dropped_regions,
        num_quarantined=index.num_quarantined,
        num_shards=index.num_shards,
        num_bytes=job.destination.num_bytes(),
        seconds=seconds,
        **asdict(counts),
    )
