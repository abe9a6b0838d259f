"""Estimates a cache before anything is written: its size, and about how long it takes."""

import json
import time
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from regionspot.cache import image_bytes
from regionspot.core.text import human_bytes, human_duration
from regionspot.extraction.config import CacheConfig
from regionspot.extraction.errors import DiskError
from regionspot.extraction.featurize import featurize
from regionspot.extraction.job import CacheJob
from regionspot.extraction.prepare import PreparedImage

_EXTRA_BYTES = 400
"""Approximate size of an image's entries in sidecar, index and so on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEstimate:
    """Size and time of a cache; the fields are the keys of ``regionspot cache plan --json``."""

    output_dir: str
    """Folder of the cache."""
    num_images: int
    """Images of the data set, including unusable ones."""
    num_regions: int | None
    """Their regions; None if SAM is yet to propose them."""
    num_reused_images: int
    """Images whose feature map is in the cache to reuse."""
    num_shards: int
    """Shards of the cache."""
    num_shards_done: int
    """Finished shards."""
    bytes_per_image: float
    """Mean size of an image's members in a shard."""
    bytes_per_mask: int | None
    """Mean size of a mask of the probed images, from which sizes are extrapolated; None if masks
    are not stored."""
    total_bytes: int
    """Size of the whole cache."""
    missing_bytes: int
    """Size of what is yet to be written."""
    free_bytes: int | None
    """Free space on the disk; None for a URL."""
    probed_images: int
    """Images that were run through the models to measure the time."""
    seconds_per_image: float
    """Mean time per probed image, without the first batch."""
    seconds: float
    """Estimated time for the missing images on this machine."""
    device: str
    """Where the models ran."""

    @property
    def fits(self) -> bool:
        """Whether the disk has room for what is missing."""
        return self.free_bytes is None or self.missing_bytes <= self.free_bytes

    def check_fits(self) -> None:
        """Raise `DiskError` if the disk is too small."""
        if self.free_bytes is not None and not self.fits:
            raise DiskError(
                f"{self.output_dir} needs another {human_bytes(self.missing_bytes)}, but its disk"
                f" has only {human_bytes(self.free_bytes)} free. Make room, set another"
                " --output_dir, or cache fewer images (--limit)."
            )

    def to_json(self) -> str:
        """Return the fields as a JSON object."""
        return json.dumps({**asdict(self), "fits": self.fits}, indent=1)

    def lines(self) -> list[str]:
        """Return one line of text for each fact."""
        regions = "regions yet to propose"
        if self.num_regions is not None:
            regions = f"{self.num_regions:,} regions"
        rate = 1 / self.seconds_per_image if self.seconds_per_image else 0.0
        shards = f"{self.num_shards:,} shards ({self.num_shards_done:,} of them done)"
        total, missing = map(human_bytes, (self.total_bytes, self.missing_bytes))
        free = self.free_bytes
        room = "" if free is None else f", {human_bytes(free)} free on the disk"
        measured = f"{rate:,.2f} images/s, measured on {self.probed_images:,} images"
        reused = [f"{self.num_reused_images:,} of the feature maps are reused"]
        masks = ""
        if self.bytes_per_mask is not None:
            masks = f" (an estimate: masks take {self.bytes_per_mask:,} bytes each in those probed)"
        return [
            f"{self.num_images:,} images, {regions}, {shards}",
            *(reused if self.num_reused_images else []),
            f"{human_bytes(self.bytes_per_image)} per image, {total} in all{masks}",
            f"{missing} yet to write{room}",
            f"about {human_duration(self.seconds)} on {self.device} ({measured})",
        ]


def estimate_cache(config: CacheConfig, *, num_probed: int = 16) -> CacheEstimate:
    """Estimate the size of a cache and the time to make it; nothing is written.

    The size is exact, except for unusable images and very long file names. (If SAM proposes the
    regions, or masks are stored, it is extrapolated from the probed images.) Time is measured on
    evenly spaced images that are fully processed but not written.

    Args:
        config: What to cache, and where.
        num_probed: Number of images to measure the time on, at least a batch; another batch warms
            up.

    Raises:
        RegionSpotError: See `cache_features`.
    """
    job = CacheJob(config)
    plan = job.manifest.plan
    done = job.destination.existing_shards(job.manifest)
    probe = _probe(job, num_probed)
    is_proposed, num_regions = job.locator.grid is not None, job.records.num_regions()
    if is_proposed:
        num_regions = np.full(len(num_regions), round(probe.regions_per_image), np.int64)
    sizes = image_bytes(job.manifest, num_regions, bytes_per_mask=probe.bytes_per_mask)
    sizes += _EXTRA_BYTES
    is_missing = np.ones(len(sizes), np.bool_)
    for images in map(plan.images_of, done):
        is_missing[images.start : images.stop] = False
    return CacheEstimate(
        output_dir=job.destination.location,
        num_images=plan.num_images,
        num_regions=None if is_proposed else int(num_regions.sum()),
        num_reused_images=0 if job.old_cache is None else job.old_cache.num_held(job.records),
        num_shards=plan.num_shards,
        num_shards_done=len(done),
        bytes_per_image=float(sizes.mean()),
        bytes_per_mask=probe.bytes_per_mask if config.masks else None,
        total_bytes=int(sizes.sum()),
        missing_bytes=int(sizes[is_missing].sum()),
        free_bytes=job.destination.free_bytes(),
        probed_images=probe.num_timed,
        seconds_per_image=probe.seconds_per_image,
        seconds=probe.seconds_per_image * int(is_missing.sum()),
        device=str(job.models.encoder.device),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Probe:
    """What was found by processing some images."""

    num_timed: int
    """Images that were timed."""
    seconds_per_image: float
    regions_per_image: float
    bytes_per_mask: int
    """Mean size of a mask with its line feed; 0 without masks."""


def _probe(job: CacheJob, num_probed: int) -> _Probe:
    """Process some images without writing them; the first batch warms up."""
    num_workers, _ = job.models.workers(job.num_batches)
    size = min(job.config.batch_size, -(-num_probed // num_workers))
    wanted = min(len(job.records), size * (1 + max(num_workers, -(-num_probed // size))))
    places = np.unique(np.linspace(0, len(job.records) - 1, wanted).round().astype(int))
    batches = [places[start : start + size] for start in range(0, len(places), size)]
    preparation = job.preparation

    def sizes_of(batch: NDArray[np.int64]) -> list[tuple[int, int]]:
        """Return the regions, and the bytes of their masks, of each usable image."""
        prepared = [preparation.prepare(job.records[place]) for place in batch.tolist()]
        usable = [image for image in prepared if isinstance(image, PreparedImage)]
        samples = featurize(job.models, usable, job.locator, codec=job.config.codec)
        return [
            (sample.num_regions, sum(len(counts) + 1 for counts in sample.masks_rle or ()))
            for sample in samples
        ]

    found = sizes_of(batches[0])
    timed = batches[1:] or batches
    start = time.perf_counter()
    for of_batch in job.models.map_batches(sizes_of, timed, num_batches=job.num_batches):
        found += of_batch
    seconds = time.perf_counter() - start
    num_timed = sum(map(len, timed))
    num_regions, mask_bytes = np.array(found, np.int64).reshape(-1, 2).sum(axis=0).tolist()
    return _Probe(
        num_timed=num_timed,
        seconds_per_image=seconds / num_timed,
        regions_per_image=num_regions / max(len(found), 1),
        bytes_per_mask=round(mask_bytes / max(num_regions, 1)),
    )
