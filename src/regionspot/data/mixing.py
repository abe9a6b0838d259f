"""How many batches of an epoch are of which source."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, TypeAlias

from regionspot.core.errors import ConfigError

Ratios: TypeAlias = Sequence[float] | Literal["by_size"] | None
"""How often each source has its turn: a weight each, by their sizes, or equally often."""


def check_ratios(ratios: Ratios, num_sources: int) -> None:
    """Refuse ratios that are neither a positive weight for each source nor a word that is known.

    Raises:
        ConfigError: They are not.
    """
    if ratios is None or ratios == "by_size":
        return
    weights_are_usable = all(isinstance(r, (int, float)) and 0 < r < float("inf") for r in ratios)
    if len(ratios) != num_sources or not weights_are_usable:
        raise ConfigError(
            f"data.ratios is {ratios!r}; wanted one positive weight for each of the {num_sources}"
            " training caches, by_size, or null for equal ones."
        )


def batches_by_source(
    num_images: Sequence[int], batch_sizes: Sequence[int], ratios: Ratios
) -> tuple[int, ...]:
    """Return how many batches of each source an epoch has, the same in every epoch.

    By size they are those of one pass through each source: an epoch has every image once.
    Otherwise an epoch has as many batches as it takes to see as many images as all sources hold
    together, and these are split by the weights, with the largest remainders rounded up.

    Args:
        num_images: Images of a pass through each source.
        batch_sizes: Images of a batch of each source.
        ratios: The weights, see `check_ratios`.

    Returns:
        Batches of each source, 1 or more.
    """
    if ratios == "by_size":
        pairs = zip(num_images, batch_sizes, strict=True)
        return tuple(-(-images // size) for images, size in pairs)
    # As decimals, as they were written: three times 0.1 is 0.3.
    weights = [Fraction(str(weight)) for weight in ratios or [1.0] * len(num_images)]
    images_of_turns = sum(w * size for w, size in zip(weights, batch_sizes, strict=True))
    num_batches = -(-sum(num_images) * sum(weights) // images_of_turns)
    quotas = [num_batches * weight / sum(weights) for weight in weights]
    counts = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(counts)), key=lambda i: counts[i] - quotas[i])
    for source in by_remainder[: int(num_batches) - sum(counts)]:
        counts[source] += 1
    # A source is never left out, though that may make an epoch of a few batches longer.
    return tuple(max(count, 1) for count in counts)
