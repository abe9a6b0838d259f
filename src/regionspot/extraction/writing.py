"""Writes shards: prepared images go through the models, and what cannot be used is counted."""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn

import torch
from tqdm import tqdm

from regionspot.cache import CachedSample, QuarantinedImage, read_sidecar, write_shard
from regionspot.extraction.errors import TooManyQuarantinedError
from regionspot.extraction.featurize import featurize
from regionspot.extraction.job import CacheJob
from regionspot.extraction.prepare import PreparedBatch, ShardJob, prepared_batches
from regionspot.extraction.same_images import check_same_images

_logger = logging.getLogger(__name__)

_NUM_EXAMPLES = 3


class ShardsWriter:
    """Writes the missing shards of a plan and counts what cannot be used."""

    def __init__(self, job: CacheJob) -> None:
        self._job = job
        self._config = job.config
        self._plan = job.manifest.plan
        self._quarantined: list[QuarantinedImage] = []
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
            TooManyQuarantinedError: More images are unusable than ``max_quarantined_share``.
            WeightsError: The models give numbers that are not finite.
            CacheMismatchError: The cache to reuse is of other images.
        """
        num_done = num_written = 0
        for shard in done:
            self._quarantined += read_sidecar(self._job.output_dir, shard).quarantined
            num_done += len(self._plan.images_of(shard))
        total = self._plan.num_images
        with (
            tqdm(total=total, initial=num_done, unit=" images", disable=None) as bar,
            prepared_batches(
                shard_jobs,
                self._job.preparation,
                batch_size=self._config.batch_size,
                num_threads=torch.get_num_threads(),
            ) as batches,
        ):
            for shard_index, of_shard in itertools.groupby(batches, lambda b: b.shard_index):
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
            self._check_quarantine(batch.quarantined)
            yield from featurize(
                self._job.models, batch.images, self._job.locator, codec=self._config.codec
            )
            reused = [image.reused for image in batch.images if image.reused is not None]
            self.num_reused_maps += len(reused)
            self.num_reused_tokens += sum(one.num_tokens for one in reused)
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
