"""Writing the shards of a cache with workers on a running Ray cluster. Only this imports Ray.

Ray provides processes and nothing else: which worker writes which shard, and what is done about a
worker that died, is decided here. The disk tells what is done, not the workers: a shard counts once
its sidecar is seen, whoever wrote it. A worker that is taken for dead but still writes holds the
lock of its shard, so its replacement has to wait.
"""

import logging
import signal
import socket
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError
from tqdm import tqdm
from typing_extensions import override

from regionspot.annotations import AnnotatedImages
from regionspot.cache import read_sidecar
from regionspot.core.errors import ConfigError, RegionSpotError
from regionspot.core.stopping import check_stop, safe_points
from regionspot.extraction.config import CacheConfig, RayConfig
from regionspot.extraction.errors import ClusterError, WorkerLostError
from regionspot.extraction.executors import Executor, finish_cache
from regionspot.extraction.job import CacheJob
from regionspot.extraction.parts import AUTO
from regionspot.extraction.quarantine import QuarantineGuard, quarantined_in
from regionspot.extraction.ray_worker import ShardWorker, WorkerAnswer
from regionspot.extraction.summary import CacheSummary, WriteCounts

_logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 10.0

T = TypeVar("T")
Resources = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerShape:
    """How many workers to start, and what each gets."""

    num_workers: int
    """How many."""
    cpus: int
    """CPU cores of each, used by as many threads."""
    gpus: float
    """GPUs of each."""

    @classmethod
    def fitting(
        cls, options: RayConfig, machines: list[Resources], *, device: str
    ) -> "WorkerShape":
        """Fill in what the options leave open.

        Args:
            options: What was asked for.
            machines: What Ray says that each machine has, in use or not.
            device: Where the models are to run, as in ``--device``.

        Raises:
            ConfigError: No machine has room for a worker.
        """
        gpus = options.gpus_per_worker
        if gpus is None:
            has_gpus = any(machine.get("GPU", 0) >= 1 for machine in machines)
            gpus = float(has_gpus and device != "cpu")
        of_use = [machine for machine in machines if machine.get("CPU", 0) >= 1]
        of_use = [machine for machine in of_use if machine.get("GPU", 0) >= gpus]
        shares = [m["CPU"] * (gpus / m["GPU"] if gpus else 1) for m in of_use]
        cpus = options.cpus_per_worker or max(1, int(min(shares, default=1)))
        num_fitting = sum(_num_fitting(machine, cpus, gpus) for machine in of_use)
        if not num_fitting:
            have = "; ".join(
                f"{m.get('CPU', 0):g} CPUs, {m.get('GPU', 0):g} GPUs" for m in machines
            )
            raise ConfigError(
                f"a worker wants {cpus} CPUs and {gpus:g} GPUs, which no machine of the Ray cluster"
                f" has (they have {have}). Set --ray.cpus_per_worker and --ray.gpus_per_worker."
            )
        return cls(num_workers=options.num_workers or num_fitting, cpus=cpus, gpus=gpus)


def _num_fitting(machine: Resources, cpus: int, gpus: float) -> int:
    by_cpu = int(machine["CPU"] // cpus)
    return min(by_cpu, int(machine["GPU"] / gpus)) if gpus else by_cpu


class Worker:
    """A `ShardWorker` in a process on the cluster; it handles requests one after the other."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def prepare(self) -> "Future[WorkerAnswer]":
        """Ask it to load the models."""
        return self._actor.prepare.remote().future()

    def write(self, shard: int) -> "Future[WorkerAnswer]":
        """Ask it to write a shard."""
        return self._actor.write.remote(shard).future()

    def kill(self) -> None:
        """End the process, if it still runs."""
        ray.kill(self._actor)


class WorkerSource:
    """Starts workers for one job."""

    def __init__(self, config: CacheConfig, annotated: AnnotatedImages, shape: WorkerShape) -> None:
        self.shape = shape
        self._config = config
        # Ray keeps one copy per machine, which all workers there map.
        self._annotated = ray.put(annotated)
        # Without restarts by Ray: `_Dispatch` replaces dead workers itself.
        remote: Any = ray.remote(num_cpus=shape.cpus, num_gpus=shape.gpus, max_restarts=0)
        self._actor_class = remote(ShardWorker)
        self._workers: list[Worker] = []

    def start(self) -> Worker:
        """Ask for one more worker; its process starts as soon as there is room for it."""
        actor = self._actor_class.remote(
            self._config, self._annotated, folder=Path.cwd(), num_threads=self.shape.cpus
        )
        worker = Worker(actor)
        self._workers.append(worker)
        return worker

    def kill_all(self) -> None:
        """End all processes that still run."""
        for worker in self._workers:
            worker.kill()


def result_of(future: "Future[T]") -> T:
    """Return a worker's answer.

    Raises:
        RegionSpotError: What the worker raised on purpose.
        WorkerLostError: Its process or its machine died, or it failed in an unforeseen way.
    """
    try:
        return future.result()
    except RayTaskError as error:
        if isinstance(error.cause, RegionSpotError):
            _logger.error("stopped by %s", "; ".join(error.cause.__notes__))  # noqa: TRY400 - no bug
            raise error.cause from None
        raise WorkerLostError(str(error)) from error
    except RayError as error:
        raise WorkerLostError(str(error)) from error


@contextmanager
def worker_source(
    config: CacheConfig, annotated: AnnotatedImages, shape: WorkerShape
) -> Iterator[WorkerSource]:
    """Start workers; those that still run are killed after the block.

    Args:
        config: What to cache, and where.
        annotated: The annotations that it names.
        shape: What each worker gets.
    """
    source = WorkerSource(config, annotated, shape)
    try:
        yield source
    finally:
        source.kill_all()


@contextmanager
def connected_cluster(options: RayConfig, *, device: str) -> Iterator[WorkerShape]:
    """Connect this process to a running Ray cluster, unless it is connected already.

    Args:
        options: Where the cluster is, and what a worker gets.
        device: Where the models are to run, as in ``--device``.

    Yields:
        How many workers to start there, and what each gets.

    Raises:
        ConfigError: There is no such cluster, or no room for a worker on it.
        ClusterError: Ray refuses the connection.
    """
    is_ours = not ray.is_initialized()
    if is_ours:
        _connect(options.address)
    try:
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        yield WorkerShape.fitting(options, machines, device=device)
    finally:
        if is_ours:
            ray.shutdown()


def _connect(address: str) -> None:
    in_main_thread = threading.current_thread() is threading.main_thread()
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        _check_answers(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, OSError) as error:
        raise ConfigError(
            f"no Ray cluster was found at --ray.address {address} ({error}). Start one, with"
            " `ray start --head` here and `ray start --address=<host:port>` on the other machines;"
            " or do without Ray: give each process its --part instead of --executor ray."
        ) from error
    except (RuntimeError, ValueError) as error:
        raise ClusterError(
            f"Ray at --ray.address {address} refuses the connection: {error}"
        ) from error
    if in_main_thread:
        # Ray replaces our handler, which ends the run cleanly.
        signal.signal(signal.SIGTERM, on_sigterm)


def _check_answers(address: str) -> None:
    """Ask for an answer first: Ray ends the whole process after a minute without one."""
    if address != AUTO:
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()


MAX_LOSSES = 3
"""How many workers may die at one shard, and how many in a row at one place without a shard."""
_POLL_S = 0.2


@dataclass(slots=True, kw_only=True)
class _Place:
    """One of the workers that run at the same time, and its replacements."""

    number: int
    worker: Worker
    num_losses_in_a_row: int = 0


class RayExecutor(Executor[CacheSummary]):
    """Has workers on a Ray cluster write all missing shards; passes on the errors they raise.

    Args:
        job: What is cached.
        config: What the workers are told to cache; it may name another device than the job's.
        shape: How many workers to start, and what each gets.
    """

    def __init__(self, job: CacheJob, config: CacheConfig, shape: WorkerShape) -> None:
        super().__init__(job)
        self._config, self._shape = config, shape

    @override
    def write(self, missing: Sequence[int], *, done: Sequence[int]) -> WriteCounts:
        with worker_source(self._config, self.job.annotated, self._shape) as source:
            return _Dispatch(self.job, source, missing).write(done)

    @override
    def finish(self, counts: WriteCounts, seconds: float) -> CacheSummary:
        return finish_cache(self.job, counts, seconds)


@contextmanager
def ray_executor(config: CacheConfig) -> Iterator[RayExecutor]:
    """Connect to a Ray cluster, and open what is cached on it.

    Args:
        config: What to cache, and where the cluster is.

    Raises:
        ConfigError: There is no such cluster, or no room for a worker on it.
        ClusterError: Ray refuses the connection.
        RegionSpotError: As for `CacheJob`.
    """
    with connected_cluster(config.ray, device=config.device) as shape:
        # This machine need not have a GPU: it makes the text banks on what it has.
        device = "cpu" if config.device == "cpu" else "auto"
        yield RayExecutor(CacheJob(replace(config, device=device)), config, shape)


class _Dispatch:
    """One distribution of missing shards among workers."""

    def __init__(self, job: CacheJob, source: WorkerSource, missing: Sequence[int]) -> None:
        self._job, self._source = job, source
        self._plan = job.manifest.plan
        self._counts = WriteCounts()
        self._todo = deque(missing)
        self._losses: Counter[int] = Counter()
        self._places: list[_Place] = []
        self._idle: list[_Place] = []
        # None in place of a shard: the worker loads its models.
        self._running: dict[Future[WorkerAnswer], tuple[_Place, int | None]] = {}

    def write(self, done: Sequence[int]) -> WriteCounts:
        """Have the shards written; see `RayExecutor.write`."""
        total = self._plan.num_images
        num_done = sum(len(self._plan.images_of(shard)) for shard in done)
        already = quarantined_in(self._job.output_dir, done)
        self._guard = QuarantineGuard(self._job.config, total, already)
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
        return replace(self._counts, num_new_images=total - num_done)

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
        self._counts += answer.counts
        sidecar = read_sidecar(self._job.output_dir, shard)
        self._guard.add(sidecar.quarantined)
        bar.update(len(self._plan.images_of(shard)))
        # A log file shows no bar.
        level = logging.INFO if bar.disable else logging.DEBUG
        num_shards, num_left_out = self._plan.num_shards, len(sidecar.quarantined)
        text = "shard %d of %d: %d images, %d left out (%s)"
        _logger.log(
            level, text, shard + 1, num_shards, sidecar.num_images, num_left_out, answer.where
        )

    def _replace(self, place: _Place, shard: int | None, error: WorkerLostError) -> None:
        """Start another worker; its shard is put at the end of the queue."""
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
