"""Writing shards: prepared images go through the models and into tars.

The models run in the main thread. Shards are written in a second one, so that hashing and fsync
never delay the models. The queue between the two is short: memory is bounded, and a slow disk
slows the models down.
"""

import logging
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import NoReturn, Self

import torch
from tqdm import tqdm

from regionspot.backbones.decode_images import UPRIGHT
from regionspot.cache import CachedSample, QuarantinedImage, write_shard
from regionspot.core.stopping import check_stop, safe_points
from regionspot.extraction.featurize import LaunchedBatch, launch
from regionspot.extraction.job import CacheJob
from regionspot.extraction.prepare import (
    PreparedBatch,
    PreparedImage,
    ShardJob,
    prepared_batches,
)
from regionspot.extraction.probes import check_same_images
from regionspot.extraction.quarantine import QuarantineGuard, quarantined_in
from regionspot.extraction.summary import WriteCounts

_WAITING = 2
"""Batches that wait for the writer at most; one more is being written."""
_POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardBatch:
    """Consecutive images of one shard, on their way to the writer."""

    shard_index: int
    """The shard."""
    num_images: int
    """Images of the plan in it, usable or not."""
    launched: LaunchedBatch | None
    """Those that could be used; None if there are none."""
    quarantined: Sequence[QuarantinedImage]
    """Those that could not."""
    ends_shard: bool
    """Whether it is the last of its shard."""


WriteShard = Callable[[int, Iterator[ShardBatch]], None]
"""Writes the shard of a number from its batches."""


class WriterThread:
    """A thread that writes shards, inside of a ``with`` block.

    However the block ends, the thread ends with it. When it ends well, all that was put is written.
    So it is when it ends by an error, but for a shard that is not complete, which is left as a
    crash would leave it. When a signal ends it, what waits is not written any more.

    An error of the writer is raised by the next `put`, or at the end of the block.

    Args:
        write: Writes a shard; called in the thread, for one shard after the other.
    """

    def __init__(self, write: WriteShard) -> None:
        self._write = write
        self._waiting: queue.Queue[ShardBatch | None] = queue.Queue(maxsize=_WAITING)
        self._error: BaseException | None = None
        self._ended = threading.Event()  # on either side: nothing is put or taken any more
        # A daemon: a second Ctrl-C ends the process, though Python alone would wait for the thread.
        self._thread = threading.Thread(target=self._run, name="regionspot-writer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def put(self, batch: ShardBatch) -> None:
        """Hand a batch over, once there is room for it; batches of a shard follow each other.

        Raises:
            StoppedError: A signal was noted.
            BaseException: Whatever the writer stumbled over.
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
                self._waiting.put(message, timeout=_POLL_S)
            except queue.Full:
                check_stop()
                continue
            return

    def _run(self) -> None:
        try:
            while (first := self._next()) is not None:
                self._write(first.shard_index, self._of_shard(first))
        except _IncompleteShardError:
            pass  # the main thread knows why
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            self._error = error
        finally:
            self._ended.set()

    def _of_shard(self, batch: ShardBatch) -> Iterator[ShardBatch]:
        yield batch
        while not batch.ends_shard:
            following = self._next()
            if following is None:
                raise _IncompleteShardError
            batch = following
            yield batch

    def _next(self) -> ShardBatch | None:
        while not self._ended.is_set():
            try:
                return self._waiting.get(timeout=_POLL_S)
            except queue.Empty:
                continue
        return None


class _IncompleteShardError(Exception):
    """The main thread ended amid a shard."""


_logger = logging.getLogger(__name__)


class ShardsWriter:
    """Writes the missing shards of a plan."""

    def __init__(self, job: CacheJob) -> None:
        self._job = job
        self._config = job.config
        self._plan = job.manifest.plan
        self._compared: set[int] = set()  # shards of which an image was compared with the old cache
        self._counts = WriteCounts()

    def write(
        self,
        shard_jobs: Iterable[ShardJob],
        *,
        done: Iterable[int],
        after_shard: Callable[[int], None] = lambda _: None,
    ) -> WriteCounts:
        """Write shards, in order: decoding, models and writing each have their threads.

        Args:
            shard_jobs: The shards; taken from the iterable shortly before they are written.
            done: Finished shards, whose unusable images count towards the limits.
            after_shard: Called with the number of each shard that was written, in the writer's
                thread.

        Returns:
            What was written.

        Raises:
            TooManyQuarantinedError: More images are unusable than ``max_quarantined_share``, or
                ``max_quarantined_in_a_row`` follow each other.
            WeightsError: The models give numbers that are not finite.
            CacheMismatchError: The cache to reuse is of other images.
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
                bar.update(batch.num_images)
        return self._counts + WriteCounts(num_new_images=sum(written))

    def _launched(self, batches: Iterable[PreparedBatch]) -> Generator[ShardBatch]:
        models = self._job.models
        return models.map_batches(
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
        return ShardBatch(
            num_images=len(batch.is_usable),
            shard_index=batch.shard_index,
            launched=launched,
            quarantined=batch.quarantined,
            ends_shard=batch.ends_shard,
        )

    def _num_ignored_orientations(self, images: Iterable[PreparedImage]) -> int:
        ignored = [image for image in images if image.ignored_orientation != UPRIGHT]
        if ignored and not self._counts.num_ignored_orientations:
            _logger.warning(
                "%s carries an EXIF orientation (%d), which is ignored: boxes have to be those"
                " of the pixels as stored, not of the photo as viewers show it. If they are of"
                " the latter, give --exif_policy apply. The last lines count such images.",
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
        # A log file has no bar.
        level = logging.INFO if bar.disable else logging.DEBUG
        _logger.log(
            level,
            "shard %d of %d: %d images, %d left out",
            shard_index + 1,
            self._plan.num_shards,
            sidecar.num_images,
            len(quarantined),
        )
        return sidecar.num_images + len(quarantined)


def _samples(
    batches: Iterable[ShardBatch], quarantined: list[QuarantinedImage]
) -> Iterator[CachedSample]:
    for batch in batches:
        quarantined += batch.quarantined
        if batch.launched is not None:
            yield from batch.launched.wait()
