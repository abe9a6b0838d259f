"""Which images make up which batch: a pure function of a seed and the batch's number in the run.

Batches are planned for all ranks together and then shared out, so that every rank makes the same
number of steps and a run does not depend on how many ranks it is spread over. Any batch can be
asked for without those before it, so that a run goes on anywhere at no cost.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from regionspot.data.mixing import Ratios, batches_by_source
from regionspot.data.passes import ShuffledPasses
from regionspot.data.randomness import Purpose, generator

IndexArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BatchPlan:
    """The images of one batch, all of one cache."""

    number: int
    """Which batch of the run, counted from 0 over all epochs."""
    source: int
    """Which cache, counted from 0."""
    images: IndexArray
    """Positions of the images in that cache, (B,)."""
    images_of_step: IndexArray | None = None
    """Where ``images`` are the share of one rank: those of all ranks together."""
    shards_due: tuple[int, ...] = ()
    """Shards of that cache to begin reading as a whole, as their images come soon."""


class Order(Protocol):
    """An order in which to visit images, as batches of all ranks together."""

    @property
    def num_batches(self) -> int:
        """Batches of an epoch, the same in every epoch."""

    def batch(self, number: int) -> BatchPlan:
        """Return a batch of the run; ``number`` is counted from 0 over all epochs."""


class MixedOrder:
    """Random batches for training, each from one source.

    Of how many batches of each source an epoch consists is fixed (`batches_by_source`); in which
    order they come is drawn anew in every epoch. A source goes on in the next epoch where it
    stopped in the one before, so that none of its images is seen twice before all were seen once.
    With one source an epoch is exactly one pass through it.

    Args:
        sources: The sources, by their number.
        seed: The run's seed.
        ratios: How often each source has its turn: a positive weight each, "by_size", or None for
            equally often.
    """

    def __init__(
        self, sources: Sequence[ShuffledPasses], *, seed: int, ratios: Ratios = None
    ) -> None:
        self._sources = sources
        self._seed = seed
        self._counts = batches_by_source(
            [source.num_draws for source in sources],
            [source.batch_size for source in sources],
            ratios,
        )
        self._kept: tuple[int, IndexArray, IndexArray] | None = None

    @property
    def num_batches(self) -> int:
        """Batches of an epoch, the same in every epoch."""
        return sum(self._counts)

    @property
    def num_batches_by_source(self) -> tuple[int, ...]:
        """Batches of an epoch that are of each source."""
        return self._counts

    def batch(self, number: int) -> BatchPlan:
        """Return a batch of the run: a function of the seed and its number alone.

        Args:
            number: Counted from 0 over all epochs.
        """
        epoch, place = divmod(number, self.num_batches)
        sources, turns = self._turns(epoch)
        source = int(sources[place])
        turn = epoch * self._counts[source] + int(turns[place])
        passes = self._sources[source]
        return BatchPlan(
            number=number,
            source=source,
            images=passes.batch(turn),
            shards_due=passes.shards_due(turn),
        )

    def _turns(self, epoch: int) -> tuple[IndexArray, IndexArray]:
        """Return which source each batch of an epoch is of, and how many of it came before."""
        kept = self._kept
        if kept is None or kept[0] != epoch:
            numbers = np.arange(len(self._counts), dtype=np.int64)
            rng = generator(self._seed, Purpose.TURNS, epoch)
            sources = rng.permutation(np.repeat(numbers, self._counts))
            turns = np.empty_like(sources)
            for number, count in enumerate(self._counts):
                turns[sources == number] = np.arange(count)
            self._kept = kept = (epoch, sources, turns)
        return kept[1:]


@dataclass(frozen=True, slots=True, kw_only=True)
class SequentialOrder:
    """Every image of one cache once, in order, in every epoch; the last batch may be smaller."""

    num_images: int
    """Images of the cache."""
    batch_size: int
    """Images of a batch over all ranks."""

    @property
    def num_batches(self) -> int:
        """Batches of an epoch."""
        return -(-self.num_images // self.batch_size)

    def batch(self, number: int) -> BatchPlan:
        """Return a batch; ``number`` is counted from 0 over all epochs."""
        start = number % self.num_batches * self.batch_size
        stop = min(start + self.batch_size, self.num_images)
        return BatchPlan(number=number, source=0, images=np.arange(start, stop, dtype=np.int64))


def share_of_rank(plan: BatchPlan, *, rank: int, world_size: int) -> BatchPlan:
    """Return a rank's part of a batch: every ``world_size``-th image, possibly none."""
    if world_size == 1:
        return plan
    return dataclasses.replace(
        plan, images=plan.images[rank::world_size], images_of_step=plan.images
    )


def choose_regions(
    num_regions: int, limit: int | None, *, seed: int, batch: int, image: tuple[int, int]
) -> IndexArray:
    """Choose which regions of an image to use in a batch.

    Args:
        num_regions: How many there are.
        limit: How many to use at most; None for all.
        seed: The run's seed; the choice depends on it, on the batch and on the image.
        batch: Number of the batch in the run.
        image: Number of the source, and position of the image in it.

    Returns:
        Positions in ascending order, ``(min(num_regions, limit),)``.
    """
    if limit is None or num_regions <= limit:
        return np.arange(num_regions, dtype=np.int64)
    rng = generator(seed, Purpose.REGIONS, batch, *image)
    return np.sort(rng.choice(num_regions, size=limit, replace=False)).astype(np.int64)
