"""Writing the shards of a cache with workers on a running Ray cluster. Only this imports Ray.

Ray only provides processes: this module decides which worker writes which shard, and replaces
workers that die. A shard is done once its sidecar is on disk, whoever wrote it. A worker that Ray
reports dead but that still writes holds the lock of its shard, so its replacement has to wait.
"""

import logging
import signal
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError
from tqdm import tqdm

from regionspot.cache import read_sidecar
from regionspot.core.errors import ConfigError, RegionSpotError
from regionspot.core.stopping import check_stop, safe_points
from regionspot.extraction.config import CacheConfig, RayConfig
from regionspot.extraction.errors import ClusterError, WorkerLostError
from regionspot.extraction.job import CacheJob
from regionspot.extraction.parts import AUTO
from regionspot.extraction.quarantine import QuarantineGuard, quarantined_in
from regionspot.extraction.ray_worker import ShardWorker, WorkerAnswer
from regionspot.extraction.summary import WriteCounts
from regionspot.extraction.writing import log_shard

_logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 10.0

T = TypeVar("T")
Resources = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerShape:
    """How many workers to start, and what each gets."""

    num_workers: int
    """Number of workers."""
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
            options: The configured numbers.
            machines: Resources of each machine according to Ray, in use or not.
            device: Where the models run, as in ``--device``.

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
                f"a worker needs {cpus} CPUs and {gpus:g} GPUs, which no machine of the Ray cluster"
                f" has (they have {have}). Set --ray.cpus_per_worker and --ray.gpus_per_worker."
            )
        return cls(num_workers=options.num_workers or num_fitting, cpus=cpus, gpus=gpus)


def _num_fitting(machine: Resources, cpus: int, gpus: float) -> int:
    by_cpu = int(machine["CPU"] // cpus)
    return min(by_cpu, int(machine["GPU"] / gpus)) if gpus else by_cpu


def _result_of(future: "Future[T]") -> T:
    """Return a worker's answer, or raise its `RegionSpotError`, else `WorkerLostError`."""
    try:
        return future.result()
    except RayTaskError as error:
        if isinstance(error.cause, RegionSpotError):
            _logger.error("stopped by %s", "; ".join(error.cause.__notes__))  # noqa: TRY400 - no bug
            raise error.cause from None
        raise WorkerLostError(str(error)) from error
    except RayError as error:
        raise WorkerLostError(str(error)) from error


def _connect(address: str) -> None:
    in_main_thread = threading.current_thread() is threading.main_thread()
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address != AUTO:  # Ray ends the whole process after a minute without an answer
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
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


MAX_LOSSES = 3
"""Number of workers that may die at one shard, and in a row in one place without a shard."""
_POLL_S = 0.2


@dataclass(slots=True, kw_only=True)
class _Place:
    """One of the workers that run at the same time, and its replacements."""

    number: int
    worker: Any
    """Ray's handle of a `ShardWorker`."""
    num_losses_in_a_row: int = 0


@contextmanager
def job_on_cluster(
    config: CacheConfig,
) -> Iterator[tuple[CacheJob, Callable[[Sequence[int], Sequence[int]], WriteCounts]]]:
    """Connect to a running Ray cluster, unless connected already, and open what to cache on it.

    Args:
        config: What to cache, and where the cluster is.

    Yields:
        The job, and what has workers write its shards, both for `run_job`.

    Raises:
        ConfigError: There is no such cluster, or no room for a worker on it.
        ClusterError: Ray refuses the connection.
        RegionSpotError: As for `CacheJob`.
    """
    is_ours = not ray.is_initialized()
    if is_ours:
        _connect(config.ray.address)
    try:
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        shape = WorkerShape.fitting(config.ray, machines, device=config.device)
        # This machine need not have a GPU: it computes the text banks on what it has.
        job = CacheJob(replace(config, device="cpu" if config.device == "cpu" else "auto"))
        yield job, lambda missing, done: _Dispatch(job, config, shape, missing).write(done)
    finally:
        if is_ours:
            ray.shutdown()


class _Dispatch:
    """Distributes missing shards among workers.

    Args:
        job: What is cached.
        config: What the workers are told to cache; it may name another device than the job's.
        shape: How many workers to start, and what each gets.
        missing: The shards.
    """

    def __init__(
        self, job: CacheJob, config: CacheConfig, shape: WorkerShape, missing: Sequence[int]
    ) -> None:
        self._job, self._config, self._shape = job, config, shape
        self._plan = job.manifest.plan
        # Ray keeps one copy per machine, which all workers there map.
        self._annotated = ray.put(job.annotated)
        # Without restarts by Ray: `_replace` does that.
        remote: Any = ray.remote(num_cpus=shape.cpus, num_gpus=shape.gpus, max_restarts=0)
        self._actor_class = remote(ShardWorker)
        self._workers: list[Any] = []
        self._counts = WriteCounts()
        self._todo = deque(missing)
        self._losses: Counter[int] = Counter()
        self._places: list[_Place] = []
        self._idle: list[_Place] = []
        # None in place of a shard: the worker loads its models.
        self._running: dict[Future[WorkerAnswer], tuple[_Place, int | None]] = {}

    def write(self, done: Sequence[int]) -> WriteCounts:
        """Have the shards written; workers that still run are killed afterwards.

        Raises:
            RegionSpotError: What a worker raised.
            ClusterError: Workers keep dying.
        """
        total = self._plan.num_images
        num_done = sum(len(self._plan.images_of(shard)) for shard in done)
        already = quarantined_in(self._job.output_dir, done)
        self._guard = QuarantineGuard(self._job.config, total, already)
        try:
            with (
                safe_points(),
                tqdm(total=total, initial=num_done, unit=" images", disable=None) as bar,
            ):
                self._start_workers()
                while self._todo or any(shard is not None for _, shard in self._running.values()):
                    while self._todo and self._idle:
                        place, shard = self._idle.pop(), self._todo.popleft()
                        self._running[place.worker.write.remote(shard).future()] = place, shard
                    finished, _ = wait(self._running, _POLL_S, return_when=FIRST_COMPLETED)
                    check_stop()
                    for future in finished:
                        self._take_back(future, bar)
        finally:
            for worker in self._workers:
                ray.kill(worker)
        return replace(self._counts, num_new_images=total - num_done)

    def _start_workers(self) -> None:
        shape = self._shape
        num = min(shape.num_workers, len(self._todo))
        if num:
            _logger.info(
                "asking Ray for %d workers of %d CPUs, %g GPUs", num, shape.cpus, shape.gpus
            )
        for number in range(num):
            place = _Place(number=number + 1, worker=None)
            self._places.append(place)
            self._start(place)

    def _start(self, place: _Place) -> None:
        """Request a worker; its process starts as soon as there is room for it."""
        place.worker = self._actor_class.remote(
            self._config, self._annotated, folder=Path.cwd(), num_threads=self._shape.cpus
        )
        self._workers.append(place.worker)
        self._running[place.worker.prepare.remote().future()] = place, None

    def _take_back(self, future: "Future[WorkerAnswer]", bar: "tqdm[NoReturn]") -> None:
        place, shard = self._running.pop(future)
        try:
            answer = _result_of(future)
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
            _logger.info(
                "shard %d: another process is writing it, or it is not visible yet", shard + 1
            )
            self._todo.append(shard)

    def _count(self, shard: int, answer: WorkerAnswer, bar: "tqdm[NoReturn]") -> None:
        self._counts += answer.counts
        sidecar = read_sidecar(self._job.output_dir, shard)
        self._guard.add(sidecar.quarantined)
        bar.update(len(self._plan.images_of(shard)))
        log_shard(shard, self._plan.num_shards, sidecar, bar, by=answer.where)

    def _replace(self, place: _Place, shard: int | None, error: WorkerLostError) -> None:
        """Start another worker; its shard is put at the end of the queue."""
        at = "loading its models" if shard is None else f"at shard {shard + 1}"
        _logger.warning("worker %d was lost %s: %s", place.number, at, error)
        ray.kill(place.worker)
        place.num_losses_in_a_row += 1
        if shard is not None:
            self._losses[shard] += 1
            if self._losses[shard] == MAX_LOSSES:
                raise ClusterError(
                    f"{MAX_LOSSES} workers died at shard {shard + 1} of {self._plan.num_shards}."
                    f" The last error: {error}\nFinished shards are safe. To find the cause, give"
                    " the same command without --executor ray, which writes what is missing in this"
                    " process."
                )
            self._todo.append(shard)
        if place.num_losses_in_a_row < MAX_LOSSES:
            self._start(place)
            return
        self._places.remove(place)
        if not self._places:
            raise ClusterError(
                f"every worker was lost {MAX_LOSSES} times in a row. The last error: {error}\n"
                "Finished shards are safe: look at the machines (`ray status`, and Ray's logs in"
                " /tmp/ray/session_latest/logs), then run the same command again."
            )
        _logger.warning("worker %d was lost too often and is not replaced", place.number)
