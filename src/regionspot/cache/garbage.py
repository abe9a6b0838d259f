"""Files in a cache's folder that belong to no cache: what crashes and former versions left."""

from pathlib import Path

from regionspot.cache.layout import (
    category_tree_path,
    index_path,
    manifest_path,
    quarantine_path,
    shard_path,
    shards_path,
    sidecar_path,
    text_banks_path,
)
from regionspot.cache.manifest import read_manifest


def find_garbage(cache_dir: Path) -> list[Path]:
    """Return the files that neither the manifest nor the format names, sorted.

    These are temporary files of crashes, shards beyond the plan, and strangers. A tar without its
    sidecar, which was not finished, is not garbage: the command that makes the cache replaces it.

    Raises:
        MissingFileError: The folder is no cache.
        CacheMismatchError: It is of another schema version.
        CacheCorruptError: Its manifest is damaged, so that nobody knows what belongs to it.
    """
    plan = read_manifest(cache_dir).plan
    named = {
        path(cache_dir)
        for path in (
            manifest_path,
            index_path,
            quarantine_path,
            text_banks_path,
            category_tree_path,
        )
    }
    for shard in range(plan.num_shards):
        named |= {shard_path(cache_dir, shard), sidecar_path(cache_dir, shard)}
    found = [path for path in cache_dir.iterdir() if not path.is_dir()]
    if shards_path(cache_dir).is_dir():
        found += [path for path in shards_path(cache_dir).rglob("*") if not path.is_dir()]
    return sorted(set(found) - named)
