"""From annotated images to a finished cache, in one process.

A run may be stopped at any moment: shards are absent or whole, and the same configuration goes on
with those that are missing. An image's batch is fixed by its place in the plan, not by where a run
started, so that a run after a crash ends in the same bytes. (Another machine or another version
of torch may change the last bit of a number that the models compute; so may another number of
threads of a CPU, if there are fewer batches than threads.)

Takes damaged parts of a cache away, so that the command that makes it makes them again.
"""

import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from regionspot.cache import (
    MANIFEST,
    CacheIndex,
    Manifest,
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
    shards_path,
    sharing_writer,
    sidecar_path,
    text_banks_path,
    verify_files,
    write_manifest,
)
from regionspot.core.errors import CacheCorruptError, ConfigError, MissingFileError
from regionspot.core.text import needs_extra
from regionspot.extraction.claims import ShardClaims
from regionspot.extraction.config import CacheConfig
from regionspot.extraction.destination import open_destination
from regionspot.extraction.errors import DiskError, told_disk_errors
from regionspot.extraction.job import CacheJob, store_category_tree
from regionspot.extraction.parts import Part
from regionspot.extraction.probes import measured_manifest
from regionspot.extraction.summary import CacheSummary, PartSummary
from regionspot.extraction.writing import ShardsWriter

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


def cache_features(config: CacheConfig) -> CacheSummary | PartSummary:
    """Make a cache, or finish one that was begun.

    Args:
        config: What to cache, and where.

    Returns:
        What lies there now; of a part, how far it is if other parts are not done yet.

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
        return _run_on_cluster(config)
    return run_job(CacheJob(config))


def repair_cache(
    config: CacheConfig, *, retry_quarantined: bool = False
) -> tuple[list[Problem], CacheSummary]:
    """Find damage in a cache by reading every byte, and make again what is damaged.

    Whole shards are not touched, so the cache ends with the bytes that it had before the damage.

    Args:
        config: What made the cache.
        retry_quarantined: Whether to make shards with quarantined images again, too, for the case
            that these images were mended.

    Returns:
        What was found, and what lies there now.

    Raises:
        MissingFileError: The folder is no cache. Else as `cache_features`.
        ConfigError: Only a part is to be made, or a cluster is to do it.
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
        problems = take_away_damage(job, retry_quarantined=retry_quarantined)
    return problems, _run_whole(job)


def run_job(job: CacheJob) -> CacheSummary | PartSummary:
    """Write what is missing of a cache; see `cache_features`."""
    if job.part is not None:
        return _run_part(job, job.part)
    return _run_whole(job)


def _run_whole(job: CacheJob) -> CacheSummary:
    output_dir = job.output_dir
    with told_disk_errors(output_dir), exclusive_writer(output_dir):
        _begin(job)
        start = time.perf_counter()
        done, todo = _done_and_todo(job)
        done += [shard for shard in todo if job.destination.completed_meanwhile(shard)]
        writer = ShardsWriter(job)
        num_written = writer.write(
            job.shard_jobs(sorted(set(todo) - set(done))),
            done=done,
            after_shard=job.destination.publish_shard,
        )
        seconds = time.perf_counter() - start
        remove_shard_locks(output_dir)
        index = job.destination.finish()
    return _summary(job, writer, index, num_new_images=num_written, seconds=seconds)


def _run_part(job: CacheJob, part: Part) -> CacheSummary | PartSummary:
    """Write the part's missing shards, and finish the cache if no other part has anything left."""
    output_dir = job.output_dir
    with told_disk_errors(output_dir), sharing_writer(output_dir):
        check_cache_or_empty(output_dir)
        with one_at_a_time(output_dir):
            _begin(job)
        start = time.perf_counter()
        done, todo = _done_and_todo(job)
        writer = ShardsWriter(job)
        with ShardClaims(job.destination) as claims:
            num_written = writer.write(
                claims.claimed(job.shard_jobs(filter(part.has, todo))),
                done=done,
                after_shard=claims.done,
            )
        seconds = time.perf_counter() - start
        with one_at_a_time(output_dir):
            job.destination.refresh()
            done, todo = _done_and_todo(job)
            if not todo:
                remove_shard_locks(output_dir)
                # Still alone: a part that ends at the same moment is about to write the index, too.
                index = job.destination.finish()
                return _summary(job, writer, index, num_new_images=num_written, seconds=seconds)
    return PartSummary(
        part=str(part),
        num_shards=len(done) + len(todo),
        num_shards_done=len(done),
        num_own_missing=sum(map(part.has, todo)),
        num_reused_maps=writer.num_reused_maps,
        num_reused_tokens=writer.num_reused_tokens,
        num_ignored_orientations=writer.num_ignored_orientations,
        num_new_images=num_written,
        seconds=seconds,
    )


def _run_on_cluster(config: CacheConfig) -> CacheSummary:
    """Let the machines of a Ray cluster write the missing shards, and finish the cache."""
    with needs_extra("ray"):
        from regionspot.extraction.ray_executor import (
            ShardDispatcher,
            connected_cluster,
            worker_source,
        )
    output_dir = Path(config.output_dir)
    with connected_cluster(config.ray, device=config.device) as shape:
        # What the workers have need not be here: the text banks are made with what is.
        device = "cpu" if config.device == "cpu" else "auto"
        job = CacheJob(replace(config, device=device))
        with told_disk_errors(output_dir), sharing_writer(output_dir):
            check_cache_or_empty(output_dir)
            with one_at_a_time(output_dir):
                _begin(job)
            start = time.perf_counter()
            done, todo = _done_and_todo(job)
            with worker_source(config, job.annotated, shape) as source:
                dispatcher = ShardDispatcher(job, source)
                num_written = dispatcher.write(todo, done=done)
            seconds = time.perf_counter() - start
            with one_at_a_time(output_dir):
                remove_shard_locks(output_dir)
                index = job.destination.finish()
                return _summary(job, dispatcher, index, num_new_images=num_written, seconds=seconds)


def _done_and_todo(job: CacheJob) -> tuple[list[int], list[int]]:
    is_done = [job.destination.is_done(shard) for shard in range(job.manifest.plan.num_shards)]
    done = [shard for shard, complete in enumerate(is_done) if complete]
    return done, [shard for shard, complete in enumerate(is_done) if not complete]


class _Counts(Protocol):
    num_reused_maps: int
    num_reused_tokens: int
    num_ignored_orientations: int


def _summary(
    job: CacheJob,
    writer: _Counts,
    index: CacheIndex,
    *,
    num_new_images: int,
    seconds: float,
) -> CacheSummary:
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
        num_new_images=num_new_images,
        num_reused_maps=writer.num_reused_maps,
        num_reused_tokens=writer.num_reused_tokens,
        num_ignored_orientations=writer.num_ignored_orientations,
        seconds=seconds,
    )


def _begin(job: CacheJob) -> None:
    """Write what comes before the shards, or check that it is what a begun cache has."""
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


def check_cache_or_empty(output_dir: Path) -> None:
    """Refuse a folder of something else, before anything is written to it.

    Raises:
        DiskError: The folder holds files, but no cache.
    """
    if manifest_path(output_dir).exists():
        return
    # A crash may have left a manifest that was not renamed yet, or a folder for no shard yet.
    leftovers = {f"{manifest_path(output_dir).name}.tmp"}
    shards = shards_path(output_dir)
    if shards.is_dir() and not any(shards.iterdir()):
        leftovers.add(shards.name)
    strange = sorted(entry.name for entry in output_dir.iterdir() if entry.name not in leftovers)
    if strange:
        raise DiskError(
            f"{output_dir} is no cache, and not empty either: it holds {', '.join(strange[:5])}."
            " Set --output_dir to a new folder."
        )


def _store_text_banks(job: CacheJob) -> None:
    store = TextBankStore(text_banks_path(job.output_dir))
    vocabulary, clip_sha256 = job.manifest.vocabulary, job.models.clip_sha256
    for name in job.config.templates:
        if store.get(vocabulary, templates=name, clip_sha256=clip_sha256) is None:
            bank = job.text_bank(name)
            store.put(vocabulary, bank, templates=name, clip_sha256=clip_sha256)
            _logger.info("embedded %d class names with the templates %s", len(vocabulary), name)
