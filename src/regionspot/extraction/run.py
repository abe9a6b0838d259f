"""From annotated images to a finished cache, and from a damaged cache to a whole one.

A run may be stopped at any moment: a shard is either absent or whole, and the same configuration
continues with the missing ones. The batch of an image depends on its place in the plan alone, so
that a run continued after a crash ends with the same bytes. (Another machine or version of torch
may change the last bit of a number that the models compute. So may another number of CPU threads,
if there are fewer batches than threads.)

To repair a cache, its damaged shards are removed and then written like missing ones.
"""

import logging
import time
from pathlib import Path

from regionspot.cache import (
    MANIFEST,
    Manifest,
    Problem,
    TextBankStore,
    category_tree_path,
    check_same_manifest,
    exclusive_writer,
    manifest_path,
    read_category_tree,
    read_manifest,
    read_sidecar,
    sidecar_path,
    text_banks_path,
    verify_files,
    write_manifest,
)
from regionspot.core.errors import CacheCorruptError, ConfigError, MissingFileError
from regionspot.core.text import needs_extra
from regionspot.extraction.config import CacheConfig
from regionspot.extraction.destination import check_cache_or_empty, open_destination
from regionspot.extraction.errors import told_disk_errors
from regionspot.extraction.executors import Executor, PartExecutor, SummaryT_co, WholeExecutor
from regionspot.extraction.job import CacheJob, store_category_tree
from regionspot.extraction.probes import measured_manifest
from regionspot.extraction.summary import CacheSummary, PartSummary

_logger = logging.getLogger(__name__)


def remove_damage(job: CacheJob, *, retry_quarantined: bool) -> list[Problem]:
    """Remove damaged files, so that they count as missing; all others stay as they are.

    A damaged manifest is replaced by the wanted one, which has the same bytes if data set, models
    and settings are the same. If they are not, all shards count as damaged.

    Args:
        job: What made the cache. No other process may be writing to its destination.
        retry_quarantined: Also remove shards with quarantined images, whose files may have been
            repaired.

    Returns:
        The damage found.

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


def cache_features(config: CacheConfig) -> CacheSummary | PartSummary:
    """Make a cache, or finish one that was begun.

    Args:
        config: What to cache, and where.

    Returns:
        The finished cache; or, for a part that does not end last, the state of the cache.

    Raises:
        MissingFileError: The annotation file, the folder of images or a weights file is missing.
        AnnotationError: The annotations are in another format, or hold nothing to cache.
        CacheMismatchError: The folder holds a cache of other images, models or settings.
        TooManyQuarantinedError: More images are unusable than ``max_quarantined_share``, or
            ``max_quarantined_in_a_row`` follow each other.
        DiskError: The folder cannot be written to, or its disk is full.
        ConfigError: Another process writes there, or an option cannot work.
        WeightsError: Weights do not fit their model, or give numbers that are not finite.
        ClusterError: Workers of the Ray cluster die again and again.
        MissingExtraError: The cluster's package is not installed.
    """
    if config.executor == "ray":
        with needs_extra("ray"):
            from regionspot.extraction.ray_executor import ray_executor
        with ray_executor(config) as executor:
            return run_job(executor)
    job = CacheJob(config)
    return run_job(WholeExecutor(job) if job.part is None else PartExecutor(job, job.part))


def repair_cache(
    config: CacheConfig, *, retry_quarantined: bool = False
) -> tuple[list[Problem], CacheSummary]:
    """Find damage in a cache by reading every byte, and write damaged files again.

    Whole shards are not touched, so the cache ends with the bytes that it had before the damage.

    Args:
        config: What made the cache.
        retry_quarantined: Also write shards with quarantined images again, in case the files of
            these images were repaired.

    Returns:
        The damage found, and the finished cache.

    Raises:
        MissingFileError: The folder is no cache. Else as `cache_features`.
        ConfigError: A part or a cluster is configured.
    """
    if config.part is not None:
        raise ConfigError(
            f"--part is {config.part}, but a cache is repaired as a whole: leave it out."
        )
    if config.executor != "local":
        raise ConfigError(
            f"--executor is {config.executor}, but a cache is repaired in one process: leave it"
            " out."
        )
    if not open_destination(config.output_dir, config.staging_dir).has_manifest():
        raise MissingFileError(
            f"{config.output_dir} has no {MANIFEST}, so there is no cache to repair."
            " Set --output_dir to the cache's folder."
        )
    job = CacheJob(config)
    with told_disk_errors(job.output_dir), exclusive_writer(job.output_dir):
        job.destination.refresh()
        problems = remove_damage(job, retry_quarantined=retry_quarantined)
    return problems, run_job(WholeExecutor(job))


def run_job(executor: Executor[SummaryT_co]) -> SummaryT_co:
    """Write what is missing of a cache.

    Args:
        executor: What to cache, and who writes the shards.

    Returns:
        What there is now.

    Raises:
        RegionSpotError: See `cache_features`.
    """
    job = executor.job
    with told_disk_errors(job.output_dir), executor.lock():
        with executor.turn():
            _begin(job)
        start = time.perf_counter()
        done, missing = job.done_and_missing()
        counts = executor.write(missing, done=done)
        seconds = time.perf_counter() - start
        with executor.turn():
            return executor.finish(counts, seconds)


def _begin(job: CacheJob) -> None:
    """Write the manifest and what else precedes the shards; of a begun cache, check them."""
    output_dir = job.output_dir
    job.destination.refresh()
    if manifest_path(output_dir).exists():
        check_same_manifest(read_manifest(output_dir), job.manifest)
    else:
        check_cache_or_empty(output_dir)
        write_manifest(output_dir, measured_manifest(job))
    _store_text_banks(job)
    if job.config.annotations.tree_path is not None:
        store_category_tree(output_dir, job.config.annotations.tree_path, job.annotated)
    job.destination.publish_manifest()


def _store_text_banks(job: CacheJob) -> None:
    store = TextBankStore(text_banks_path(job.output_dir))
    vocabulary, clip_sha256 = job.manifest.vocabulary, job.models.clip_sha256
    for name in job.config.templates:
        if store.get(vocabulary, templates=name, clip_sha256=clip_sha256) is None:
            bank = job.text_bank(name)
            store.put(vocabulary, bank, templates=name, clip_sha256=clip_sha256)
            _logger.info("embedded %d class names with the templates %s", len(vocabulary), name)
