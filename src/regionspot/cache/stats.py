"""Statistics of a cache, and its labels, without reading feature maps."""

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

from regionspot.cache.cache_files import open_regular
from regionspot.cache.feature_cache import FeatureCache
from regionspot.cache.layout import ARRAY_MEMBERS, REPAIR_ADVICE, SHARDS, text_banks_path
from regionspot.cache.manifest import MeasuredError
from regionspot.cache.sidecar import ShardLayout, read_quarantine
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
    schema_version: int
    """Version of the format."""
    prompt: str
    """Kind of prompt given to SAM for each region."""
    masks: bool
    """Whether SAM's masks are stored."""
    proposals: str | None
    """Identity of the proposals used as regions; None for annotated regions."""
    sam_model: str
    """Name of the localizer."""
    clip_model: str
    """Name of the encoder."""
    precision: str
    """Precision of both models."""
    codec: str
    """How feature maps are stored."""
    measured_error: MeasuredError | None
    """Error due to codec and precision; None if both are the default."""
    num_shards: int
    """Number of shards."""
    num_images: int
    """Number of images, without quarantined ones."""
    num_images_without_regions: int
    """Number of these images without a region."""
    num_quarantined: int
    """Number of quarantined images."""
    quarantine_reasons: dict[str, int]
    """Number of images per reason, the most frequent first."""
    num_regions: int
    """Number of regions of all images."""
    regions_per_image: dict[str, float]
    """Regions per image: ``median``, ``p95`` (95th percentile), ``max``."""
    num_clipped_regions: int
    """Number of regions that were clipped when their image was decoded."""
    num_dropped_regions: int
    """Number of regions that were dropped then; not part of ``num_regions``."""
    num_classes: int
    """Number of classes in the vocabulary."""
    num_classes_without_regions: int
    """Number of these classes without a region."""
    most_frequent_classes: dict[str, int]
    """Number of regions of the most frequent classes."""
    text_banks: list[str]
    """Template sets of the stored text banks."""
    shard_bytes: int
    """Size of all tars and sidecars."""
    total_bytes: int
    """Size of all files of the cache."""
    bytes_per_image: float
    """``total_bytes`` over ``num_images``; 0 without images."""

    def to_json(self) -> str:
        """Return the fields as a JSON object."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)


def collect_stats(location: str | Path) -> CacheStats:
    """Describe a finished cache.

    Args:
        location: The cache's folder, or its URL.

    Raises:
        MissingFileError: The folder is no cache.
        CacheMismatchError: It has another schema version.
        CacheCorruptError: It is not finished, or a file is damaged.
        StorageError: The server refuses access or does not answer.
    """
    with FeatureCache.open(location) as cache:
        manifest, index, cache_dir = cache.manifest, cache.index, cache.path
        sizes = cache.files.sizes()
    counts = index.num_regions
    by_label = np.argsort(-index.label_counts, kind="stable")[:_NUM_CLASSES_SHOWN].tolist()
    reasons = Counter(image.reason for image in read_quarantine(cache_dir))
    store = TextBankStore(text_banks_path(cache_dir))
    return CacheStats(
        cache_dir=str(location),
        name=manifest.name,
        annotation_format=manifest.annotation_format,
        schema_version=manifest.schema_version,
        prompt=manifest.prompt,
        masks=manifest.masks,
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
        quarantine_reasons=dict(reasons.most_common()),
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
        shard_bytes=sum(sizes[name] for name in sizes if Path(name).parent == Path(SHARDS)),
        total_bytes=sum(sizes.values()),
        bytes_per_image=sum(sizes.values()) / len(index) if len(index) else 0.0,
    )


_COLUMN = ARRAY_MEMBERS.index("labels.npy")
_LABEL_BYTES = 8
_NUM_THREADS = 8  # a disk reaches its full rate only with many requests at once


def read_labels(cache: FeatureCache) -> NDArray[np.int32]:
    """Return the labels of all regions of a cache, in the order of its images.

    Only the labels are read, one page of the disk per image. The images' checksums are not
    compared; instead the labels must add up to the index's count of each class. For a URL, every
    shard is downloaded.

    Returns:
        Labels, (sum of ``cache.index.num_regions``,).
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
            f" {REPAIR_ADVICE}"
        )
    return labels


def _of_shard(cache: FeatureCache, shard: int) -> NDArray[np.int32]:
    with cache.files.tar(shard, cache.index.sidecar_seal(shard)) as path:
        content = b"".join(_label_bytes(path, cache.index.layout(shard)))
    whole = content[: len(content) // _LABEL_BYTES * _LABEL_BYTES]  # a tar may be cut short
    return np.frombuffer(whole, "<i8").clip(-1, np.iinfo(np.int32).max).astype(np.int32)


def _label_bytes(path: Path, layout: ShardLayout) -> Iterator[bytes]:
    # Not through a memory map, where the system would also read a good part of each image.
    with open_regular(path) as file:
        descriptor = file.fileno()
        if sys.platform == "linux":
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        counts, offsets = layout.num_regions.tolist(), layout.data_offsets[:, _COLUMN].tolist()
        for count, offset in zip(counts, offsets, strict=True):
            yield os.pread(descriptor, count * _LABEL_BYTES, offset)
