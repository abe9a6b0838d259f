"""From annotated images to a finished cache, and from a damaged cache to a whole one.

A run may be stopped at any moment: a shard is either absent or whole, and the same configuration
continues with the missing ones. The batch of an image depends only on its place in the plan, so a
run that continues after a crash ends with the same bytes. (Another machine or version of torch may
change the last bit of a number that the models compute. So may another number of CPU threads, if
there are fewer batches than threads.)

To repair a cache, its damaged shards are removed and then written like missing ones.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from typing import cast

from regionspot.cache import (
    MANIFEST,
    SCHEMA_VERSION,
    Problem,
    TextBankStore,
    category_tree_path,
    check_same_manifest,
    exclusive_writer,
    manifest_path,
    one_at_a_time,
    read_category_tree,
    read_manifest,
    read_sidecar,
    remove_shard_locks,
    sharing_writer,
    sidecar_path,
    text_banks_path,
    verify_files,
    write_manifest,
)
from regionspot.core.errors import CacheCorruptError, ConfigError, MissingFileError
from regionspot.core.text import needs_extra
from regionspot.extraction.config import CacheConfig
from regionspot.extraction.destination import check_cache_or_empty, open_destination
from regionspot.extraction.errors import disk_errors_explained
from regionspot.extraction.job import CacheJob, store_category_tree
from regionspot.extraction.probes import measured_manifest
from regionspot.extraction.summary import CacheSummary, PartSummary, WriteCounts
from regionspot.extraction.writing import ShardsWriter, write_claimed

_logger = logging.getLogger(__name__)


def cache_features(config: CacheConfig) -> CacheSummary | PartSummary:
    """Make a cache, or finish one that was begun.

    Args:
        config: What to cache, and where.

    Returns:
        The finished cache; or the state of the cache, if other parts of it are not done.

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
        MissingExtraError: Ray is configured but not installed.
    """
    if config.executor == "ray":
        with needs_extra("ray"):
            from regionspot.extraction.ray_executor import job_on_cluster
        with job_on_cluster(config) as (job, write):
            return run_job(job, write)
    return run_job(CacheJob(config))


def run_job(
    job: CacheJob, write: Callable[[Sequence[int], Sequence[int]], WriteCounts] | None = None
) -> CacheSummary | PartSummary:
    """Write what is missing of a cache.

    Args:
        job: What is cached.
        write: Has other processes write the missing shards, given those and the finished ones. By
            default this process writes them: all, or those of the job's part.

    Returns:
        The finished cache; or the state of the cache, if other parts of it are not done.

    Raises:
        RegionSpotError: See `cache_features`.
    """
    is_shared = write is not None or job.part is not None
    lock = sharing_writer if is_shared else exclusive_writer
    turn = partial(one_at_a_time, job.output_dir) if is_shared else nullcontext
    with disk_errors_explained(job.output_dir), lock(job.output_dir):
        if is_shared:
            check_cache_or_empty(job.output_dir)  # before `turn` makes a folder in it
        with turn():
            _begin(job)
        start = time.perf_counter()
        done, missing = job.done_and_missing()
        counts = write(missing, done) if write else _write_here(job, missing, done)
        seconds = time.perf_counter() - start
        with turn():
            return _finish(job, counts, seconds)


def _begin(job: CacheJob) -> None:
    """Write the manifest and what else precedes the shards; of a begun cache, check them."""
    output_dir = job.output_dir
    job.destination.refresh()
    if manifest_path(output_dir).exists():
        found = read_manifest(output_dir)
        check_same_manifest(found, job.manifest)
        if found.schema_version < SCHEMA_VERSION:
            _logger.warning(
                "%s was begun in format %d and is continued in it: predicted IoUs and file names"
                " are not stored (docs/cache_format.md)",
                output_dir,
                found.schema_version,
            )
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


def _write_here(job: CacheJob, missing: Sequence[int], done: Sequence[int]) -> WriteCounts:
    if job.part is not None:
        return write_claimed(job, filter(job.part.has, missing), done=done)
    completed = {shard for shard in missing if job.destination.completed_meanwhile(shard)}
    return ShardsWriter(job).write(
        job.shard_jobs(shard for shard in missing if shard not in completed),
        done=[*done, *completed],
        after_shard=job.destination.publish_shard,
    )


def _finish(job: CacheJob, counts: WriteCounts, seconds: float) -> CacheSummary | PartSummary:
    """Write the index, unless other parts have shards left to write."""
    if job.part is not None:
        job.destination.refresh()
        done, missing = job.done_and_missing()
        if missing:
            return PartSummary(
                part=str(job.part),
                num_shards=len(done) + len(missing),
                num_shards_done=len(done),
                num_own_missing=sum(map(job.part.has, missing)),
                seconds=seconds,
                **asdict(counts),
            )
    remove_shard_locks(job.output_dir)
    index = job.destination.finish()
    return CacheSummary(
        location=job.destination.location,
        annotations=job.annotated.report,
        name_notes=job.name_notes,
        num_images=len(index),
        num_regions=int(index.num_regions.sum()),
        num_clipped_regions=index.num_clipped_regions,
        num_dropped_regions=index.num_dropped_regions,
        num_quarantined=index.num_quarantined,
        num_shards=index.num_shards,
        num_bytes=job.destination.num_bytes(),
        seconds=seconds,
        **asdict(counts),
    )


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
    with disk_errors_explained(job.output_dir), exclusive_writer(job.output_dir):
        job.destination.refresh()
        problems = _remove_damage(job, retry_quarantined=retry_quarantined)
    return problems, cast("CacheSummary", run_job(job))  # without a part


def _remove_damage(job: CacheJob, *, retry_quarantined: bool) -> list[Problem]:
    """Remove damaged files, so that they count as missing; all others stay as they are.

    A damaged manifest is replaced by the wanted one, which has the same bytes if data set, models
    and settings are the same. If they are not, all shards count as damaged.
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
            _logger.info("shard %d has quarantined images: writing it again", shard)
            whole = False
        if not whole:
            sidecar_path(cache_dir, shard).unlink(missing_ok=True)
    _remove_damaged_extras(job)
    destination.withdraw_removed()
    return problems


def _remove_damaged_extras(job: CacheJob) -> None:
    text_banks, tree = text_banks_path(job.output_dir), category_tree_path(job.output_dir)
    try:
        TextBankStore(text_banks).banks(clip_sha256=job.manifest.fingerprint.clip_weights_sha256)
    except CacheCorruptError:
        text_banks.unlink()
    try:
        read_category_tree(job.output_dir)
    except CacheCorruptError:
        tree.unlink()
