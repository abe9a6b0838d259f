"""The labels of all regions of a cache, without reading anything else of it."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regionspot.cache.feature_cache import FeatureCache
from regionspot.cache.layout import ARRAY_MEMBERS, REPAIR_COMMAND
from regionspot.cache.regular_files import open_regular
from regionspot.cache.sidecar import ShardLayout
from regionspot.core.errors import CacheCorruptError

_COLUMN = ARRAY_MEMBERS.index("labels.npy")
_LABEL_BYTES = 8
_NUM_THREADS = 8
"""A disk gives its full rate only to many requests at once."""


def read_labels(cache: FeatureCache) -> NDArray[np.int32]:
    """Return the labels of all regions of a cache, image after image in its order.

    Only the labels are read, a page of the disk for each image: no checksum of the image, which is
    compared when training reads it. Instead the labels must add up to the index's counts of each
    class. Of a cache behind a URL every shard is fetched.

    Returns:
        Labels, (sum of ``cache.index.num_regions``,).

    Raises:
        CacheCorruptError: These are not the labels that the index counted.
        StorageError: A shard cannot be fetched.
    """
    index = cache.index
    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        parts = list(threads.map(lambda shard: _of_shard(cache, shard), range(index.num_shards)))
    labels = np.concatenate([np.zeros(0, np.int32), *parts])
    num_classes = len(index.label_counts)
    known = labels[(labels >= 0) & (labels < num_classes)]
    if not np.array_equal(np.bincount(known, minlength=num_classes), index.label_counts):
        raise CacheCorruptError(
            f"{cache.location} holds other labels than its index counted, so a shard is damaged."
            f" List all damage with `regionspot cache verify`, and make it again: {REPAIR_COMMAND}"
        )
    return labels


def _of_shard(cache: FeatureCache, shard: int) -> NDArray[np.int32]:
    sidecar_sha256 = cache.index.sidecar_sha256[shard].decode("ascii")
    with cache.files.tar(shard, sidecar_sha256) as path:
        content = b"".join(_label_bytes(path, cache.index.layout(shard)))
    whole = content[: len(content) // _LABEL_BYTES * _LABEL_BYTES]  # a tar may be cut short
    return np.frombuffer(whole, "<i8").clip(-1, np.iinfo(np.int32).max).astype(np.int32)


def _label_bytes(path: Path, layout: ShardLayout) -> Iterator[bytes]:
    # Not through a memory map: there the system would read a good part of each image along.
    with open_regular(path) as file:
        descriptor = file.fileno()
        if sys.platform == "linux":
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        counts, offsets = layout.num_regions.tolist(), layout.data_offsets[:, _COLUMN].tolist()
        for count, offset in zip(counts, offsets, strict=True):
            yield os.pread(descriptor, count * _LABEL_BYTES, offset)
