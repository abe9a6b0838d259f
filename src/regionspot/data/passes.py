"""The images of one source, again and again, each time in a new random order."""

import numpy as np
from numpy.typing import NDArray

from regionspot.data.randomness import Purpose, generator
from regionspot.data.repeats import RepeatedDraws
from regionspot.data.windows import ShardWindows


class ShuffledPasses:
    """An endless row of batches of one source; any of them can be asked for.

    A *pass* has every image of the source once (or as often as ``repeats`` says), in an order of
    its own. It is cut into batches, the last one smaller; then the next pass begins. So no image
    is seen a second time before all have been seen, wherever epochs begin and end.

    The order of the latest pass is kept: 8 bytes an image, twice while the next one is drawn.

    Args:
        images: Positions in the cache of the images that may be drawn, (N,), at least one.
        batch_size: Images of a batch over all ranks, 1 or more.
        seed: The run's seed.
        source: Number of the source: each has random orders of its own.
        repeats: How often each image is drawn in a pass; None for once.
        windows: Which images are read together; None for any with any.
    """

    def __init__(
        self,
        images: NDArray[np.int64],
        *,
        batch_size: int,
        seed: int,
        source: int = 0,
        repeats: RepeatedDraws | None = None,
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
        """Images of a pass, counted as often as they are drawn."""
        return len(self._images) if self._repeats is None else self._repeats.num_draws

    @property
    def batch_size(self) -> int:
        """Images of a batch; the last of a pass may have fewer."""
        return self._batch_size

    @property
    def num_batches(self) -> int:
        """Batches of a pass."""
        return -(-self.num_draws // self._batch_size)

    def batch(self, number: int) -> NDArray[np.int64]:
        """Return the images of a batch, as positions in the cache, (B,).

        Args:
            number: Counted from 0 over all passes. Where a pass begins its order is drawn, which
                takes a moment (for three million images 0.2 s; 2 s with repeats or windows).
        """
        number_of_pass, place = divmod(number, self.num_batches)
        start = place * self._batch_size
        return self._order(number_of_pass)[start : start + self._batch_size]

    def shards_due(self, number: int) -> tuple[int, ...]:
        """Return which shards to begin reading at a batch; none without windows.

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
