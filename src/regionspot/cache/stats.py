"""What is in a cache, in numbers: from its index and manifest, without reading a shard."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from regionspot.cache.feature_cache import FeatureCache
from regionspot.cache.layout import shards_path, text_banks_path
from regionspot.cache.manifest import MeasuredError
from regionspot.cache.quarantine import read_quarantine
from regionspot.cache.text_banks import TextBankStore

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
