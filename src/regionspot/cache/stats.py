"""Statistics of a cache from its index, manifest and labels, without reading feature maps."""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regionspot.cache.feature_cache import FeatureCache
from regionspot.cache.layout import ARRAY_MEMBERS, REPAIR_COMMAND, shards_path, text_banks_path
from regionspot.cache.manifest import MeasuredError
from regionspot.cache.quarantine import read_quarantine
from regionspot.cache.regular_files import open_regular
from regionspot.cache.sidecar import ShardLayout
from regionspot.cache.text_banks import TextBankStore
from regionspot.core.errors import CacheCorruptError

_NUM_CLASSES_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """What is in a cache; the fields are the keys of ``regionspot cache stats --json``."""

    cache_dir: str
    """Folder or URL of the cache."""
    name: str
    """Name of the data set."""
    annotation_format: str
    """Format of its annotations."""
    prompt: str
    """What of a region SAM was shown."""
    proposals: str | None
    """Which proposals the regions are; None where they are annotated."""
    sam_model: str
    """Name of the localizer."""
    clip_model: str
    """Name of the encoder."""
    precision: str
    """In which precision they ran."""
    codec: str
    """How feature maps are stored."""
    measured_error: MeasuredError | None
    """What codec and precision cost, as the manifest states it; None where both are the default."""
    num_shards: int
    """Shards."""
    num_images: int
    """Images, without quarantined ones."""
    num_images_without_regions: int
    """Images among them without a region."""
    num_quarantined: int
    """Images that were left out."""
    quarantine_reasons: dict[str, int]
    """Why, and how many for each reason, the most frequent first."""
    num_regions: int
    """Regions of all images."""
    regions_per_image: dict[str, float]
    """Their number by image: ``median``, ``p95`` (95 % have no more), ``max``."""
    num_clipped_regions: int
    """Regions that were clipped when their image was decoded."""
    num_dropped_regions: int
    """Regions that were dropped then, and are not among ``num_regions``."""
    num_classes: int
    """Names of the vocabulary."""
    num_classes_without_regions: int
    """Names among them that no region has."""
    most_frequent_classes: dict[str, int]
    """The names of most regions, and how many."""
    text_banks: list[str]
    """Template sets that there are text banks of."""
    shard_bytes: int
    """Size of all tars, with the sidecars."""
    total_bytes: int
    """Size of all files of the cache."""
    bytes_per_image: float
    """``total_bytes`` over ``num_images``; 0 for no image."""

    def to_json(self) -> str:
        """Return the fields as a JSON object."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)


def collect_stats(location: str | Path) -> CacheStats:
    """Describe a finished cache.

    Args:
        location: The cache's folder, or its URL.

    Raises:
        MissingFileError: The folder is no cache.
        CacheMismatchError: It is of another schema version.
        CacheCorruptError: It is not finished, or damaged where it was read.
        StorageError: The URL's server refuses, or does not answer.
    """
    with FeatureCache.open(location) as cache:
        manifest, index, cache_dir = cache.manifest, cache.index, cache.path
        sizes = cache.files.sizes()
    counts = index.num_regions
    shard_files = [name for name in sizes if Path(name).parent == shards_path(Path())]
    by_label = np.argsort(-index.label_counts, kind="stable")[:_NUM_CLASSES_SHOWN].tolist()
    store = TextBankStore(text_banks_path(cache_dir))
    return CacheStats(
        cache_dir=str(location),
        name=manifest.name,
        annotation_format=manifest.annotation_format,
        prompt=manifest.prompt,
        proposals=manifest.proposals,
        sam_model=manifest.fingerprint.sam_model,
        clip_model=manifest.fingerprint.clip_model,
        precision=manifest.precision,
        codec=manifest.codec,
        measured_error=manifest.measured_error,
        num_shards=index.num_shards,
        num_images=len(index),
        num_images_without_regions=int((counts == 0).sum()),
        num_quarantined=index.num_quarantined,
        quarantine_reasons=_reasons(cache_dir),
        num_regions=int(counts.sum()),
        regions_per_image={
            "median": float(np.median(counts)) if len(counts) else 0.0,
            "p95": float(np.percentile(counts, 95)) if len(counts) else 0.0,
            "max": float(counts.max(initial=0)),
        },
        num_clipped_regions=index.num_clipped_regions,
        num_dropped_regions=index.num_dropped_regions,
        num_classes=len(manifest.vocabulary),
        num_classes_without_regions=int((index.label_counts == 0).sum()),
        most_frequent_classes={
            manifest.vocabulary[label]: int(index.label_counts[label])
            for label in by_label
            if index.label_counts[label]
        },
        text_banks=list(store.templates_of(manifest.vocabulary)),
        shard_bytes=sum(sizes[name] for name in shard_files),
        total_bytes=sum(sizes.values()),
        bytes_per_image=sum(sizes.values()) / len(index) if len(index) else 0.0,
    )


def _reasons(cache_dir: Path) -> dict[str, int]:
    reasons = Counter(image.reason for image in read_quarantine(cache_dir))
    return dict(reasons.most_common())


_COLUMN = ARRAY_MEMBERS.index("labels.npy")
_LABEL_BYTES = 8
_NUM_THREADS = 8
"""A disk gives its full rate only to many requests at once."""


def read_labels(cache: FeatureCache) -> NDArray[np.int32]:
    """Return the labels of all regions of a cache, image after image in its order.

    Only the labels are read, a page of the disk for each image: no checksum of the image, which is
    compared when training reads it. Instead the labels must add up to the index's counts of each
    class. Of a cache behind a URL every shard is fetched.

    Returns:
        Labels, (sum of ``cache.index.num_regions``,).

    Raises:
        CacheCorruptError: These are not the labels that the index counted.
        StorageError: A shard cannot be fetched.
    """
    index = cache.index
    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        parts = list(threads.map(lambda shard: _of_shard(cache, shard), range(index.num_shards)))
    labels = np.concatenate([np.zeros(0, np.int32), *parts])
    num_classes = len(index.label_counts)
    known = labels[(labels >= 0) & (labels < num_classes)]
    if not np.array_equal(np.bincount(known, minlength=num_classes), index.label_counts):
        raise CacheCorruptError(
            f"{cache.location} holds other labels than its index counted, so a shard is damaged."
            f" List all damage with `regionspot cache verify`, and make it again: {REPAIR_COMMAND}"
        )
    return labels


def _of_shard(cache: FeatureCache, shard: int) -> NDArray[np.int32]:
    sidecar_sha256 = cache.index.sidecar_sha256[shard].decode("ascii")
    with cache.files.tar(shard, sidecar_sha256) as path:
        content = b"".join(_label_bytes(path, cache.index.layout(shard)))
    whole = content[: len(content) // _LABEL_BYTES * _LABEL_BYTES]  # a tar may be cut short
    return np.frombuffer(whole, "<i8").clip(-1, np.iinfo(np.int32).max).astype(np.int32)


def _label_bytes(path: Path, layout: ShardLayout) -> Iterator[bytes]:
    # Not through a memory map: there the system would read a good part of each image along.
    with open_regular(path) as file:
        descriptor = file.fileno()
        if sys.platform == "linux":
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        counts, offsets = layout.num_regions.tolist(), layout.data_offsets[:, _COLUMN].tolist()
        for count, offset in zip(counts, offsets, strict=True):
            yield os.pread(descriptor, count * _LABEL_BYTES, offset)
