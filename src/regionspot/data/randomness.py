"""Random generators with a purpose each, all started by the seed of a run."""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What random numbers are for, so that no two purposes share a stream of them."""

    TURNS = 1
    """Which source has its turn when, in an epoch."""
    IMAGES = 2
    """The order of a source's images in a pass."""
    REGIONS = 3
    """Which regions are used of an image with too many."""
    SHARDS = 4
    """The order of a source's shards in a pass."""


def generator(seed: int, purpose: Purpose, *numbers: int) -> np.random.Generator:
    """Return a generator whose numbers depend on the arguments alone.

    The purpose comes first and each purpose has as many ``numbers`` everywhere: numpy fills a short
    seed up with zeros, so that ``(1, 2)`` and ``(1, 2, 0)`` would start the same stream.

    Args:
        seed: The run's seed, 0 or more.
        purpose: What the random numbers are for.
        numbers: What they are for more exactly, such as an epoch.
    """
    return np.random.default_rng([purpose, seed, *numbers])
