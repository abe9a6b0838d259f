"""Files in a cache's folder that caching has left there, but that are no part of the cache."""

import re
from pathlib import Path

from regionspot.cache.cache_files import CacheFiles
from regionspot.cache.layout import shards_path
from regionspot.cache.manifest import read_manifest
from regionspot.cache.remote_files import EXTRAS, MANIFEST, sidecar_name, tar_name

_SHARD = re.compile(rf"{shards_path(Path()).name}/\d{{6,}}\.(tar|json|lock)")


def find_garbage(files: CacheFiles) -> dict[str, int]:
    """Return the files that are left over: their sizes, sorted by name.

    These are temporary files of crashes, shards beyond the plan and locks. A tar without its
    sidecar, which was not finished, is not garbage: the command that makes the cache replaces it.
    Nor is a file of another name, which caching did not make.

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
    return {
        name: num_bytes
        for name, num_bytes in sorted(files.sizes().items())
        if name not in named and _is_ours(name.removesuffix(".tmp"))
    }


def _is_ours(name: str) -> bool:
    return name in {MANIFEST, *EXTRAS} or _SHARD.fullmatch(name) is not None
