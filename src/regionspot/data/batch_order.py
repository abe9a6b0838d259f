"""The images of each batch, as a pure function of the seed and the number of the batch in the run.

Batches are planned for all ranks together and then divided, so that every rank makes the same
number of steps, and a run does not depend on the number of ranks. Any batch can be computed without
those before it, so that a run can resume anywhere at no cost.
"""

import dataclasses
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from regionspot.cache import FeatureCache, read_labels
from regionspot.core.errors import ConfigError
from regionspot.data.shuffle import (
    Purpose,
    RepeatFactorSampler,
    ShardWindows,
    ShuffledSampler,
    generator,
    image_repeat_factors,
)

Ratios: TypeAlias = Sequence[float] | Literal["by_size"] | None
"""How often to draw from each source: a weight for each, by size, or None for equally often."""


def check_ratios(ratios: Ratios, num_sources: int) -> None:
    """Raise ConfigError unless ratios are positive weights for all sources, "by_size" or None."""
    if ratios is None or ratios == "by_size":
        return
    weights_are_usable = all(isinstance(r, (int, float)) and 0 < r < float("inf") for r in ratios)
    if len(ratios) != num_sources or not weights_are_usable:
        raise ConfigError(
            f"data.ratios is {ratios!r}; wanted one positive weight for each of the {num_sources}"
            " training caches, by_size, or null for equal weights."
        )


def batches_by_source(
    num_images: Sequence[int], batch_sizes: Sequence[int], ratios: Ratios
) -> tuple[int, ...]:
    """Return the number of batches of each source in every epoch, 1 or more.

    By size, an epoch is one pass through each source and has every image once. Otherwise it has as
    many images as all sources together, and its batches are divided in proportion to the weights,
    by the largest remainder method.

    Args:
        num_images: Number of images in a pass through each source.
        batch_sizes: Number of images in a batch of each source.
        ratios: The weights, see `check_ratios`.
    """
    if ratios == "by_size":
        pairs = zip(num_images, batch_sizes, strict=True)
        return tuple(-(-images // size) for images, size in pairs)
    # Exact decimals, so that three times 0.1 is 0.3.
    weights = [Fraction(str(weight)) for weight in ratios or [1.0] * len(num_images)]
    images_of_turns = sum(w * size for w, size in zip(weights, batch_sizes, strict=True))
    num_batches = -(-sum(num_images) * sum(weights) // images_of_turns)
    quotas = [num_batches * weight / sum(weights) for weight in weights]
    counts = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(counts)), key=lambda i: counts[i] - quotas[i])
    for source in by_remainder[: int(num_batches) - sum(counts)]:
        counts[source] += 1
    # No source is left out, which may make a very short epoch longer.
    return tuple(max(count, 1) for count in counts)


IndexArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BatchPlan:
    """The images of one batch, all of one cache."""

    number: int
    """Number of the batch in the run, counted from 0 over all epochs."""
    source: int
    """Index of the cache."""
    images: IndexArray
    """Positions of the images in the cache, (B,)."""
    images_of_step: IndexArray | None = None
    """The images of all ranks, if ``images`` are those of one rank."""
    shards_due: tuple[int, ...] = ()
    """Shards of the cache to start reading ahead, as their images come soon."""


class Order(Protocol):
    """An order of images, as batches for all ranks together."""

    @property
    def num_batches(self) -> int:
        """Number of batches in every epoch."""

    def batch(self, number: int) -> BatchPlan:
        """Return a batch of the run; ``number`` is counted from 0 over all epochs."""


class MixedBatchSampler:
    """Random batches for training, each from one source.

    The number of batches of each source in an epoch is fixed (`batches_by_source`), and their order
    is random. A source continues in the next epoch where it stopped, so that no image is seen twice
    before all were seen once. With a single source, an epoch is one pass through it.

    Args:
        sources: The samplers of the sources.
        seed: The run's seed.
        ratios: How often to draw from each source, see `check_ratios`.
    """

    def __init__(
        self, sources: Sequence[ShuffledSampler], *, seed: int, ratios: Ratios = None
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
        """Number of batches in every epoch."""
        return sum(self._counts)

    @property
    def num_batches_by_source(self) -> tuple[int, ...]:
        """Number of batches of each source in every epoch."""
        return self._counts

    def batch(self, number: int) -> BatchPlan:
        """Return a batch of the run; ``number`` is counted from 0 over all epochs."""
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
        """Return the source of each batch of an epoch, and its number within the source."""
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
    """All images of one cache in order, in every epoch; the last batch may be smaller."""

    num_images: int
    """Number of images in the cache."""
    batch_size: int
    """Number of images in a batch over all ranks."""

    @property
    def num_batches(self) -> int:
        """Number of batches in an epoch."""
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
        num_regions: Number of regions.
        limit: Maximum number to use; None for all.
        seed: The run's seed.
        batch: Number of the batch in the run.
        image: Index of the source, and position of the image in it.

    Returns:
        Positions in ascending order, ``(min(num_regions, limit),)``.
    """
    if limit is None or num_regions <= limit:
        return np.arange(num_regions, dtype=np.int64)
    rng = generator(seed, Purpose.REGIONS, batch, *image)
    return np.sort(rng.choice(num_regions, size=limit, replace=False)).astype(np.int64)


_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderOptions:
    """How images are drawn; the options are those of `CachedRegions`."""

    batch_sizes: tuple[int, ...]
    """Number of images in a batch of each training cache, over all ranks."""
    seed: int
    """The run's seed."""
    ratios: Ratios
    """How often to draw from each cache."""
    shuffle_window: int | None
    """Number of shards to draw from at a time; None for all."""
    repeat_threshold: float | None
    """Fraction of images below which a class is drawn more often; None to disable."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"data.seed is {self.seed}; wanted 0 or more.")
        if self.shuffle_window is not None and self.shuffle_window < 1:
            raise ConfigError(
                f"data.shuffle_window is {self.shuffle_window}; wanted 1 shard or more, or null to"
                " draw from all shards."
            )
        if self.repeat_threshold is not None and not 0 < self.repeat_threshold <= 1:
            raise ConfigError(
                f"data.repeat_threshold is {self.repeat_threshold}; wanted a share of the images"
                " in (0, 1] (LVIS: 0.001), or null to draw all images equally often."
            )
        check_ratios(self.ratios, len(self.batch_sizes))


def batch_sizes_of(batch_size: int | Sequence[int], num_caches: int) -> tuple[int, ...]:
    """Return the batch size of each training cache, from one for all or a list of them.

    Raises:
        ConfigError: A size is below 1, or the list has another length.
    """
    if isinstance(batch_size, int):
        if batch_size < 1:
            raise ConfigError(f"data.batch_size is {batch_size}; wanted 1 or more.")
        return (batch_size,) * num_caches
    if len(batch_size) != num_caches or any(size < 1 for size in batch_size):
        raise ConfigError(
            f"data.batch_size is {list(batch_size)}; wanted one number of 1 or more, or a list with"
            f" one for each of the {num_caches} training caches."
        )
    return tuple(batch_size)


def training_order(
    caches: Sequence[FeatureCache], images: Sequence[IndexArray], options: OrderOptions
) -> MixedBatchSampler:
    """Return the order in which images of caches are drawn.

    With a repeat threshold, this reads the labels of all regions, which takes a while.

    Args:
        caches: The training caches.
        images: Positions of the images with regions in each cache.
        options: How to draw.
    """
    sources = []
    for number, (cache, drawable) in enumerate(zip(caches, images, strict=True)):
        repeats = windows = None
        if options.repeat_threshold is not None:
            repeats = RepeatFactorSampler(_repeat_factors(cache, options.repeat_threshold))
        if options.shuffle_window is not None:
            windows = ShardWindows(
                cache.index.shards[drawable],
                group_size=options.shuffle_window,
                seed=options.seed,
                source=number,
            )
        sources.append(
            ShuffledSampler(
                drawable,
                batch_size=options.batch_sizes[number],
                seed=options.seed,
                source=number,
                repeats=repeats,
                windows=windows,
            )
        )
    return MixedBatchSampler(sources, seed=options.seed, ratios=options.ratios)


def _repeat_factors(cache: FeatureCache, threshold: float) -> NDArray[np.float64]:
    """Return the repeat factors of the images with regions, in the order of the cache."""
    _LOGGER.info("%s: reading the labels of all regions for repeat factors", cache.location)
    start = time.perf_counter()
    labels = read_labels(cache)
    num_regions = cache.index.num_regions
    factors = image_repeat_factors(
        labels,
        num_regions[num_regions > 0],
        num_classes=len(cache.index.label_counts),
        threshold=threshold,
    )
    _LOGGER.info(
        "%s: labels read in %.1f s; %d of %d images are drawn more often than once, the rarest"
        " %.1f times",
        cache.location,
        time.perf_counter() - start,
        np.count_nonzero(factors > 1),
        len(factors),
        factors.max(),
    )
    return factors
