"""A running Ray cluster: finds it, counts what fits on it, starts workers. Only this imports Ray.

Ray is asked for processes and for nothing else: who writes which shard, and what becomes of a shard
whose worker died, is decided in `dispatch`.
"""

import logging
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from regionspot.annotations import AnnotatedImages
from regionspot.core.errors import ConfigError, RegionSpotError
from regionspot.extraction.cluster_options import AUTO, RayConfig
from regionspot.extraction.cluster_worker import ShardWorker, WorkerAnswer
from regionspot.extraction.config import CacheConfig
from regionspot.extraction.errors import ClusterError, WorkerLostError

_logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 10.0

T = TypeVar("T")
Resources = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerShape:
    """What each worker gets, and how many workers there are to be."""

    num_workers: int
    """How many."""
    cpus: int
    """CPU cores of each, which are its threads."""
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
    """A `ShardWorker` in a process somewhere on the cluster. What it is asked, it does in turn."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def prepare(self) -> "Future[WorkerAnswer]":
        """Let it load the models."""
        return self._actor.prepare.remote().future()

    def write(self, shard: int) -> "Future[WorkerAnswer]":
        """Let it write a shard."""
        return self._actor.write.remote(shard).future()

    def kill(self) -> None:
        """End the process, if it still runs."""
        ray.kill(self._actor)


class WorkerSource:
    """Starts workers for one job."""

    def __init__(self, config: CacheConfig, annotated: AnnotatedImages, shape: WorkerShape) -> None:
        self.shape = shape
        self._config = config
        # Ray keeps one copy of them a machine, whose arrays all workers there map.
        self._annotated = ray.put(annotated)
        # Ray is not to start a dead actor again: who starts a worker decides that.
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
    """Return what a worker answered.

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
    """Let workers be started; those that are left are killed after the block.

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
    """Connect this process to a running Ray cluster; a connection that it has already is used.

    Args:
        options: Where the cluster is, and what a worker is to get.
        device: Where the models are to run, as in ``--device``.

    Yields:
        What each worker gets there, and how many there are to be.

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
        # Ray puts its own in the place of ours, which ends the run in good order.
        signal.signal(signal.SIGTERM, on_sigterm)


def _check_answers(address: str) -> None:
    """Ask for an answer first: Ray ends the whole process after a minute without one."""
    if address != AUTO:
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
