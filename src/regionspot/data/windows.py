"""The windowed shuffle: random order for places where random access is slow."""

import numpy as np
from numpy.typing import NDArray

from regionspot.data.randomness import Purpose, generator


class ShardWindows:
    """Cuts the shards of a source, in random order, into groups that are gone through in turn.

    Only as many shards are drawn from at a time as a group has, and while that is done the shards
    of the next one can be read from front to end. That costs randomness: a batch is drawn from the
    images of a group, which lie in the cache in the order of the annotation file, instead of from
    all images. Which shards form a group is drawn anew in every pass.

    Args:
        shards: The shard of each image of the source, (N,).
        group_size: Shards of a group, 1 or more; the last group of a pass may have fewer.
        seed: The run's seed.
        source: Number of the source.
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
        """Bring images of the same group together and keep their order within it.

        Args:
            positions: Positions in the source, (D,), in random order.
            number_of_pass: Decides which shards form a group, and which group comes first.

        Returns:
            The same positions by group, (D,).
        """
        group_of_shard = np.zeros(int(self._present[-1]) + 1, np.int64)
        row = self._row(number_of_pass)
        group_of_shard[row] = np.arange(len(row)) // self._group_size
        groups = group_of_shard[self._shards[positions]]
        return positions[np.argsort(groups, kind="stable")]

    def due(self, number_of_pass: int, start: int, stop: int, num_draws: int) -> tuple[int, ...]:
        """Return the shards to begin reading while some images of a pass are drawn.

        They are those a group further on, in even steps, so that a disk is always busy and never
        more than a group ahead. At the end of a pass they are the first ones of the next. With the
        first images of all, they are those of the first group, too.

        Args:
            number_of_pass: Counted from 0.
            start: How many images of the pass were drawn before.
            stop: How many will have been drawn after these.
            num_draws: Images of the pass.
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
        """Return all shards in the order of a pass, one group after the other."""
        rng = generator(self._seed, Purpose.SHARDS, self._source, number_of_pass)
        return rng.permutation(self._present)
