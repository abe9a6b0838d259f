"""Runs several batches at once on a CPU, each on its share of the threads.

By default torch splits every operation among all threads, which spin while they wait for the
slowest. One busy core then delays all of them, and small models gain little. Here each worker
thread computes whole batches with its own share, and none waits for another. Weights are shared.
The results are the same as with one worker.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from regionspot.core.stopping import wait_for

_Batch = TypeVar("_Batch")
_Result = TypeVar("_Result")

_AHEAD = 2
"""Maximum number of batches per worker that are running, waiting, or done but not yet consumed."""


def workers_on(device: torch.device, num_batches: int | None = None) -> tuple[int, int]:
    """Divide torch's threads among workers; a device other than a CPU gets one worker.

    Args:
        device: Where batches are computed.
        num_batches: Number of batches of the whole job, including its other runs and processes, so
            that all use the same number of threads: another number may change the last bit of a
            result. None for at least as many as there are threads.

    Returns:
        The number of workers, at most one per batch, and the number of threads of each.
    """
    num_threads = torch.get_num_threads()  # OMP_NUM_THREADS, or the number of cores
    if device.type != "cpu":
        return 1, num_threads
    num_workers = num_threads if num_batches is None else max(1, min(num_threads, num_batches))
    return num_workers, num_threads // num_workers


def map_batches(
    function: Callable[[_Batch], _Result],
    batches: Iterable[_Batch],
    *,
    num_workers: int,
    num_threads: int,
) -> Generator[_Result]:
    """Apply a function to batches in worker threads.

    While the iterator is in use, torch has ``num_threads`` threads in every thread of the process.
    Close it (`contextlib.closing`) where it may not be exhausted.

    Args:
        function: Called with each batch. It must enter autocast and inference mode itself, as they
            are set per thread.
        batches: The batches; consumed in this thread, a few ahead.
        num_workers: Number of batches computed at once.
        num_threads: Number of torch threads for each of them.

    Yields:
        The results, in the order of the batches; an error of the function is raised in place of
        the result.
    """
    with threads_of_torch(num_threads):
        if num_workers == 1:
            yield from map(function, batches)
            return
        with ThreadPoolExecutor(num_workers, thread_name_prefix="models") as pool:
            running: deque[Future[_Result]] = deque()
            try:
                for batch in batches:
                    running.append(pool.submit(function, batch))
                    while running and (running[0].done() or len(running) >= _AHEAD * num_workers):
                        yield wait_for(running.popleft())
                while running:
                    yield wait_for(running.popleft())
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def threads_of_torch(num_threads: int) -> Iterator[None]:
    """Set the number of torch threads within a block, in every thread of the process."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
