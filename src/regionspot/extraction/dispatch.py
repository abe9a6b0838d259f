"""Hands the shards of a cache to workers that may die at any moment, until all shards are there.

The disk tells what is done, not the workers: a shard counts when its sidecar is seen, whoever wrote
it. A worker that was given up for dead but still writes holds the shard's lock, so that its
replacement waits for it or for its end.
"""

import logging
from collections import Counter, deque
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import NoReturn

from tqdm import tqdm

from regionspot.cache import QuarantinedImage, read_sidecar
from regionspot.core.stopping import check_stop, safe_points
from regionspot.extraction.cluster import Worker, WorkerSource, result_of
from regionspot.extraction.cluster_worker import WorkerAnswer
from regionspot.extraction.errors import ClusterError, WorkerLostError
from regionspot.extraction.job import CacheJob
from regionspot.extraction.unusable import UnusableImages

_logger = logging.getLogger(__name__)

MAX_LOSSES = 3
"""Workers that a shard may cost; and workers in a row that a place may lose without a shard."""
_POLL_S = 0.2


@dataclass(slots=True, kw_only=True)
class _Place:
    """One of the workers that there are to be at a time, and its successors."""

    number: int
    worker: Worker
    num_losses_in_a_row: int = 0


class ShardDispatcher:
    """Lets workers write the missing shards of a cache that was begun.

    Args:
        job: What is cached.
        source: What starts workers.
    """

    def __init__(self, job: CacheJob, source: WorkerSource) -> None:
        self._job, self._source = job, source
        self._plan = job.manifest.plan
        self.num_reused_maps = 0
        """Feature maps that were taken over from another cache."""
        self.num_reused_tokens = 0
        """Position tokens that were."""
        self.num_ignored_orientations = 0
        """Images with an EXIF orientation that was ignored."""
        self._todo: deque[int] = deque()
        self._losses: Counter[int] = Counter()
        self._places: list[_Place] = []
        self._idle: list[_Place] = []
        # None in place of a shard: the worker loads its models.
        self._running: dict[Future[WorkerAnswer], tuple[_Place, int | None]] = {}

    def write(self, todo: Iterable[int], *, done: Iterable[int]) -> int:
        """Let shards be written.

        Args:
            todo: The missing shards.
            done: Finished shards, whose unusable images count.

        Returns:
            How many images the shards have that were missing, unusable ones included.

        Raises:
            TooManyQuarantinedError: More images are unusable than ``max_quarantined_share``.
            ClusterError: A shard costs `MAX_LOSSES` workers, or no worker lives long enough.
            RegionSpotError: What a worker raised on purpose.
        """
        self._todo.extend(todo)
        total, num_done = self._plan.num_images, 0
        already: list[QuarantinedImage] = []
        for shard in done:
            already += read_sidecar(self._job.output_dir, shard).quarantined
            num_done += len(self._plan.images_of(shard))
        self._unusable = UnusableImages(self._job.config, total, already)
        with (
            safe_points(),
            tqdm(total=total, initial=num_done, unit=" images", disable=None) as bar,
        ):
            self._start_workers()
            while self._todo or any(shard is not None for _, shard in self._running.values()):
                while self._todo and self._idle:
                    place, shard = self._idle.pop(), self._todo.popleft()
                    self._running[place.worker.write(shard)] = place, shard
                finished, _ = wait(self._running, _POLL_S, return_when=FIRST_COMPLETED)
                check_stop()
                for future in finished:
                    self._take_back(future, bar)
        return total - num_done

    def _start_workers(self) -> None:
        shape, num = self._source.shape, min(self._source.shape.num_workers, len(self._todo))
        if num:
            _logger.info(
                "asking Ray for %d workers of %d CPUs, %g GPUs", num, shape.cpus, shape.gpus
            )
        for number in range(num):
            place = _Place(number=number + 1, worker=self._source.start())
            self._places.append(place)
            self._running[place.worker.prepare()] = place, None

    def _take_back(self, future: "Future[WorkerAnswer]", bar: "tqdm[NoReturn]") -> None:
        place, shard = self._running.pop(future)
        try:
            answer = result_of(future)
        except WorkerLostError as error:
            self._replace(place, shard, error)
            return
        self._idle.append(place)
        if shard is None:
            _logger.info("worker %d is ready: %s", place.number, answer.where)
        elif self._job.destination.is_done(shard):
            place.num_losses_in_a_row = 0
            self._count(shard, answer, bar)
        else:
            _logger.info("shard %d: another process is at it, or the disk is late", shard + 1)
            self._todo.append(shard)

    def _count(self, shard: int, answer: WorkerAnswer, bar: "tqdm[NoReturn]") -> None:
        self.num_reused_maps += answer.num_reused_maps
        self.num_reused_tokens += answer.num_reused_tokens
        self.num_ignored_orientations += answer.num_ignored_orientations
        sidecar = read_sidecar(self._job.output_dir, shard)
        self._unusable.add(sidecar.quarantined)
        bar.update(len(self._plan.images_of(shard)))
        # A log file has no bar.
        level = logging.INFO if bar.disable else logging.DEBUG
        num_shards, num_left_out = self._plan.num_shards, len(sidecar.quarantined)
        text = "shard %d of %d: %d images, %d left out (%s)"
        _logger.log(
            level, text, shard + 1, num_shards, sidecar.num_images, num_left_out, answer.where
        )

    def _replace(self, place: _Place, shard: int | None, error: WorkerLostError) -> None:
        """Start another worker; its shard comes again when all others were given out."""
        at = "loading its models" if shard is None else f"at shard {shard + 1}"
        _logger.warning("worker %d was lost %s: %s", place.number, at, error)
        place.worker.kill()
        place.num_losses_in_a_row += 1
        if shard is not None:
            self._losses[shard] += 1
            if self._losses[shard] == MAX_LOSSES:
                raise ClusterError(
                    f"shard {shard + 1} of {self._plan.num_shards} cost {MAX_LOSSES} workers their"
                    f" life, the last one so: {error}\nFinished shards are safe. To see it closer,"
                    " give the same command without --executor ray, which writes what is missing in"
                    " this process."
                )
            self._todo.append(shard)
        if place.num_losses_in_a_row < MAX_LOSSES:
            place.worker = self._source.start()
            self._running[place.worker.prepare()] = place, None
            return
        self._places.remove(place)
        if not self._places:
            raise ClusterError(
                f"every worker was lost {MAX_LOSSES} times in a row, the last one so: {error}\n"
                "Finished shards are safe: look at the machines (`ray status`, and Ray's logs in"
                " /tmp/ray/session_latest/logs), then give the same command again."
            )
        _logger.warning("worker %d is not replaced any more: lost too often", place.number)
