"""Stopping a run that would leave out too many images.

An image that cannot be used is left out for good once its shard is finished. If the folder of
images is unmounted in the middle of a run, however, every later image is unusable. So unusable
images are held back until a usable one follows them. If too many come in a row, the run stops
before their shards are finished, with the files on disk as if it had stopped before the first one.
"""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from regionspot.cache import QuarantinedImage, read_sidecar
from regionspot.extraction.config import CacheConfig
from regionspot.extraction.errors import TooManyQuarantinedError
from regionspot.extraction.misplaced import where_instead
from regionspot.extraction.prepare import DOES_NOT_EXIST, PreparedBatch
from regionspot.storage import is_url

_logger = logging.getLogger(__name__)

_NUM_EXAMPLES = 3


def quarantined_in(cache_dir: Path, shards: Iterable[int]) -> list[QuarantinedImage]:
    """Return the images that finished shards have left out."""
    return [image for shard in shards for image in read_sidecar(cache_dir, shard).quarantined]


class QuarantineGuard:
    """Counts the unusable images of a run against what its configuration allows.

    Args:
        config: How many are allowed, of all and in a row.
        num_images: Images of the whole plan.
        already: Unusable images of shards finished before; they count towards the share.
    """

    def __init__(
        self, config: CacheConfig, num_images: int, already: Iterable[QuarantinedImage]
    ) -> None:
        self._config = config
        self._num_images = num_images
        self._all = list(already)
        self._row: list[QuarantinedImage] = []
        self._instead: str | None = None
        self._has_looked = False

    def checked(self, batches: Iterable[PreparedBatch]) -> Iterator[PreparedBatch]:
        """Yield the batches in order, but hold back those that end with unusable images.

        They are yielded once a usable image follows. This takes little memory: at most one of the
        batches held back has pixels.

        Args:
            batches: The batches of this run, in the order of the plan. Shards not among them
                neither count nor end a row.

        Raises:
            TooManyQuarantinedError: More images are unusable than ``max_quarantined_share``, or
                ``max_quarantined_in_a_row`` follow each other.
        """
        waiting: list[PreparedBatch] = []
        for batch in batches:
            self._count(batch)
            if batch.images:
                yield from waiting
                waiting.clear()
            waiting.append(batch)
            if not self._row:
                yield from waiting
                waiting.clear()
        yield from waiting

    def add(self, images: Iterable[QuarantinedImage]) -> None:
        """Count the unusable images of a shard that another process finished.

        Raises:
            TooManyQuarantinedError: More images are unusable than ``max_quarantined_share``.
        """
        for image in images:
            self._leave_out(image)
        self._check_share()

    def _count(self, batch: PreparedBatch) -> None:
        unusable = iter(batch.quarantined)
        for is_usable in batch.is_usable:
            if is_usable:
                self._row.clear()
                continue
            image = next(unusable)
            self._leave_out(image)
            self._row.append(image)
            if len(self._row) == self._config.max_quarantined_in_a_row:
                raise self._too_many_in_a_row()
        self._check_share()

    def _leave_out(self, image: QuarantinedImage) -> None:
        _logger.warning("left out: %s %s", image.file_name, image.reason)
        self._all.append(image)
        if image.reason == DOES_NOT_EXIST and not self._has_looked:
            self._has_looked = True  # once: other files are most likely missing for the same reason
            self._instead = self._where_instead(image)
            if self._instead is not None:
                _logger.warning("%s", self._instead)

    def _where_instead(self, image: QuarantinedImage) -> str | None:
        images_dir = self._config.annotations.images_dir
        return None if is_url(images_dir) else where_instead(Path(images_dir), image.file_name)

    def _examples(self, images: list[QuarantinedImage]) -> str:
        lines = [f"  {image.file_name} {image.reason}" for image in images[:_NUM_EXAMPLES]]
        return "\n".join(lines if self._instead is None else [*lines, self._instead])

    def _check_share(self) -> None:
        # Not compared as numbers of images: 0.58 * 50 is a little less than 29.
        if len(self._all) / self._num_images > self._config.max_quarantined_share:
            raise self._too_large_a_share()

    def _too_many_in_a_row(self) -> TooManyQuarantinedError:
        images_dir = self._config.annotations.images_dir
        return TooManyQuarantinedError(
            f"{len(self._row)} images in a row cannot be used. The first of them, in"
            f" {images_dir}:\n{self._examples(self._row)}\n"
            f"Look whether {images_dir} is still there, as --annotations.images_dir; then give the"
            " same command again: none of them was left out yet. To leave out so many, raise"
            " --max_quarantined_in_a_row."
        )

    def _too_large_a_share(self) -> TooManyQuarantinedError:
        return TooManyQuarantinedError(
            f"{len(self._all)} of {self._num_images} images cannot be used, more than the allowed"
            f" share of {self._config.max_quarantined_share:g}. The first of them, in"
            f" {self._config.annotations.images_dir}:\n{self._examples(self._all)}\n"
            "Mend them, or check --annotations.images_dir; to leave so many out, raise"
            " --max_quarantined_share (1 allows all); then give the same command again. (Images"
            " of finished shards are tried again by `regionspot cache repair"
            " --retry_quarantined true` with the same options.)"
        )
