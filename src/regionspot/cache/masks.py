"""Decodes the masks that a cache stores, which may come from a stranger."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from regionspot.cache.layout import REPAIR_ADVICE
from regionspot.core.errors import CacheCorruptError
from regionspot.core.run_lengths import draw_runs, run_lengths


def decode_masks(
    masks_rle: Sequence[bytes], size_hw: tuple[int, int]
) -> Iterator[NDArray[np.bool_]]:
    """Yield the masks of an image's regions one by one, (H, W) bool each.

    Args:
        masks_rle: Their counts, `CachedSample.masks_rle`.
        size_hw: Height and width of the image, `CachedSample.size_hw`.

    Raises:
        CacheCorruptError: Counts do not describe exactly the image's pixels.
    """
    for region, counts in enumerate(masks_rle):
        yield draw_runs(_checked(counts, region, size_hw), size_hw)


def check_masks(masks_rle: Sequence[bytes], size_hw: tuple[int, int]) -> None:
    """Check masks before they go to pycocotools, which reads and writes out of bounds otherwise.

    Arguments and errors as in `decode_masks`.
    """
    for region, counts in enumerate(masks_rle):
        _checked(counts, region, size_hw)


def _checked(counts: bytes, region: int, size_hw: tuple[int, int]) -> list[int]:
    lengths = run_lengths(counts.decode("latin-1"), size_hw)
    if lengths is None:
        raise CacheCorruptError(
            f"the mask of region {region}, {counts[:40]!r}, does not describe the pixels of an"
            f" image of {size_hw[1]} x {size_hw[0]}: the cache was not written by this library. Do"
            f" not trust where it came from. {REPAIR_ADVICE}."
        )
    return lengths
