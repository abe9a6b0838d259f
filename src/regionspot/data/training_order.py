"""From the options of training to the order in which images are drawn from caches."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regionspot.cache import FeatureCache, read_labels
from regionspot.core.errors import ConfigError
from regionspot.data.mixing import Ratios, check_ratios
from regionspot.data.order import IndexArray, MixedOrder
from regionspot.data.passes import ShuffledPasses
from regionspot.data.repeats import RepeatedDraws, image_repeat_factors
from regionspot.data.windows import ShardWindows

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderOptions:
    """How images are drawn; see `CachedRegions` for what the options mean.

    Raises:
        ConfigError: A value cannot work.
    """

    batch_sizes: tuple[int, ...]
    """Images of a batch of each training cache, over all ranks."""
    seed: int
    """The run's seed."""
    ratios: Ratios
    """How often each cache has its turn."""
    shuffle_window: int | None
    """Shards that are drawn from at a time; None for all."""
    repeat_threshold: float | None
    """Classes that fewer than this share of the images hold are seen more often; None for none."""

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
                " above 0 and up to 1 (LVIS: 0.001), or null to draw all images equally often."
            )
        check_ratios(self.ratios, len(self.batch_sizes))


def batch_sizes_of(batch_size: int | Sequence[int], num_caches: int) -> tuple[int, ...]:
    """Return the batch size of each training cache.

    Args:
        batch_size: One for all caches, or a list with one for each.
        num_caches: How many caches there are.

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
) -> MixedOrder:
    """Return the order in which images of caches are drawn.

    With a repeat threshold, this reads the labels of all regions, which takes a while.

    Args:
        caches: The training caches.
        images: For each, the positions of the images with regions.
        options: How to draw.

    Raises:
        CacheCorruptError: Labels are not those that the index counted.
    """
    sources = []
    for number, (cache, drawable) in enumerate(zip(caches, images, strict=True)):
        repeats = windows = None
        if options.repeat_threshold is not None:
            repeats = RepeatedDraws(_repeat_factors(cache, options.repeat_threshold))
        if options.shuffle_window is not None:
            windows = ShardWindows(
                cache.index.shards[drawable],
                group_size=options.shuffle_window,
                seed=options.seed,
                source=number,
            )
        sources.append(
            ShuffledPasses(
                drawable,
                batch_size=options.batch_sizes[number],
                seed=options.seed,
                source=number,
                repeats=repeats,
                windows=windows,
            )
        )
    return MixedOrder(sources, seed=options.seed, ratios=options.ratios)


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
