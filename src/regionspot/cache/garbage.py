"""Files in a cache's folder that belong to no cache: what crashes and former versions left."""

from pathlib import Path

from regionspot.cache.cache_files import CacheFiles
from regionspot.cache.layout import shards_path
from regionspot.cache.manifest import read_manifest
from regionspot.cache.remote_files import EXTRAS, MANIFEST, sidecar_name, tar_name


def find_garbage(files: CacheFiles) -> dict[str, int]:
    """Return the files that neither the manifest nor the format names: their sizes, sorted by name.

    These are temporary files of crashes, shards beyond the plan, and strangers. A tar without its
    sidecar, which was not finished, is not garbage: the command that makes the cache replaces it.

    Args:
        files: The cache's files.

    Raises:
        MissingFileError: The folder is no cache.
        CacheMismatchError: It is of another schema version.
        CacheCorruptError: Its manifest is damaged, so that nobody knows what belongs to it.
    """
    plan = read_manifest(files.folder).plan
    named = {MANIFEST, *EXTRAS}
    for shard in range(plan.num_shards):
        named |= {tar_name(shard), sidecar_name(shard)}
    shards = shards_path(Path()).name
    return {
        name: num_bytes
        for name, num_bytes in sorted(files.sizes().items())
        if name not in named and Path(name).parts[0] in {name, shards}  # not in folders of others
    }
