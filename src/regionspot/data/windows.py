"""The windowed shuffle: random order for places where random access is slow."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ShardWindows:
    """Cuts the shards of a source, in random order, into groups that are gone through in turn.

    Only as many shards are read at a time as a group has, and each of them once a pass. That costs
    randomness: a batch is drawn from the images of a group, which lie in the cache in the order of
    the annotation file, instead of from all images. Which shards form a group is drawn anew in
    every pass.
    """

    shards: NDArray[np.integer]
    """The shard of each image of the source, (N,)."""
    num_shards: int
    """Shards of a group, 1 or more."""

    def grouped(self, positions: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Bring images of the same group together and keep their order within it.

        Args:
            positions: Positions in the source, (D,), in random order.
            rng: Draws which shards form a group, and which group comes first.

        Returns:
            The same positions by group, (D,).
        """
        present = np.unique(self.shards)
        group_of_shard = np.zeros(int(present[-1]) + 1, np.int64)
        group_of_shard[rng.permutation(present)] = np.arange(len(present)) // self.num_shards
        groups = group_of_shard[self.shards[positions]]
        return positions[np.argsort(groups, kind="stable")]
