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
    kept = human_bytes(limit_bytes)
    advice = "Raise data.max_local_gb if the disk can take more"
    if window := _largest_window(tar_bytes, limit_bytes):
        advice += f", or draw from fewer shards at a time: --data.shuffle_window {window}"
    if shuffle_window is None:
        logger.warning(
            "The training caches behind URLs have %s of shards, but only %s of them are kept here:"
            " in random order they are fetched again and again. %s.",
            *(human_bytes(all_bytes), kept, advice),
        )
    elif (wanted := _bytes_of_windows(tar_bytes, shuffle_window)) > limit_bytes:
        logger.warning(
            "With data.shuffle_window %d, the shards that are drawn from and those that come next"
            " take up to %s, but only %s are kept here: some are fetched twice. %s.",
            *(shuffle_window, human_bytes(wanted), kept, advice),
        )


def _bytes_of_windows(tar_bytes: Sequence[NDArray[np.int64]], window: int) -> int:
    """Return what two windows of each cache take at most."""
    return sum(int(np.sort(shards)[-2 * window :].sum()) for shards in tar_bytes)


def _largest_window(tar_bytes: Sequence[NDArray[np.int64]], limit_bytes: int) -> int:
    """Return the largest window of which two fit; 0 if none does."""
    window = 0
    while _bytes_of_windows(tar_bytes, window + 1) <= limit_bytes:
        window += 1
    return window
