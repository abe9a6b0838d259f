"""Whether shards that are fetched for training stay on this machine until they are needed again."""

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from regionspot.cache import FeatureCache
from regionspot.core.units import human_bytes

logger = logging.getLogger(__name__)


def warn_of_little_room(caches: Sequence[FeatureCache], shuffle_window: int | None) -> None:
    """Warn where shards of caches behind URLs would be fetched again and again.

    Args:
        caches: The training caches; those on this machine take no room.
        shuffle_window: Shards of each that are drawn from at a time; None for all.
    """
    tar_bytes = [cache.index.tar_bytes for cache in caches if cache.is_remote]
    if not tar_bytes:
        return
    limit_bytes = caches[0].limit_bytes
    all_bytes = sum(int(shards.sum()) for shards in tar_bytes)
    if all_bytes <= limit_bytes:
        return
    bytes_by_window = _bytes_of_two_windows(tar_bytes)
    kept = human_bytes(limit_bytes)
    advice = "Raise data.max_local_gb if the disk can take more"
    if fitting := int(np.searchsorted(bytes_by_window, limit_bytes, side="right")):
        advice += f", or draw from fewer shards at a time: --data.shuffle_window {fitting}"
    if shuffle_window is None:
        logger.warning(
            "The training caches behind URLs have %s of shards, but only %s of them are kept here:"
            " in random order they are fetched again and again. %s.",
            *(human_bytes(all_bytes), kept, advice),
        )
    elif shuffle_window > fitting:
        wanted = int(bytes_by_window[:shuffle_window][-1])
        logger.warning(
            "With data.shuffle_window %d, the shards that are drawn from and those that come next"
            " take up to %s, but only %s are kept here: some are fetched twice. %s.",
            *(shuffle_window, human_bytes(wanted), kept, advice),
        )


def _bytes_of_two_windows(tar_bytes: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return what two windows of each cache take at most, for windows of 1, 2, 3, ... shards."""
    num_shards = 2 * np.arange(1, -(-max(map(len, tar_bytes)) // 2) + 1)
    totals = np.zeros(len(num_shards), np.int64)
    for shards in tar_bytes:
        of_largest = np.sort(shards)[::-1].cumsum()
        totals += of_largest[np.minimum(num_shards, len(shards)) - 1]
    return totals
