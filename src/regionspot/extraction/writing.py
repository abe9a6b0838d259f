"""Writes shards: prepared images go through the models and into tars."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn

import torch
from tqdm import tqdm

from regionspot.cache import CachedSample, QuarantinedImage, read_sidecar, write_shard
from regionspot.extraction.featurize import featurize
from regionspot.extraction.job import CacheJob
from regionspot.extraction.prepare import (
    PreparedBatch,
    ShardJob,
    grouped_by_shard,
    prepared_batches,
)
from regionspot.extraction.same_images import check_same_images
from regionspot.extraction.unusable import UnusableImages

_logger = logging.getLogger(__name__)


class ShardsWriter:
    """Writes the missing shards of a plan."""

    def __init__(self, job: CacheJob) -> None:
        self._job = job
        self._config = job.config
        self._plan = job.manifest.plan
        self.num_reused_maps = 0
        """Feature maps that were taken over from another cache."""
        self.num_reused_tokens = 0
        """Position tokens that were."""

    def write(
        self,
        shard_jobs: Iterable[ShardJob],
        *,
        done: Iterable[int],
        after_shard: Callable[[int], None] = lambda _: None,
    ) -> int:
        """Write shards, in order.

        Args:
            shard_jobs: The shards; each is taken when its turn comes near.
            done: Finished shards, whose unusable images count.
            after_shard: Called with the number of each shard that was written.

        Returns:
            How many images the shards written have, unusable ones included.

        Raises:
            TooManyQuarantinedError: More images are unusable than ``max_quarantined_share``, or
                ``max_quarantined_in_a_row`` follow each other.
            WeightsError: The models give numbers that are not finite.
            CacheMismatchError: The cache to reuse is of other images.
        """
        num_done = num_written = 0
        already: list[QuarantinedImage] = []
        for shard in done:
            already += read_sidecar(self._job.output_dir, shard).quarantined
            num_done += len(self._plan.images_of(shard))
        total = self._plan.num_images
        unusable = UnusableImages(self._config, total, already)
        with (
            tqdm(total=total, initial=num_done, unit=" images", disable=None) as bar,
            prepared_batches(
                shard_jobs,
                self._job.preparation,
                batch_size=self._config.batch_size,
                num_threads=torch.get_num_threads(),
            ) as batches,
        ):
            for shard_index, of_shard in grouped_by_shard(unusable.checked(batches)):
                num_written += self._write_shard(shard_index, of_shard, bar)
                after_shard(shard_index)
        return num_written

    def _write_shard(
        self, shard_index: int, batches: Iterable[PreparedBatch], bar: "tqdm[NoReturn]"
    ) -> int:
        if self._job.old_cache is not None:
            check_same_images(self._job, self._job.old_cache, shard_index)
        quarantined: list[QuarantinedImage] = []
        sidecar = write_shard(
            self._job.output_dir,
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
        return sidecar.num_images + len(quarantined)

    def _samples(
        self,
        batches: Iterable[PreparedBatch],
        quarantined: list[QuarantinedImage],
        bar: "tqdm[NoReturn]",
    ) -> Iterator[CachedSample]:
        for batch in batches:
            quarantined += batch.quarantined
            yield from featurize(
                self._job.models, batch.images, self._job.locator, codec=self._config.codec
            )
            reused = [image.reused for image in batch.images if image.reused is not None]
            self.num_reused_maps += len(reused)
            self.num_reused_tokens += sum(one.num_tokens for one in reused)
            bar.update(len(batch.images) + len(batch.quarantined))
