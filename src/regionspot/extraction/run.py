"""From annotated images to a finished cache, in one process.

A run may be stopped at any moment: shards are absent or whole, and the same configuration goes on
with those that are missing. An image's batch is fixed by its place in the plan, not by where a run
started, so that a run after a crash ends in the same bytes. (Another machine, another version of
torch or another number of threads may change the last bit of a number that the models compute.)
"""

import errno
import itertools
import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import torch
from tqdm import tqdm

from regionspot.annotations import AnnotatedImages
from regionspot.backbones import FrozenModels, load_frozen_models
from regionspot.cache import (
    CachedSample,
    FeatureCache,
    Manifest,
    Plan,
    Problem,
    QuarantinedImage,
    TextBankStore,
    build_index,
    check_same_manifest,
    exclusive_writer,
    manifest_path,
    read_manifest,
    read_sidecar,
    shard_is_complete,
    text_banks_path,
    write_manifest,
    write_shard,
)
from regionspot.core.errors import MissingFileError
from regionspot.extraction.config import CacheConfig
from regionspot.extraction.errors import DiskError, TooManyQuarantinedError
from regionspot.extraction.featurize import featurize
from regionspot.extraction.locate import RegionLocator
from regionspot.extraction.prepare import (
    Preparation,
    PreparedBatch,
    ShardJob,
    prepared_batches,
)
from regionspot.extraction.regions import describe_proposals, read_regions, store_category_tree
from regionspot.extraction.repair import take_away_damage
from regionspot.extraction.summary import CacheSummary

_logger = logging.getLogger(__name__)

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
_NUM_EXAMPLES = 3


def cache_features(config: CacheConfig) -> CacheSummary:
    """Make a cache, or finish one that was begun.

    Args:
        config: What to cache, and where.

    Returns:
        What lies there now.

    Raises:
        MissingFileError: The annotation file, the folder of images or a weights file is missing.
        AnnotationError: The annotations are in another format, or hold nothing to cache.
        CacheMismatchError: The folder holds a cache of other images, models or settings.
        TooManyQuarantinedError: More images are unusable than ``max_quarantined_share``.
        DiskError: The folder cannot be written to, or its disk is full.
        ConfigError: Another process writes there, or an option cannot work.
        WeightsError: Weights do not fit their model, or give numbers that are not finite.
    """
    return _Job(config).run()


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
    """
    output_dir = Path(config.output_dir)
    if not manifest_path(output_dir).exists():
        raise MissingFileError(
            f"{output_dir} has no {manifest_path(output_dir).name}, so there is no cache to repair."
            " Set --output_dir to the cache's folder."
        )
    job = _Job(config)
    with _told_disk_errors(output_dir), exclusive_writer(output_dir):
        problems = take_away_damage(output_dir, job.manifest, retry_quarantined=retry_quarantined)
    return problems, job.run()


class _Job:
    """A configuration with all that it names opened."""

    def __init__(self, config: CacheConfig) -> None:
        self._config = config
        self._output_dir = Path(config.output_dir)
        _check_can_be_folder(self._output_dir)
        self._annotated = read_regions(config)
        self._records = self._annotated.records[: config.limit]
        plan = Plan.from_keys(self._records.keys(), images_per_shard=config.images_per_shard)
        self._models = load_frozen_models(config.models, device=config.device)
        self.manifest = _manifest_of(config, self._annotated, plan, self._models)

    def run(self) -> CacheSummary:
        """Write what is missing."""
        output_dir, plan = self._output_dir, self.manifest.plan
        with _told_disk_errors(output_dir), exclusive_writer(output_dir):
            _begin(output_dir, self.manifest)
            _store_text_banks(output_dir, self._config.templates, self._annotated, self._models)
            if self._config.annotations.tree_path is not None:
                store_category_tree(output_dir, self._config.annotations.tree_path, self._annotated)
            todo = [n for n in range(plan.num_shards) if not shard_is_complete(output_dir, n)]
            images_of = {n: plan.images_of(n) for n in todo}
            jobs = [
                ShardJob(shard_index=n, records=self._records[images.start : images.stop])
                for n, images in images_of.items()
            ]
            start = time.perf_counter()
            _Writer(self._config, self._models, plan).write(jobs)
            seconds = time.perf_counter() - start
            build_index(output_dir)
        return self._summary(sum(len(job.records) for job in jobs), seconds)

    def _summary(self, num_new_images: int, seconds: float) -> CacheSummary:
        files = [path for path in self._output_dir.rglob("*") if path.is_file()]
        with FeatureCache.open(self._output_dir) as cache:
            index = cache.index
        return CacheSummary(
            cache_dir=self._output_dir,
            annotations=self._annotated.report,
            num_images=len(index),
            num_regions=int(index.num_regions.sum()),
            num_clipped_regions=index.num_clipped_regions,
            num_dropped_regions=index.num_dropped_regions,
            num_quarantined=index.num_quarantined,
            num_shards=index.num_shards,
            num_bytes=sum(file.stat().st_size for file in files),
            num_new_images=num_new_images,
            seconds=seconds,
        )


def _check_can_be_folder(output_dir: Path) -> None:
    for place in (output_dir, *output_dir.parents):
        if (place.exists() or place.is_symlink()) and not place.is_dir():
            raise DiskError(
                f"{place} is not a folder, so no cache can lie in {output_dir}. Set --output_dir to"
                " a new folder."
            )


def _manifest_of(
    config: CacheConfig, annotated: AnnotatedImages, plan: Plan, models: FrozenModels
) -> Manifest:
    return Manifest(
        name=annotated.name,
        fingerprint=models.fingerprint(exif_policy=config.exif_policy),
        annotation_sha256=annotated.annotation_sha256,
        annotation_format=annotated.format,
        proposals=describe_proposals(config, annotated),
        prompt=config.annotations.prompt,
        plan=plan,
        vocabulary=annotated.vocabulary,
        category_ids=annotated.category_ids,
    )


def _begin(output_dir: Path, manifest: Manifest) -> None:
    """Write the manifest of a new cache, or check that of a begun one."""
    if manifest_path(output_dir).exists():
        check_same_manifest(read_manifest(output_dir), manifest)
        return
    # A crash may have left a manifest that was not renamed yet; it is written over.
    leftover = f"{manifest_path(output_dir).name}.tmp"
    strange = sorted(entry.name for entry in output_dir.iterdir() if entry.name != leftover)
    if strange:
        raise DiskError(
            f"{output_dir} is no cache, and not empty either: it holds {', '.join(strange[:5])}."
            " Set --output_dir to a new folder."
        )
    write_manifest(output_dir, manifest)


def _store_text_banks(
    output_dir: Path, templates: Iterable[str], annotated: AnnotatedImages, models: FrozenModels
) -> None:
    store = TextBankStore(text_banks_path(output_dir))
    vocabulary, clip_sha256 = annotated.vocabulary, models.clip_sha256
    for name in templates:
        if store.get(vocabulary, templates=name, clip_sha256=clip_sha256) is None:
            bank = models.text_bank(vocabulary, templates=name).float().cpu().numpy()
            store.put(vocabulary, bank, templates=name, clip_sha256=clip_sha256)
            _logger.info("embedded %d class names with the templates %s", len(vocabulary), name)


class _Writer:
    """Writes the missing shards of a plan and counts what cannot be used."""

    def __init__(self, config: CacheConfig, models: FrozenModels, plan: Plan) -> None:
        self._config = config
        self._locator = RegionLocator(
            localizer=models.localizer,
            prompt=config.annotations.prompt,
            grid=None if config.proposals is None else config.proposals.grid,
        )
        self._models = models
        self._plan = plan
        self._quarantined: list[QuarantinedImage] = []

    def write(self, jobs: list[ShardJob]) -> None:
        """Write the shards of the jobs, in order."""
        config, todo = self._config, {job.shard_index for job in jobs}
        for done in set(range(self._plan.num_shards)) - todo:
            self._quarantined += read_sidecar(Path(config.output_dir), done).quarantined
        preparation = Preparation(
            images_dir=Path(config.annotations.images_dir),
            exif_policy=config.exif_policy,
            locator=self._locator,
            encoder=self._models.encoder,
        )
        total = self._plan.num_images
        num_done = total - sum(len(job.records) for job in jobs)
        threads = torch.get_num_threads()
        with (
            tqdm(total=total, initial=num_done, unit=" images", disable=None) as bar,
            prepared_batches(
                jobs, preparation, batch_size=config.batch_size, num_threads=threads
            ) as batches,
        ):
            for shard_index, of_shard in itertools.groupby(batches, lambda b: b.shard_index):
                self._write_shard(shard_index, of_shard, bar)

    def _write_shard(
        self, shard_index: int, batches: Iterable[PreparedBatch], bar: "tqdm[NoReturn]"
    ) -> None:
        quarantined: list[QuarantinedImage] = []
        sidecar = write_shard(
            Path(self._config.output_dir),
            shard_index,
            self._samples(batches, quarantined, bar),
            quarantined,
        )
        # A log file has no bar.
        level = logging.INFO if bar.disable else logging.DEBUG
        _logger.log(
            level,
            "shard %d of %d: %d images, %d left out",
            shard_index + 1,
            self._plan.num_shards,
            sidecar.num_images,
            len(quarantined),
        )

    def _samples(
        self,
        batches: Iterable[PreparedBatch],
        quarantined: list[QuarantinedImage],
        bar: "tqdm[NoReturn]",
    ) -> Iterator[CachedSample]:
        for batch in batches:
            quarantined += batch.quarantined
            self._check_quarantine(batch.quarantined)
            yield from featurize(self._models, batch.images, self._locator)
            bar.update(len(batch.images) + len(batch.quarantined))

    def _check_quarantine(self, images: Iterable[QuarantinedImage]) -> None:
        for image in images:
            self._quarantined.append(image)
            _logger.warning("left out: %s %s", image.file_name, image.reason)
        share = self._config.max_quarantined_share
        # Not compared as numbers of images: 0.58 * 50 is a little less than 29.
        if len(self._quarantined) / self._plan.num_images > share:
            examples = "\n  ".join(
                f"{image.file_name} {image.reason}" for image in self._quarantined[:_NUM_EXAMPLES]
            )
            raise TooManyQuarantinedError(
                f"{len(self._quarantined)} of {self._plan.num_images} images cannot be used, more"
                f" than the allowed share of {share:g}. The first of them, in"
                f" {self._config.annotations.images_dir}:\n  {examples}\n"
                "Mend them, or check --annotations.images_dir; to leave so many out, raise"
                " --max_quarantined_share (1 allows all); then give the same command again. (Images"
                " of finished shards are tried again by `regionspot cache repair"
                " --retry_quarantined true` with the same options.)"
            )


@contextmanager
def _told_disk_errors(output_dir: Path) -> Iterator[None]:
    """Turn the system's refusal to write into a message."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise DiskError(
            f"cannot write to {output_dir}: {error.strerror}. Finished shards are safe: make room,"
            " or allow writing there, and give the same command again; or set another --output_dir."
        ) from error
