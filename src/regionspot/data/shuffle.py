"""Random orders of the images of one source, a new one in every pass.

`ShardWindows` restricts the randomness to a few shards at a time, for storage with slow random
access. `RepeatFactorSampler` draws images of rare classes more often: the repeat factor sampling of
Gupta et al., "LVIS: A Dataset for Large Vocabulary Instance Segmentation" (arXiv 1908.03195). With
a threshold t, a class in a fraction f of the images has the repeat factor max(1, sqrt(t / f)), and
an image has the largest factor of its classes.
"""

from collections.abc import Iterator
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

_UNIT = 1 << 32
"""Factors are counted in units of 2^-32, so that sums over millions of images are exact, and the
same on every machine."""
_IMAGES_AT_ONCE = 100_000


class RepeatFactorSampler:
    """Draws every image as often as its repeat factor, on average over passes.

    In each pass, an image occurs as often as its factor rounded down or up, by systematic sampling:
    with the factors as adjacent intervals, an image is drawn for every point in its interval of a
    grid with spacing 1 and a random start. The factors are scaled up slightly, so that their sum is
    a whole number and all passes have the same length.

    Args:
        factors: Repeat factors of the images, (N,), 1 or more.
    """

    def __init__(self, factors: NDArray[np.float64]) -> None:
        units = np.floor(factors * _UNIT).astype(np.int64)
        total = int(units.sum())
        self._num_draws = -(-total // _UNIT)
        units = np.floor(units * (self._num_draws * _UNIT / total)).astype(np.int64)
        # Rounding lost less than one unit per image, in total less than a thousandth of a draw.
        units[np.argmax(units)] += self._num_draws * _UNIT - int(units.sum())
        self._units = units

    @property
    def num_draws(self) -> int:
        """Number of draws in every pass."""
        return self._num_draws

    def draw(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the positions of the images of one pass, (num_draws,), repeats adjacent."""
        # In random order, as neighbours would otherwise be drawn in the same passes.
        row = rng.permutation(len(self._units))
        ends = np.cumsum(self._units[row])
        draws_before = -((int(rng.integers(_UNIT)) - ends) // _UNIT)
        counts = np.diff(draws_before, prepend=0)
        return np.repeat(row, counts)


def image_repeat_factors(
    labels: NDArray[np.integer],
    num_regions: NDArray[np.integer],
    *,
    num_classes: int,
    threshold: float,
) -> NDArray[np.float64]:
    """Return the repeat factor of each image.

    Args:
        labels: Labels of the regions of all images in order, (sum of ``num_regions``,).
        num_regions: Number of regions of each image, (N,), 1 or more.
        num_classes: Number of classes in the vocabulary.
        threshold: Fraction of images below which a class is drawn more often.

    Returns:
        Factors, (N,), 1 or more.
    """
    num_images_of_class = np.zeros(num_classes, np.int64)
    for block, counts in _blocks(labels, num_regions):
        image = np.repeat(np.arange(len(counts)), counts)
        pairs = np.sort(image * num_classes + block)  # np.unique takes 60 times as long
        distinct = pairs[np.diff(pairs, prepend=-1) > 0]
        num_images_of_class += np.bincount(distinct % num_classes, minlength=num_classes)
    # Classes without images only need a share above 0.
    share = np.maximum(num_images_of_class, 1) / len(num_regions)
    factor_of_class = np.maximum(1.0, np.sqrt(threshold / share))
    return np.concatenate(
        [
            np.maximum.reduceat(factor_of_class[block], np.cumsum(counts) - counts)
            for block, counts in _blocks(labels, num_regions)
        ]
    )


def _blocks(
    labels: NDArray[np.integer], num_regions: NDArray[np.integer]
) -> Iterator[tuple[NDArray[np.integer], NDArray[np.int64]]]:
    """Yield labels and region counts of a limited number of images at a time, to bound memory."""
    ends = np.cumsum(num_regions, dtype=np.int64)
    for first in range(0, len(num_regions), _IMAGES_AT_ONCE):
        counts = num_regions[first : first + _IMAGES_AT_ONCE].astype(np.int64)
        start = int(ends[first] - counts[0])
        yield labels[start : start + int(counts.sum())], counts


class Purpose(IntEnum):
    """Purposes of random numbers, so that no two share a stream."""

    TURNS = 1
    """The order of the sources in an epoch."""
    IMAGES = 2
    """The order of a source's images in a pass."""
    REGIONS = 3
    """The choice of regions of an image with too many."""
    SHARDS = 4
    """The order of a source's shards in a pass."""


def generator(seed: int, purpose: Purpose, *numbers: int) -> np.random.Generator:
    """Return a generator whose stream depends only on the arguments.

    The purpose comes first and must always have the same number of ``numbers``: numpy pads seeds
    with zeros, so that ``(1, 2)`` and ``(1, 2, 0)`` give the same stream.

    Args:
        seed: The run's seed, 0 or more.
        purpose: What the random numbers are for.
        numbers: Further numbers of the seed, such as an epoch.
    """
    return np.random.default_rng([purpose, seed, *numbers])


class ShardWindows:
    """Divides the shards of a source, in random order, into groups that are used one after another.

    Images are drawn from the shards of one group at a time, while those of the next one can be read
    sequentially. This reduces randomness, as a batch has images of only one group, and each shard
    has images that are close in the annotation file. Every pass has new random groups.

    Args:
        shards: The shard of each image of the source, (N,).
        group_size: Number of shards in a group, 1 or more; the last group of a pass may have fewer.
        seed: The run's seed.
        source: Index of the source.
    """

    def __init__(
        self, shards: NDArray[np.integer], *, group_size: int, seed: int, source: int = 0
    ) -> None:
        self._shards = shards
        self._present = np.unique(shards).astype(np.int64)
        self._group_size = min(group_size, len(self._present))
        self._seed = seed
        self._source = source

    def grouped(self, positions: NDArray[np.int64], number_of_pass: int) -> NDArray[np.int64]:
        """Sort positions by group, keeping their order within a group.

        Args:
            positions: Positions in the source, (D,), in random order.
            number_of_pass: Determines the groups and their order.

        Returns:
            The same positions by group, (D,).
        """
        group_of_shard = np.zeros(int(self._present[-1]) + 1, np.int64)
        row = self._row(number_of_pass)
        group_of_shard[row] = np.arange(len(row)) // self._group_size
        groups = group_of_shard[self._shards[positions]]
        return positions[np.argsort(groups, kind="stable")]

    def due(self, number_of_pass: int, start: int, stop: int, num_draws: int) -> tuple[int, ...]:
        """Return the shards to start reading while some images of a pass are drawn.

        They are one group ahead, in even steps, so that the disk is always busy and never more than
        a group ahead. At the end of a pass, they are the first shards of the next pass. For the
        first images of the run, they include the first group.

        Args:
            number_of_pass: Counted from 0.
            start: Number of images of the pass drawn before.
            stop: Number of images of the pass drawn after these.
            num_draws: Number of images of the pass.
        """
        num_shards = len(self._present)
        first, last = (-(-drawn * num_shards // num_draws) for drawn in (start, stop))
        is_start = number_of_pass == start == 0
        places = range(0 if is_start else first + self._group_size, last + self._group_size)
        return tuple(
            int(self._row(number_of_pass + place // num_shards)[place % num_shards])
            for place in places
        )

    def _row(self, number_of_pass: int) -> NDArray[np.int64]:
        """Return all shards in the order of a pass."""
        rng = generator(self._seed, Purpose.SHARDS, self._source, number_of_pass)
        return rng.permutation(self._present)


class ShuffledSampler:
    """An endless sequence of batches of one source, with random access.

    A *pass* has every image of the source once (or as often as ``repeats`` determines), in its own
    random order. It is divided into batches, the last of which may be smaller. No image is seen
    twice before all were seen once, wherever epochs begin and end.

    The order of the latest pass is cached: 8 bytes per image, twice while the next one is drawn.

    Args:
        images: Positions in the cache of the images that may be drawn, (N,), at least one.
        batch_size: Number of images in a batch over all ranks, 1 or more.
        seed: The run's seed.
        source: Index of the source; each has its own random orders.
        repeats: Determines how often each image is drawn in a pass; None for once.
        windows: Groups of shards to draw from in turn; None to draw from all.
    """

    def __init__(
        self,
        images: NDArray[np.int64],
        *,
        batch_size: int,
        seed: int,
        source: int = 0,
        repeats: RepeatFactorSampler | None = None,
        windows: ShardWindows | None = None,
    ) -> None:
        self._images = images
        self._batch_size = batch_size
        self._seed = seed
        self._source = source
        self._repeats = repeats
        self._windows = windows
        self._kept: tuple[int, NDArray[np.int64]] | None = None

    @property
    def num_draws(self) -> int:
        """Number of images in a pass, counting repeats."""
        return len(self._images) if self._repeats is None else self._repeats.num_draws

    @property
    def batch_size(self) -> int:
        """Number of images in a batch; the last of a pass may have fewer."""
        return self._batch_size

    @property
    def num_batches(self) -> int:
        """Number of batches in a pass."""
        return -(-self.num_draws // self._batch_size)

    def batch(self, number: int) -> NDArray[np.int64]:
        """Return the images of a batch, as positions in the cache, (B,).

        Args:
            number: Counted from 0 over all passes. The first batch of a pass takes longer, as its
                order is drawn (0.2 s for three million images; 2 s with repeats or windows).
        """
        number_of_pass, place = divmod(number, self.num_batches)
        start = place * self._batch_size
        return self._order(number_of_pass)[start : start + self._batch_size]

    def shards_due(self, number: int) -> tuple[int, ...]:
        """Return the shards to start reading at a batch; none without windows.

        Args:
            number: Number of the batch, counted from 0 over all passes.
        """
        if self._windows is None:
            return ()
        number_of_pass, place = divmod(number, self.num_batches)
        start = place * self._batch_size
        stop = min(start + self._batch_size, self.num_draws)
        return self._windows.due(number_of_pass, start, stop, self.num_draws)

    def _order(self, number_of_pass: int) -> NDArray[np.int64]:
        kept = self._kept
        if kept is None or kept[0] != number_of_pass:
            self._kept = kept = (number_of_pass, self._draw(number_of_pass))
        return kept[1]

    def _draw(self, number_of_pass: int) -> NDArray[np.int64]:
        rng = generator(self._seed, Purpose.IMAGES, self._source, number_of_pass)
        if self._repeats is None:
            drawn = np.arange(len(self._images), dtype=np.int64)
        else:
            drawn = self._repeats.draw(rng)
        drawn = rng.permutation(drawn)
        if self._windows is not None:
            drawn = self._windows.grouped(drawn, number_of_pass)
        return self._images[drawn]
