"""A cache as a pipeline of the ``webdataset`` package, for training code that is built on it.

Any such code reads the shards as they are. This pipeline also compares every image with its
checksums, and decodes feature maps. RegionSpot's own loader is faster, as it copies from a memory
map.
"""

import io
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from typing_extensions import override

from regionspot.cache.feature_cache import FeatureCache
from regionspot.cache.layout import (
    ARRAY_MEMBERS,
    MASKS,
    REPAIR_ADVICE,
    shard_path,
)
from regionspot.cache.shard_pool import read_indexed_sidecar
from regionspot.cache.sidecar import ShardSidecar
from regionspot.core.errors import CacheCorruptError, ConfigError
from regionspot.core.json_text import load_json
from regionspot.core.text import needs_extra

if TYPE_CHECKING:
    import webdataset

_FEATURE_MAP: Final = ARRAY_MEMBERS[0]
_NUM_KEPT_SIDECARS = 8


def webdataset_pipeline(
    cache: FeatureCache, *, shard_shuffle: bool = False, **options: Any
) -> "webdataset.WebDataset":
    """Return a ``webdataset.WebDataset`` of the images of a cache, to be continued as usual.

    For instance ``webdataset_pipeline(cache).shuffle(1000).to_tuple("feature_map.npy", "json")``.
    Samples have the key ``__key__`` and those of ``cache.manifest.members``: ``json`` is an object,
    ``masks.txt`` a list of COCO's run-length strings, the others are arrays as in `CachedSample`,
    and ``feature_map.npy`` is decoded, (T, D) float16 or float32.

    Args:
        cache: A cache in a folder.
        shard_shuffle: Whether to read the shards in a random order.
        options: Further options of ``webdataset.WebDataset``, such as ``nodesplitter``.

    Raises:
        ConfigError: The cache is behind a URL.
        CacheCorruptError: While iterating: the bytes of an image are not those that were written.
        MissingExtraError: The extra ``webdataset`` is not installed.
    """
    with needs_extra("webdataset"):
        import webdataset
    if cache.is_remote:
        raise ConfigError(
            f"the cache {cache.location} is remote; wanted a folder. Copy it to this machine, or"
            " read its shards with the plain webdataset package."
        )
    shards = range(cache.index.num_shards)
    paths = [str(shard_path(cache.path, shard)) for shard in shards]
    shuffled = len(paths) if shard_shuffle else False
    stock = webdataset.WebDataset(paths, shardshuffle=shuffled, **options)
    return stock.map(_CheckedDecoder(cache, dict(zip(paths, shards, strict=True))))


class _CheckedDecoder:
    """Compares the members of a sample with their checksums, and decodes them."""

    def __init__(self, cache: FeatureCache, shard_of: Mapping[str, int]) -> None:
        self._cache = cache
        self._shard_of = shard_of
        self._members = cache.manifest.members
        self._sidecar = lru_cache(_NUM_KEPT_SIDECARS)(self._read)

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        key, shard = sample["__key__"], self._shard_of[sample["__url__"]]
        sidecar, rows = self._sidecar(shard)
        if key not in rows:
            raise self._damaged(shard, f"the image {key!r} is not in its sidecar")
        members = self._members
        for name, checksum in zip(members, sidecar.checksums[rows[key]].tolist(), strict=True):
            if name not in sample or zlib.crc32(sample[name]) != checksum:
                raise self._damaged(shard, f"{key}.{name} is not what was written")
        decoded = {name: _decoded(name, sample[name]) for name in members}
        codec = self._cache.manifest.feature_codec
        features = codec.decode(codec.to_tensor(decoded[_FEATURE_MAP]))
        is_float16 = decoded[_FEATURE_MAP].dtype == np.float16
        decoded[_FEATURE_MAP] = (features if is_float16 else features.float()).numpy()
        return {"__key__": key, "__url__": sample["__url__"], **decoded}

    @override
    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._cache, self._shard_of)

    def _read(self, shard: int) -> tuple[ShardSidecar, dict[str, int]]:
        sidecar = read_indexed_sidecar(self._cache.path, self._cache.index, shard)
        return sidecar, {key: row for row, key in enumerate(sidecar.keys)}

    def _damaged(self, shard: int, what: str) -> CacheCorruptError:
        path = shard_path(self._cache.path, shard)
        return CacheCorruptError(f"{path} is damaged: {what}. {REPAIR_ADVICE}")


def _decoded(name: str, data: bytes) -> Any:
    if name.endswith(".npy"):
        return np.load(io.BytesIO(data), allow_pickle=False)
    return data.splitlines() if name == MASKS else load_json(data)
