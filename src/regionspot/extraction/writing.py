"""Writes shards: prepared images go through the models and into tars."""

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import NoReturn

import torch
from tqdm import tqdm

from regionspot.backbones.image_files import UPRIGHT
from regionspot.cache import CachedSample, QuarantinedImage, read_sidecar, write_shard
from regionspot.core.stopping import check_stop, safe_points
from regionspot.extraction.featurize import launch
from regionspot.extraction.job import CacheJob
from regionspot.extraction.prepare import (
    PreparedBatch,
    PreparedImage,
    ShardJob,
    prepared_batches,
)
from regionspot.extraction.same_images import check_same_images
from regionspot.extraction.unusable import UnusableImages
from regionspot.extraction.writer_thread import ShardBatch, WriterThread

_logger = logging.getLogger(__name__)


class ShardsWriter:
    """Writes the missing shards of a plan."""

    def __init__(self, job: CacheJob) -> None:
        self._job = job
        self._config = job.config
        self._plan = job.manifest.plan
        self._compared: set[int] = set()  # shards of which an image was compared with the old cache
        self.num_reused_maps = 0
        """Feature maps that were taken over from another cache."""
        self.num_reused_tokens = 0
        """Position tokens that were."""
        self.num_ignored_orientations = 0
        """Images with an EXIF orientation that was ignored."""

    def write(
        self,
        shard_jobs: Iterable[ShardJob],
        *,
        done: Iterable[int],
        after_shard: Callable[[int], None] = lambda _: None,
    ) -> int:
        """Write shards, in order: decoding, models and writing each have their threads.

        Args:
            shard_jobs: The shards; each is taken when its turn comes near.
            done: Finished shards, whose unusable images count.
            after_shard: Called with the number of each shard that was written, in the writer's
                thread.

        Returns:
            How many images the shards written have, unusable ones included.

        Raises:
            TooManyQuarantinedError: More images are unusable than ``max_quarantined_share``, or
                ``max_quarantined_in_a_row`` follow each other.
            WeightsError: The models give numbers that are not finite.
            CacheMismatchError: The cache to reuse is of other images.
        """
        num_done, written = 0, list[int]()
        already: list[QuarantinedImage] = []
        for shard in done:
            already += read_sidecar(self._job.output_dir, shard).quarantined
            num_done += len(self._plan.images_of(shard))
        total = self._plan.num_images
        unusable = UnusableImages(self._config, total, already)

        def write_one(shard_index: int, of_shard: Iterable[ShardBatch]) -> None:
            written.append(self._write_shard(shard_index, of_shard, bar))
            after_shard(shard_index)

        with (
            safe_points(),
            tqdm(total=total, initial=num_done, unit=" images", disable=None) as bar,
            prepared_batches(
                shard_jobs,
                self._job.preparation,
                batch_size=self._config.batch_size,
                num_threads=torch.get_num_threads(),  # before workers divide them
            ) as batches,
            closing(self._launched(unusable.checked(batches))) as launched,
            WriterThread(write_one) as writer,
        ):
            for batch in launched:
                check_stop()
                writer.put(batch)
                bar.update(batch.num_images)
        return sum(written)

    def _launched(self, batches: Iterable[PreparedBatch]) -> Generator[ShardBatch]:
        models = self._job.models
        return models.map_batches(
            self._launch, map(self._counted, batches), num_batches=self._job.num_batches
        )

    def _counted(self, batch: PreparedBatch) -> PreparedBatch:
        job, images = self._job, batch.images
        self._count_orientations(images)
        if job.old_cache is not None and batch.shard_index not in self._compared:
            self._compared.add(batch.shard_index)
            check_same_images(job, job.old_cache, batch.shard_index)
        reused = [image.reused for image in images if image.reused is not None]
        self.num_reused_maps += len(reused)
        self.num_reused_tokens += sum(one.num_tokens for one in reused)
        return batch

    def _launch(self, batch: PreparedBatch) -> ShardBatch:
        job, launched = self._job, None
        if batch.images:
            launched = launch(job.models, batch.images, job.locator, codec=job.config.codec)
        return ShardBatch(
            num_images=len(batch.is_usable),
            shard_index=batch.shard_index,
            launched=launched,
            quarantined=batch.quarantined,
            ends_shard=batch.ends_shard,
        )

    def _count_orientations(self, images: Iterable[PreparedImage]) -> None:
        for image in images:
            if image.ignored_orientation == UPRIGHT:
                continue
            self.num_ignored_orientations += 1
            if self.num_ignored_orientations == 1:
                _logger.warning(
                    "%s carries an EXIF orientation (%d), which is ignored: boxes have to be those"
                    " of the pixels as stored, not of the photo as viewers show it. If they are of"
                    " the latter, give --exif_policy apply. The last lines count such images.",
                    image.record.file_name,
                    image.ignored_orientation,
                )

    def _write_shard(
        self, shard_index: int, batches: Iterable[ShardBatch], bar: "tqdm[NoReturn]"
    ) -> int:
        quarantined: list[QuarantinedImage] = []
        sidecar = write_shard(
            self._job.output_dir, shard_index, _samples(batches, quarantined), quarantined
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
        return sidecar.num_images + len(quarantined)


def _samples(
    batches: Iterable[ShardBatch], quarantined: list[QuarantinedImage]
) -> Iterator[CachedSample]:
    for batch in batches:
        quarantined += batch.quarantined
        if batch.launched is not None:
            yield from batch.launched.wait()
