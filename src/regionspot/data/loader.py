"""Loads batches from memory-mapped shards, prefetched by a few threads.

Worker processes would be slower: a batch is a few copies from a memory map, during which other
threads run, and passing it between processes costs more than making it
(``benchmarks/read_cache.py``).
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from time import perf_counter
from typing import Any, TypeVar

from regionspot.core.errors import ConfigError
from regionspot.data.batch_order import BatchPlan, Order, share_of_rank
from regionspot.data.collate import Collator, RegionBatch

Plan = TypeVar("Plan")
Made = TypeVar("Made")


def made_ahead(
    make: Callable[[Plan], Made], plans: Iterable[Plan], *, num_threads: int, depth: int
) -> Generator[Made, None, None]:
    """Yield ``make(plan)`` for every plan, in order, while threads prepare the next results.

    An error in ``make`` is raised after the results before it. Closing this iterator ends the
    threads once their current calls return.

    Args:
        make: Called in several threads at once.
        plans: Consumed in the calling thread, a few plans ahead.
        num_threads: Number of threads, 1 or more.
        depth: Number of results that are ready or in progress while the consumer uses one.
    """
    ahead: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="regionspot-prefetch") as threads:
        try:
            for plan in plans:
                ahead.append(threads.submit(make, plan))
                if len(ahead) > depth:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


_NUM_THREADS = 2
"""On two cores, two threads are 1.4 times as fast as one; a third gains nothing."""


class CacheLoader:
    """Iterates over batches; its state can be saved and restored in the middle of an epoch.

    Every ``iter(loader)`` starts the next epoch, which has its own order, even if the previous one
    was not finished. Batches depend only on the order's seed and on their numbers.

    Args:
        order: Determines the images of each batch.
        collator: Reads and pads them.
        rank: Rank of this process.
        world_size: Number of ranks, all of which get the same number of batches.
        prefetch_batches: Number of batches to prefetch.

    Attributes:
        seconds_waited: Time that the consumer has waited for batches, over all epochs.

    Raises:
        ConfigError: ``prefetch_batches`` is below 1, or ``rank`` is not below ``world_size``.
    """

    def __init__(
        self,
        order: Order,
        collator: Collator,
        *,
        rank: int = 0,
        world_size: int = 1,
        prefetch_batches: int = 2,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank {rank} is not among {world_size} ranks, counted from 0.")
        if prefetch_batches < 1:
            raise ConfigError(f"prefetch_batches is {prefetch_batches}; wanted 1 or more.")
        self._order = order
        self._collator = collator
        self._rank = rank
        self._world_size = world_size
        self._prefetch_batches = prefetch_batches
        self._next_batch = 0  # counted over all epochs
        self._restored = False
        self.seconds_waited = 0.0

    def __len__(self) -> int:
        """Return the number of batches of an epoch, the same on every rank."""
        return self._order.num_batches

    def __iter__(self) -> Iterator[RegionBatch]:
        """Iterate over the next epoch, or over the rest of the restored one."""
        if len(self) == 0:
            return
        if not self._restored:
            self._next_batch += -self._next_batch % len(
                self
            )  # skip the rest of an unfinished epoch
        self._restored = False
        end = self._next_batch + len(self) - self._next_batch % len(self)
        made = made_ahead(
            self._collator.assemble,
            map(self._share, range(self._next_batch, end)),
            num_threads=_NUM_THREADS,
            depth=self._prefetch_batches,
        )
        with closing(made) as batches:
            while True:
                start = perf_counter()
                batch = next(batches, None)
                self.seconds_waited += perf_counter() - start
                if batch is None:
                    return
                # Counted first, as checkpoints are written while the batch is in use.
                self._next_batch += 1
                yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the number of batches yielded so far, over all epochs."""
        return {"next_batch": self._next_batch, "batches_per_epoch": len(self)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume the next iteration where the saved loader was, at no cost.

        Raises:
            ConfigError: The saved loader had epochs of another length.
        """
        if state.get("batches_per_epoch") != len(self):
            raise ConfigError(
                f"the checkpoint is of a run with {state.get('batches_per_epoch')} batches an"
                f" epoch, and this one has {len(self)}. Resume with the same data options (train,"
                " batch_size, ratios, repeat_threshold), or start a new run from its weights with"
                " --model.init_from instead of --ckpt_path."
            )
        self._next_batch = int(state["next_batch"])
        self._restored = True

    def _share(self, number: int) -> BatchPlan:
        plan = self._order.batch(number)
        return share_of_rank(plan, rank=self._rank, world_size=self._world_size)
