"""Which images make up which batch: a pure function of a seed and the epoch.

Batches are planned for all ranks together and then shared out, so that every rank makes the same
number of steps and a run does not depend on how many ranks it is spread over.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from regionspot.core.errors import ConfigError

IndexArray = NDArray[np.int64]
# Random streams with a purpose each: numpy pads a short seed with zeros, so that without these
# numbers the draw of sources would repeat the order of source 0.
_DRAW_STREAM, _IMAGE_STREAM, _REGION_STREAM = 1, 2, 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BatchPlan:
    """The images of one batch, all of one cache."""

    source: int
    """Which cache, counted from 0."""
    images: IndexArray
    """Positions of the images in that cache, (B,)."""
    images_of_step: IndexArray | None = None
    """Where ``images`` are the share of one rank: those of all ranks together."""


class Order(Protocol):
    """An order in which to visit images."""

    @property
    def num_batches(self) -> int:
        """Batches of an epoch."""

    def plan(self, epoch: int) -> Iterator[BatchPlan]:
        """Yield the batches of an epoch, of all ranks together."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MixedOrder:
    """Random batches for training: each from one source, the sources drawn at random.

    An epoch has as many batches as it takes to see as many images as all sources hold together. A
    source is gone through without repeats; if it is drawn more often than it has images, it starts
    again in a new random order.

    Raises:
        ConfigError: A source is empty, or the ratios are not one positive weight a source.
    """

    sources: Sequence[IndexArray]
    """For each cache, the positions of the images that may be drawn."""
    batch_size: int
    """Images of a batch over all ranks."""
    seed: int
    """Starts the order of all epochs."""
    ratios: Sequence[float] | None = None
    """How often to draw each source, up to a factor; None for equally often."""

    def __post_init__(self) -> None:
        if not self.sources or any(len(source) == 0 for source in self.sources):
            raise ConfigError("there is nothing to draw from: a source has no image with regions.")
        if self.ratios is None:
            return
        found = list(self.ratios)
        if len(found) != len(self.sources) or not all(0 < r < float("inf") for r in found):
            raise ConfigError(
                f"data.ratios is {found}; wanted one positive weight for each of the"
                f" {len(self.sources)} training caches, or null for equal ones."
            )

    @property
    def num_batches(self) -> int:
        """Batches of an epoch."""
        return -(-sum(len(source) for source in self.sources) // self.batch_size)

    def plan(self, epoch: int) -> Iterator[BatchPlan]:
        """Yield the batches of an epoch, of all ranks together."""
        weights = np.asarray(self.ratios or [1.0] * len(self.sources))
        draws = np.random.default_rng([self.seed, epoch, _DRAW_STREAM]).choice(
            len(self.sources), size=self.num_batches, p=weights / weights.sum()
        )
        streams = [self._stream(source, epoch) for source in range(len(self.sources))]
        for draw in draws:
            source = int(draw)
            images = np.array([next(streams[source]) for _ in range(self.batch_size)], np.int64)
            yield BatchPlan(source=source, images=images)

    def _stream(self, source: int, epoch: int) -> Iterator[np.int64]:
        rng = np.random.default_rng([self.seed, epoch, _IMAGE_STREAM, source])
        while True:
            yield from rng.permutation(self.sources[source])


@dataclass(frozen=True, slots=True, kw_only=True)
class SequentialOrder:
    """Every image of one cache once, in order; the last batch may be smaller."""

    num_images: int
    """Images of the cache."""
    batch_size: int
    """Images of a batch over all ranks."""

    @property
    def num_batches(self) -> int:
        """Batches of an epoch."""
        return -(-self.num_images // self.batch_size)

    def plan(self, epoch: int) -> Iterator[BatchPlan]:  # noqa: ARG002 - the same in every epoch
        """Yield the batches, of all ranks together."""
        for start in range(0, self.num_images, self.batch_size):
            stop = min(start + self.batch_size, self.num_images)
            yield BatchPlan(source=0, images=np.arange(start, stop, dtype=np.int64))


def share_of_rank(plan: BatchPlan, *, rank: int, world_size: int) -> BatchPlan:
    """Return a rank's part of a batch: every ``world_size``-th image, possibly none."""
    return BatchPlan(
        source=plan.source, images=plan.images[rank::world_size], images_of_step=plan.images
    )


def choose_regions(
    num_regions: int, limit: int | None, *, seed: int, epoch: int, image: tuple[int, int]
) -> IndexArray:
    """Choose which regions of an image to use in an epoch.

    Args:
        num_regions: How many there are.
        limit: How many to use at most; None for all.
        seed: The run's seed; the choice depends on it, on the epoch and on the image.
        epoch: Counted from 0.
        image: Number of the source, and position of the image in it.

    Returns:
        Positions in ascending order, ``(min(num_regions, limit),)``.
    """
    if limit is None or num_regions <= limit:
        return np.arange(num_regions, dtype=np.int64)
    rng = np.random.default_rng([seed, epoch, _REGION_STREAM, *image])
    return np.sort(rng.choice(num_regions, size=limit, replace=False)).astype(np.int64)
