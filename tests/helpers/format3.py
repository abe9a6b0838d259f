"""Caches in format 3: one that was written before format 4, and any other one turned into one.

The former is the cache of ``tests/unit/cache/conftest.py``.
"""

import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

from regionspot.cache import FeatureCache, build_index, read_sidecar, write_manifest, write_shard

ZIPPED = Path(__file__).parents[1] / "data" / "caches" / "format3.zip"


def unpack_format3(folder: Path) -> Path:
    """Unpack the stored cache into a folder, and return it."""
    with zipfile.ZipFile(ZIPPED) as file:
        file.extractall(folder)
    return folder


def as_format3(cache_dir: Path, folder: Path) -> Path:
    """Write a cache in format 3 into a folder, and return it."""
    with FeatureCache.open(cache_dir) as cache:
        write_manifest(folder, replace(cache.manifest, schema_version=3, masks=False))
        starts = cache.index.shard_starts.tolist()
        for shard in range(cache.index.num_shards):
            samples = (cache.sample(index) for index in range(starts[shard], starts[shard + 1]))
            write_shard(folder, shard, samples, read_sidecar(cache_dir, shard).quarantined)
    build_index(folder)
    shutil.copy(cache_dir / "text_banks.h5", folder)
    return folder
