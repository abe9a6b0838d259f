"""Writes shards: prepared images go through the models, and what cannot be used is counted."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn

import torch
from tqdm import tqdm

from regionspot.cache import CachedSample, QuarantinedImage, read_sidecar, write_shard
from regionspot.extraction.errors import TooManyQuarantinedError
from regionspot.extraction.featurize import launch
from regionspot.extraction.job import CacheJob
from regionspot.extraction.prepare import PreparedBatch, ShardJob, prepared_batches
from regionspot.extraction.writer_thread import ShardBatch, WriterThread

_logger = logging.getLogger(__name__)

_NUM_EXAMPLES = 3


class ShardsWriter:
    """Writes the missing shards of a plan and counts what cannot be used."""

    def __init__(self, job: CacheJob) -> None:
        self._job = job
        self._config = job.config
        self._plan = job.manifest.plan
        self._quarantined: list[QuarantinedImage] = []

    def write(
        self,
        shard_jobs: Iterable[ShardJob],
        *,
        done: Iterable[int],
        after_shard: Callable[[int], None] = lambda _: None,
    ) -> int:
        """Write shards, in order: models run here, and the writer in its own thread.

        Args:
            shard_jobs: The shards; each is taken when its turn comes near.
            done: Finished shards, whose unusable images count.
            after_shard: Called with the number of each shard that was written, in the writer's
                thread.

        Returns:
            How many images the shards written have, unusable ones included.

        Raises:
            TooManyQuarantinedError: More images are unusable than ``max_quarantined_share``.
            WeightsError: The models give numbers that are not finite.
        """
        num_done, written = 0, list[int]()
        for shard in done:
            self._quarantined += read_sidecar(self._job.output_dir, shard).quarantined
            num_done += len(self._plan.images_of(shard))
        total = self._plan.num_images

        def write_one(shard_index: int, of_shard: Iterable[ShardBatch]) -> None:
            written.append(self._write_shard(shard_index, of_shard, bar))
            after_shard(shard_index)

        with (
            tqdm(total=total, initial=num_done, unit=" images", disable=None) as bar,
            prepared_batches(
                shard_jobs,
                self._job.preparation,
                batch_size=self._config.batch_size,
                num_threads=torch.get_num_threads(),
            ) as batches,
            WriterThread(write_one) as writer,
        ):
            for batch in batches:
                self._check_quarantine(batch.quarantined)
                writer.put(self._launched(batch))
                bar.update(len(batch.images) + len(batch.quarantined))
        return sum(written)

    def _launched(self, batch: PreparedBatch) -> ShardBatch:
        job, images = self._job, batch.images
        return ShardBatch(
            shard_index=batch.shard_index,
            launched=launch(job.models, images, job.locator) if images else None,
            quarantined=batch.quarantined,
            ends_shard=batch.ends_shard,
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


def _samples(
    batches: Iterable[ShardBatch], quarantined: list[QuarantinedImage]
) -> Iterator[CachedSample]:
    for batch in batches:
        quarantined += batch.quarantined
        if batch.launched is not None:
            yield from batch.launched.wait()
