"""Stops a run that would leave out too many images.

An unusable image is left out for good once its shard is finished. If the folder of images is
unmounted during a run, however, every later image is unusable. So unusable images are held back
until a usable one follows them. If too many come in a row, the run stops before their shards are
finished, with the files on disk as if it had stopped before the first one.
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
    """Return the images left out of finished shards."""
    return [image for shard in shards for image in read_sidecar(cache_dir, shard).quarantined]


class QuarantineGuard:
    """Counts the unusable images of a run against what its configuration allows.

    Args:
        config: How many are allowed, in total and in a row.
        num_images: Number of images of the whole plan.
        already: Unusable images of finished shards; they count towards the share.
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
            batches: The batches of this run, in the order of the plan. Other shards neither count
                nor end a row.

        Raises:
            TooManyQuarantinedError: More images are unusable than ``max_quarantined_share``, or
                ``max_quarantined_in_a_row`` follow each other.
        """
        held_back: list[PreparedBatch] = []
        for batch in batches:
            self._count(batch)
            if batch.images:
                yield from held_back
                held_back.clear()
            held_back.append(batch)
            if not self._row:
                yield from held_back
                held_back.clear()
        yield from held_back

    def add(self, images: Iterable[QuarantinedImage]) -> None:
        """Count the unusable images of a shard that another process finished; see `checked`."""
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
            self._check_row()
        self._check_share()

    def _leave_out(self, image: QuarantinedImage) -> None:
        _logger.warning("left out: %s %s", image.file_name, image.reason)
        self._all.append(image)
        if image.reason == DOES_NOT_EXIST and not self._has_looked:
            self._has_looked = True  # once: other files are probably missing for the same reason
            images_dir = self._config.annotations.images_dir
            if not is_url(images_dir):
                self._instead = where_instead(Path(images_dir), image.file_name)
            if self._instead is not None:
                _logger.warning("%s", self._instead)

    def _examples(self, images: list[QuarantinedImage]) -> str:
        lines = [f"  {image.file_name} {image.reason}" for image in images[:_NUM_EXAMPLES]]
        first = f"The first of them, in {self._config.annotations.images_dir}:"
        return "\n".join([first, *lines, *filter(None, [self._instead])])

    def _check_share(self) -> None:
        # Not compared as numbers of images: 0.58 * 50 is a little less than 29.
        if len(self._all) / self._num_images > self._config.max_quarantined_share:
            raise TooManyQuarantinedError(
                f"{len(self._all)} of {self._num_images} images cannot be used, more than the"
                f" allowed share of {self._config.max_quarantined_share:g}."
                f" {self._examples(self._all)}\n"
                "Repair them, or check --annotations.images_dir; to leave so many out, raise"
                " --max_quarantined_share (1 allows all); then run the same command again. (Images"
                " of finished shards are tried again by `regionspot cache repair"
                " --retry_quarantined true` with the same options.)"
            )

    def _check_row(self) -> None:
        if len(self._row) == self._config.max_quarantined_in_a_row:
            raise TooManyQuarantinedError(
                f"{len(self._row)} images in a row cannot be used. {self._examples(self._row)}\n"
                f"Check whether {self._config.annotations.images_dir} (--annotations.images_dir)"
                " still exists; then run the same command again: none of them is left out yet. To"
                " leave out so many, raise --max_quarantined_in_a_row."
            )
