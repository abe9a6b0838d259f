"""Writes shards: prepared images go through the models and into tars.

The models run in the main thread. Shards are written in a second one, so that hashing and fsync
never delay the models. The queue between the two is short: memory is bounded, and a slow disk
slows the models down.
"""

import logging
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn, Self

import torch
from tqdm import tqdm

from regionspot.backbones.decode_images import UPRIGHT
from regionspot.cache import (
    CachedSample,
    QuarantinedImage,
    ShardLock,
    ShardSidecar,
    try_lock_shard,
    write_shard,
)
from regionspot.core.stopping import check_stop, safe_points
from regionspot.extraction.featurize import LaunchedBatch, launch
from regionspot.extraction.job import CacheJob
from regionspot.extraction.prepare import PreparedBatch, PreparedImage, ShardJob, prepared_batches
from regionspot.extraction.probes import check_same_images
from regionspot.extraction.quarantine import QuarantineGuard, quarantined_in
from regionspot.extraction.summary import WriteCounts

_logger = logging.getLogger(__name__)

_NUM_QUEUED = 2
"""Maximum number of batches that wait for the writer; one more is being written."""
_POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardBatch:
    """Consecutive images of one shard, on their way to the writer."""

    prepared: PreparedBatch
    """The images."""
    launched: LaunchedBatch | None
    """The usable ones in the models; None if there are none."""


class WriterThread:
    """A thread that writes shards, inside of a ``with`` block.

    The thread ends with the block. If the block ends without error, everything that was put is
    written; if it ends with an error, all shards that are complete. If a signal ends it, queued
    batches are dropped. An incomplete shard is left as a crash would leave it.

    An error of the writer is raised by the next `put`, or at the end of the block.

    Args:
        write: Writes a shard, given its number and its batches. Called in the thread, for one shard
            at a time.
    """

    def __init__(self, write: Callable[[int, Iterator[ShardBatch]], None]) -> None:
        self._write = write
        self._queue: queue.Queue[ShardBatch | None] = queue.Queue(maxsize=_NUM_QUEUED)
        self._error: BaseException | None = None
        self._ended = threading.Event()  # set by either side: nothing is put or taken after that
        # A daemon: Python would wait for another thread, even after a second Ctrl-C.
        self._thread = threading.Thread(target=self._run, name="regionspot-writer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def put(self, batch: ShardBatch) -> None:
        """Queue a batch, once there is room for it; batches of a shard follow each other.

        Raises:
            StoppedError: A signal was noted.
            BaseException: An error of the writer.
        """
        self._put(batch)
        if self._error is not None:
            raise self._error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and not isinstance(error, Exception):
            self._ended.set()
        try:
            self._put(None)
            while self._thread.is_alive():
                self._thread.join(_POLL_S)
                if error is None:
                    check_stop()
        except BaseException:  # a signal while the rest is being written
            self._ended.set()
            self._thread.join()
            raise
        if self._error is not None and error is None:
            raise self._error

    def _put(self, message: ShardBatch | None) -> None:
        while not self._ended.is_set():
            try:
                self._queue.put(message, timeout=_POLL_S)
            except queue.Full:
                check_stop()
                continue
            return

    def _run(self) -> None:
        try:
            while (first := self._next()) is not None:
                self._write(first.prepared.shard_index, self._of_shard(first))
        except _IncompleteShardError:
            pass  # the main thread knows why
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            self._error = error
        finally:
            self._ended.set()

    def _of_shard(self, batch: ShardBatch) -> Iterator[ShardBatch]:
        yield batch
        while not batch.prepared.ends_shard:
            following = self._next()
            if following is None:
                raise _IncompleteShardError
            batch = following
            yield batch

    def _next(self) -> ShardBatch | None:
        while not self._ended.is_set():
            try:
                return self._queue.get(timeout=_POLL_S)
            except queue.Empty:
                continue
        return None


class _IncompleteShardError(Exception):
    """The main thread ended in the middle of a shard."""


class ShardsWriter:
    """Writes the missing shards of a plan."""

    def __init__(self, job: CacheJob) -> None:
        self._job = job
        self._config = job.config
        self._plan = job.manifest.plan
        self._compared: set[int] = set()  # shards with an image compared with the old cache
        self._counts = WriteCounts()

    def write(
        self,
        shard_jobs: Iterable[ShardJob],
        *,
        done: Iterable[int],
        after_shard: Callable[[int], None],
    ) -> WriteCounts:
        """Write shards, in order: decoding, models and writing each have their own threads.

        Args:
            shard_jobs: The shards; each is taken from the iterable shortly before it is written.
            done: Finished shards, whose unusable images count towards the limits.
            after_shard: Called with the number of each written shard, in the writer's thread.

        Raises:
            TooManyQuarantinedError: More images are unusable than the configuration allows.
            WeightsError: A model's output is not finite.
            CacheMismatchError: The cache to reuse holds other images.
        """
        done, written = list(done), list[int]()
        total = self._plan.num_images
        num_done = sum(len(self._plan.images_of(shard)) for shard in done)
        guard = QuarantineGuard(self._config, total, quarantined_in(self._job.output_dir, done))
        self._counts = WriteCounts()

        def write_one(shard_index: int, of_shard: Iterable[ShardBatch]) -> None:
            written.append(self._write_shard(shard_index, of_shard, bar))
            after_shard(shard_index)

        with (
            safe_points(),
            tqdm(total=total, initial=num_done, unit=" images", disable=None) as bar,
            prepared_batches(
                shard_jobs,
                self._job.preparation,
                batch_size=self._config.batch_size,
                num_threads=torch.get_num_threads(),  # before workers divide them
            ) as batches,
            closing(self._launched(guard.checked(batches))) as launched,
            WriterThread(write_one) as writer,
        ):
            for batch in launched:
                check_stop()
                writer.put(batch)
                bar.update(len(batch.prepared.is_usable))
        return self._counts + WriteCounts(num_new_images=sum(written))

    def _launched(self, batches: Iterable[PreparedBatch]) -> Generator[ShardBatch]:
        return self._job.models.map_batches(
            self._launch, map(self._counted, batches), num_batches=self._job.num_batches
        )

    def _counted(self, batch: PreparedBatch) -> PreparedBatch:
        job, images = self._job, batch.images
        num_ignored = self._num_ignored_orientations(images)
        if job.old_cache is not None and batch.shard_index not in self._compared:
            self._compared.add(batch.shard_index)
            check_same_images(job, job.old_cache, batch.shard_index)
        reused = [image.reused for image in images if image.reused is not None]
        self._counts += WriteCounts(
            num_reused_maps=len(reused),
            num_reused_tokens=sum(one.num_tokens for one in reused),
            num_ignored_orientations=num_ignored,
        )
        return batch

    def _launch(self, batch: PreparedBatch) -> ShardBatch:
        job, launched = self._job, None
        if batch.images:
            launched = launch(job.models, batch.images, job.locator, codec=job.config.codec)
        return ShardBatch(prepared=batch, launched=launched)

    def _num_ignored_orientations(self, images: Iterable[PreparedImage]) -> int:
        ignored = [image for image in images if image.ignored_orientation != UPRIGHT]
        if ignored and not self._counts.num_ignored_orientations:
            _logger.warning(
                "%s has an EXIF orientation (%d), which is ignored: boxes must refer to the pixels"
                " as stored, not to the photo as viewers show it. If they refer to the latter, give"
                " --exif_policy apply. The last lines count such images.",
                ignored[0].record.file_name,
                ignored[0].ignored_orientation,
            )
        return len(ignored)

    def _write_shard(
        self, shard_index: int, batches: Iterable[ShardBatch], bar: "tqdm[NoReturn]"
    ) -> int:
        quarantined: list[QuarantinedImage] = []
        sidecar = write_shard(
            self._job.output_dir, shard_index, _samples(batches, quarantined), quarantined
        )
        log_shard(shard_index, self._plan.num_shards, sidecar, bar)
        return sidecar.num_images + len(quarantined)


def _samples(
    batches: Iterable[ShardBatch], quarantined: list[QuarantinedImage]
) -> Iterator[CachedSample]:
    for batch in batches:
        quarantined += batch.prepared.quarantined
        if batch.launched is not None:
            yield from batch.launched.wait()


def log_shard(
    shard_index: int, num_shards: int, sidecar: ShardSidecar, bar: "tqdm[NoReturn]", by: str = ""
) -> None:
    """Log that a shard was written, at level INFO unless a progress bar shows it."""
    _logger.log(
        logging.INFO if bar.disable else logging.DEBUG,
        "shard %d of %d: %d images, %d left out%s",
        shard_index + 1,
        num_shards,
        sidecar.num_images,
        len(sidecar.quarantined),
        by and f" ({by})",
    )


def write_claimed(job: CacheJob, shards: Iterable[int], *, done: Iterable[int]) -> WriteCounts:
    """Write those shards that no other process is writing or has finished.

    Whoever locks a shard first writes it. The caller holds `sharing_writer` of the cache.

    Args:
        job: What is cached.
        shards: Missing shards.
        done: Finished shards, whose unusable images count towards the limits.
    """
    locks: dict[int, ShardLock] = {}

    def claimed() -> Iterator[ShardJob]:
        for shard_job in job.shard_jobs(shards):
            lock = try_lock_shard(job.output_dir, shard_job.shard_index)
            if lock is None:
                continue
            if job.destination.completed_meanwhile(shard_job.shard_index):
                lock.release(is_complete=True)
                continue
            locks[shard_job.shard_index] = lock
            yield shard_job

    def publish(shard: int) -> None:
        job.destination.publish_shard(shard)
        locks.pop(shard).release(is_complete=True)

    try:
        return ShardsWriter(job).write(claimed(), done=done, after_shard=publish)
    finally:
        for lock in locks.values():
            lock.release(is_complete=False)
