"""Reads, decodes and resizes images in a few threads, ahead of the models.

Decoders and torch release the GIL, so threads are enough. The number of images prepared ahead is
bounded, and so is memory. The results do not depend on the threads: order and batches are those of
the plan.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

from regionspot.annotations import ImageRecord, ResolvedRecord
from regionspot.backbones import Encoder
from regionspot.backbones.decode_images import (
    MAX_PIXELS,
    TURNED_ON_THEIR_SIDE,
    UPRIGHT,
    ImageError,
    decode_image,
    stored_orientation,
)
from regionspot.backbones.presets import ExifPolicy
from regionspot.cache import QuarantinedImage
from regionspot.core.errors import ShapeError
from regionspot.core.stopping import wait_for
from regionspot.extraction.locate import RegionLocator
from regionspot.extraction.reuse import OldCache, Reused
from regionspot.storage import RemoteFolder, StorageError

DOES_NOT_EXIST = "does not exist"
"""Reason for quarantining an image without a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardJob:
    """The images of one shard, in order."""

    shard_index: int
    """Number of the shard, from 0."""
    records: Sequence[ImageRecord]
    """Its images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedImage:
    """An image at the sizes of both models, as uint8: the device normalizes it."""

    record: ImageRecord
    """The image and its regions, resolved for the decoded image."""
    sam_pixels: Tensor | None
    """For SAM, (3, h, w) uint8; None if SAM is not needed."""
    clip_pixels: Tensor | None
    """For CLIP, (3, H, W) uint8; None if its feature map is reused."""
    reused: Reused | None = None
    """What is reused from another cache."""
    num_clipped: int = 0
    """Number of boxes clipped to the decoded image."""
    num_dropped: int = 0
    """Number of regions dropped: outside of the decoded image, or equal once clipped."""
    ignored_orientation: int = UPRIGHT
    """EXIF orientation that was ignored although it is unknown whether the annotators saw it; 1,
    upright, if none was."""

    @property
    def has_reused_tokens(self) -> bool:
        """Whether its position tokens are reused, too."""
        return self.reused is not None and self.reused.regions is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedBatch:
    """Up to a batch of consecutive images of one shard."""

    shard_index: int
    """The shard."""
    images: Sequence[PreparedImage]
    """The usable images, in order."""
    quarantined: Sequence[QuarantinedImage]
    """The other images, in order."""
    is_usable: Sequence[bool]
    """Whether each image is usable, in the order of the plan."""
    ends_shard: bool
    """Whether it is the shard's last batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """How to prepare one image."""

    images_dir: Path | RemoteFolder
    """Folder that the file names are relative to."""
    exif_policy: ExifPolicy
    """Whether to apply the EXIF orientation of images."""
    locator: RegionLocator
    """Resizes for SAM."""
    encoder: Encoder
    """Resizes for CLIP."""
    max_image_pixels: int = MAX_PIXELS
    """Maximum height times width of an image."""
    old_cache: OldCache | None = None
    """The cache to reuse."""
    knows_orientation: bool = False
    """Whether annotators are known to have seen the pixels as stored, as for LVIS."""

    def prepare(self, record: ImageRecord) -> PreparedImage | QuarantinedImage:
        """Read, decode and resize one image, or return why it cannot be used.

        An image that is reused completely is not read.

        Raises:
            StorageError: The server of the images refuses or does not respond, which is no fault of
                the image.
        """
        reused = None if self.old_cache is None else self.old_cache.find(record)
        if reused is not None and reused.regions is not None:
            return _prepared(reused.resolved, reused=reused)
        try:
            data = _read(self.images_dir, record.file_name)
            pixels = decode_image(
                data,
                size_hw=record.annotated_size_hw,
                exif_policy=self.exif_policy,
                max_pixels=self.max_image_pixels,
            )
            resolved = record.resolved((pixels.shape[0], pixels.shape[1]))
            if reused is not None and reused.resolved.record.size_hw != resolved.record.size_hw:
                reused = None  # the file has changed, and there is no annotated size to tell
            wants_sam = self.locator.wants_pixels(resolved.record)
            return _prepared(
                resolved,
                sam_pixels=self.locator.localizer.resize(pixels) if wants_sam else None,
                clip_pixels=self.encoder.resize(pixels) if reused is None else None,
                reused=reused,
                ignored_orientation=self._ignored_orientation(data, record),
            )
        except (ShapeError, ImageError) as error:
            reason = f"cannot be resized: {error}" if isinstance(error, ShapeError) else str(error)
            return QuarantinedImage(
                key=record.key,
                image_id=record.image_id,
                file_name=record.file_name,
                reason=reason,
            )

    def _ignored_orientation(self, data: bytes, record: ImageRecord) -> int:
        if self.exif_policy == "apply" or self.knows_orientation:
            return UPRIGHT
        orientation = stored_orientation(data)
        size_hw = record.annotated_size_hw
        if size_hw is not None and orientation in TURNED_ON_THEIR_SIDE and len({*size_hw}) > 1:
            return UPRIGHT  # the annotated size is that of the pixels as stored
        return orientation


def _prepared(
    resolved: ResolvedRecord,
    *,
    reused: Reused | None,
    sam_pixels: Tensor | None = None,
    clip_pixels: Tensor | None = None,
    ignored_orientation: int = UPRIGHT,
) -> PreparedImage:
    return PreparedImage(
        record=resolved.record,
        sam_pixels=sam_pixels,
        clip_pixels=clip_pixels,
        reused=reused,
        num_clipped=resolved.num_clipped,
        num_dropped=resolved.num_dropped,
        ignored_orientation=ignored_orientation,
    )


@contextmanager
def prepared_batches(
    jobs: Iterable[ShardJob], preparation: Preparation, *, batch_size: int, num_threads: int
) -> Iterator[Iterator[PreparedBatch]]:
    """Prepare the images of many shards in the background.

    A batch holds the usable ones of ``batch_size`` consecutive images of its shard: it depends
    neither on where a run started nor on timing.

    Args:
        jobs: The shards, in order.
        preparation: How to prepare an image.
        batch_size: Images per batch; the last batch of a shard may be smaller.
        num_threads: Images prepared at once; one more batch is kept ready.

    Yields:
        The batches, in order. The threads end with the block.
    """
    with ThreadPoolExecutor(num_threads, thread_name_prefix="prepare") as pool:

        def submitted() -> Iterator[_Pending]:
            for job in jobs:
                for start in range(0, len(job.records), batch_size):
                    records = job.records[start : start + batch_size]
                    images = [pool.submit(preparation.prepare, record) for record in records]
                    yield job.shard_index, images, start + batch_size >= len(job.records)

        try:
            yield _in_order(submitted(), num_ahead=-(-num_threads // batch_size) + 1)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_Pending: TypeAlias = tuple[int, list["Future[PreparedImage | QuarantinedImage]"], bool]
"""Number of the shard, its submitted images, and whether they end the shard."""


def _in_order(pending: Iterator[_Pending], num_ahead: int) -> Iterator[PreparedBatch]:
    # Taking from `pending` submits, so the queue's length bounds the work ahead.
    queue = deque(islice(pending, num_ahead))
    while queue:
        shard_index, futures, ends_shard = queue.popleft()
        images = list(map(wait_for, futures))
        queue.extend(islice(pending, 1))
        yield PreparedBatch(
            shard_index=shard_index,
            images=[image for image in images if isinstance(image, PreparedImage)],
            quarantined=[image for image in images if isinstance(image, QuarantinedImage)],
            is_usable=[isinstance(image, PreparedImage) for image in images],
            ends_shard=ends_shard,
        )


def _read(folder: Path | RemoteFolder, name: str) -> bytes:
    try:
        if isinstance(folder, RemoteFolder):
            return folder.read(name)
        return (folder / name).read_bytes()
    except FileNotFoundError as error:
        raise ImageError(DOES_NOT_EXIST) from error
    except StorageError:
        raise
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from error
