"""Repeat-factor sampling: images of rare classes are seen more often.

Gupta et al., "LVIS: A Dataset for Large Vocabulary Instance Segmentation" (arXiv 1908.03195,
"repeat factor sampling"): a class of which a share f of the images holds a region has the repeat
factor max(1, sqrt(t / f)), with a threshold t; an image has the largest of its classes' factors.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_UNIT = 1 << 32
"""Factors are counted in units of 2^-32: sums over millions of images are exact then, hence the
same on every machine."""
_IMAGES_AT_ONCE = 100_000


class RepeatedDraws:
    """Draws every image as often as its factor says, on average over passes.

    In each pass an image occurs its factor rounded down or up times, by systematic sampling: with
    the factors laid end to end, an image is drawn at every whole number, counted from a random
    start, that falls into its part. The factors are scaled up a little, so that they
    add up to a whole number and all passes are equally long.

    Args:
        factors: Of each image, (N,), 1 or more.
    """

    def __init__(self, factors: NDArray[np.float64]) -> None:
        units = np.floor(factors * _UNIT).astype(np.int64)
        total = int(units.sum())
        self._num_draws = -(-total // _UNIT)
        units = np.floor(units * (self._num_draws * _UNIT / total)).astype(np.int64)
        # Rounding left out less than one unit an image, together less than a thousandth of a draw.
        units[np.argmax(units)] += self._num_draws * _UNIT - int(units.sum())
        self._units = units

    @property
    def num_draws(self) -> int:
        """Draws of a pass, the same for all."""
        return self._num_draws

    def draw(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the positions of the images of one pass, (num_draws,), copies side by side."""
        # In a random row, or neighbours would always be drawn in the same passes.
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
        labels: Labels of all regions, image after image, (sum of ``num_regions``,).
        num_regions: Regions of each image, (N,), 1 or more.
        num_classes: Classes of the vocabulary.
        threshold: Classes that fewer than this share of the images hold are seen more often.

    Returns:
        Factors, (N,), 1 or more.
    """
    num_images_of_class = np.zeros(num_classes, np.int64)
    for block, counts in _blocks(labels, num_regions):
        image = np.repeat(np.arange(len(counts)), counts)
        pairs = np.sort(image * num_classes + block)  # np.unique takes 60 times as long
        distinct = pairs[np.diff(pairs, prepend=-1) > 0]
        num_images_of_class += np.bincount(distinct % num_classes, minlength=num_classes)
    # A class that occurs nowhere has no image to repeat.
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
    """Yield labels and numbers of regions of some images after the other, to bound the memory."""
    ends = np.cumsum(num_regions, dtype=np.int64)
    for first in range(0, len(num_regions), _IMAGES_AT_ONCE):
        counts = num_regions[first : first + _IMAGES_AT_ONCE].astype(np.int64)
        start = int(ends[first] - counts[0])
        yield labels[start : start + int(counts.sum())], counts
