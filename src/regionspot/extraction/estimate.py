"""What a cache will take, before anything is written: bytes to the last one, and about how long."""

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

_BYTES_BESIDE = 400
"""About what an image takes of sidecar, index and the like."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEstimate:
    """What a cache will take; the fields are the keys of ``regionspot cache plan --json``."""

    output_dir: str
    """Folder of the cache."""
    num_images: int
    """Images of the data set, unusable ones included."""
    num_regions: int | None
    """Their regions; None where SAM has yet to find them."""
    num_reused_images: int
    """Images whose feature map the cache that is reused has."""
    num_shards: int
    """Shards."""
    num_shards_done: int
    """Shards that are there already."""
    bytes_per_image: float
    """Mean size of an image's members in a shard."""
    total_bytes: int
    """Size of the whole cache."""
    missing_bytes: int
    """What has yet to be written of it."""
    free_bytes: int | None
    """What is free on the disk; None for a URL, where nobody can tell."""
    probed_images: int
    """Images that were run through the models to measure the time."""
    seconds_per_image: float
    """Time of the probed images over their number, after a first batch that does not count."""
    seconds: float
    """About how long the missing images take on this machine."""
    device: str
    """Where the models ran."""

    @property
    def fits(self) -> bool:
        """Whether the disk has room for what is missing."""
        return self.free_bytes is None or self.missing_bytes <= self.free_bytes

    def check_fits(self) -> None:
        """Refuse a disk that is too small.

        Raises:
            DiskError: There is not enough room.
        """
        if self.free_bytes is not None and not self.fits:
            raise DiskError(
                f"{self.output_dir} has yet to grow by {human_bytes(self.missing_bytes)}, but its"
                f" disk has only {human_bytes(self.free_bytes)} free. Make room, set another"
                " --output_dir, or cache fewer images (--limit)."
            )

    def to_json(self) -> str:
        """Return the fields as a JSON object."""
        return json.dumps({**asdict(self), "fits": self.fits}, indent=1)

    def lines(self) -> list[str]:
        """Say it in English, one fact a line."""
        found = f"{self.num_regions:,} regions"
        regions = "regions yet to find" if self.num_regions is None else found
        rate = 1 / self.seconds_per_image if self.seconds_per_image else 0.0
        shards = f"{self.num_shards:,} shards ({self.num_shards_done:,} of them there already)"
        total, missing = map(human_bytes, (self.total_bytes, self.missing_bytes))
        free = self.free_bytes
        room = "" if free is None else f", {human_bytes(free)} free on the disk"
        measured = f"{rate:,.2f} images/s, measured on {self.probed_images:,} images"
        reused = [f"{self.num_reused_images:,} feature maps of them are taken over"]
        return [
            f"{self.num_images:,} images, {regions}, {shards}",
            *(reused if self.num_reused_images else []),
            f"{human_bytes(self.bytes_per_image)} an image, {total} in all",
            f"{missing} yet to write{room}",
            f"about {human_duration(self.seconds)} on {self.device} ({measured})",
        ]


def estimate_cache(config: CacheConfig, *, num_probed: int = 16) -> CacheEstimate:
    """Say what a cache will take; nothing is written.

    Bytes follow from the annotations to the last one, less what unusable images save (for regions
    that SAM has yet to find, they follow from the probed images). Time is measured on images at
    even distances in the data set that go the whole way but onto the disk.

    Args:
        config: What to cache, and where.
        num_probed: Images to measure the time on, at least a batch; one batch more warms up.

    Raises:
        MissingFileError: The annotation file, the folder of images or a weights file is missing.
        AnnotationError: The annotations are in another format, or hold nothing to cache.
        CacheMismatchError: The folder holds a cache of other images, models or settings.
        DiskError: A file lies where the cache's folder should be.
        WeightsError: Weights do not fit their model, or give numbers that are not finite.
    """
    job = CacheJob(config)
    plan = job.manifest.plan
    done = job.destination.shards_there(job.manifest)
    probe = _probe(job, num_probed)
    num_regions = job.records.num_regions()
    if job.locator.grid is not None:
        num_regions = np.full(len(num_regions), round(probe.regions_per_image), np.int64)
    sizes = image_bytes(job.manifest, num_regions) + _BYTES_BESIDE
    is_missing = np.ones(len(sizes), np.bool_)
    for images in map(plan.images_of, done):
        is_missing[images.start : images.stop] = False
    return CacheEstimate(
        output_dir=job.destination.location,
        num_images=plan.num_images,
        num_regions=None if job.locator.grid is not None else int(num_regions.sum()),
        num_reused_images=0 if job.old_cache is None else job.old_cache.num_held(job.records),
        num_shards=plan.num_shards,
        num_shards_done=len(done),
        bytes_per_image=float(sizes.mean()),
        total_bytes=int(sizes.sum()),
        missing_bytes=int(sizes[is_missing].sum()),
        free_bytes=job.destination.free_bytes(),
        probed_images=probe.num_images,
        seconds_per_image=probe.seconds_per_image,
        seconds=probe.seconds_per_image * int(is_missing.sum()),
        device=str(job.models.encoder.device),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Probe:
    num_images: int
    seconds_per_image: float
    regions_per_image: float


def _probe(job: CacheJob, num_probed: int) -> _Probe:
    """Run some images the whole way, but onto the disk; the first batch warms up."""
    num_workers, _ = job.models.workers(job.num_batches)
    size = min(job.config.batch_size, -(-num_probed // num_workers))
    wanted = min(len(job.records), size * (1 + max(num_workers, -(-num_probed // size))))
    places = np.unique(np.linspace(0, len(job.records) - 1, wanted).round().astype(int))
    batches = [places[start : start + size] for start in range(0, len(places), size)]
    preparation = job.preparation

    def num_regions(batch: NDArray[np.int64]) -> list[int]:
        prepared = [preparation.prepare(job.records[place]) for place in batch.tolist()]
        usable = [image for image in prepared if isinstance(image, PreparedImage)]
        samples = featurize(job.models, usable, job.locator, codec=job.config.codec)
        return [sample.num_regions for sample in samples]

    counts = num_regions(batches[0])
    timed = batches[1:] or batches
    start = time.perf_counter()
    for of_batch in job.models.map_batches(num_regions, timed, num_batches=job.num_batches):
        counts += of_batch
    num_images = sum(map(len, timed))
    return _Probe(
        num_images=num_images,
        seconds_per_image=(time.perf_counter() - start) / num_images,
        regions_per_image=float(np.mean(counts)) if counts else 0.0,
    )
