"""Takes damaged parts of a cache away, so that the command that makes it makes them again."""

import logging
from pathlib import Path

from regionspot.cache import (
    Manifest,
    Problem,
    TextBankStore,
    category_tree_path,
    check_same_manifest,
    read_category_tree,
    read_manifest,
    read_sidecar,
    sidecar_path,
    text_banks_path,
    verify_files,
    write_manifest,
)
from regionspot.core.errors import CacheCorruptError
from regionspot.extraction.job import CacheJob
from regionspot.extraction.stored_error import measured_manifest

_logger = logging.getLogger(__name__)


def take_away_damage(job: CacheJob, *, retry_quarantined: bool) -> list[Problem]:
    """Remove what is damaged; whole parts stay as they are.

    A damaged manifest is replaced by the wanted one, which has the same bytes if it is of the same
    data set, models and settings; shards of another one then count as damaged.

    Args:
        job: What made the cache. Nobody else may be writing to its destination.
        retry_quarantined: Also remove shards with quarantined images, whose files may have been
            mended.

    Returns:
        What was found damaged.

    Raises:
        MissingFileError: The folder is no cache.
        CacheMismatchError: It is a cache of other images, models or settings than wanted.
    """
    destination, wanted = job.destination, job.manifest
    cache_dir = destination.folder
    try:
        check_same_manifest(read_manifest(cache_dir), wanted)
        problems = verify_files(destination.files)
    except CacheCorruptError:
        problems = verify_files(destination.files)
        write_manifest(cache_dir, measured_manifest(job))
    damaged = {problem.shard for problem in problems if problem.shard is not None}
    for shard in range(wanted.plan.num_shards):
        whole = shard not in damaged and destination.is_done(shard)
        if whole and retry_quarantined and read_sidecar(cache_dir, shard).quarantined:
            _logger.info("shard %d has quarantined images: making it again", shard)
            whole = False
        if not whole:
            sidecar_path(cache_dir, shard).unlink(missing_ok=True)
    _remove_damaged_extras(cache_dir, wanted)
    destination.withdraw_removed()
    return problems


def _remove_damaged_extras(cache_dir: Path, manifest: Manifest) -> None:
    banks = TextBankStore(text_banks_path(cache_dir))
    try:
        banks.banks(clip_sha256=manifest.fingerprint.clip_weights_sha256)
    except CacheCorruptError:
        text_banks_path(cache_dir).unlink()
    try:
        read_category_tree(cache_dir)
    except CacheCorruptError:
        category_tree_path(cache_dir).unlink()
