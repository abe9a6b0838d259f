"""What an evaluation runs on: a cache and its LVIS annotations, checked to belong together."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations import read_annotations
from regionspot.cache import FeatureCache, read_quarantine
from regionspot.scoring import LvisGroundTruth, check_same_data
from regionspot.scoring.results import EvaluatedData

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """A cache, the annotations it is scored by, and where the pixels are."""

    cache: FeatureCache
    """The images to evaluate on."""
    truth: LvisGroundTruth
    """Ground truth of the images that count: those that the cache was planned for."""
    annotations_path: Path
    """The annotation file."""
    image_paths: Mapping[int, Path]
    """The image file of every annotated image, by image id; {} where no pixels are at hand."""
    summary: EvaluatedData
    """What metrics.json and the report say about the data."""

    @cached_property
    def labels(self) -> Mapping[int, NDArray[np.int64]]:
        """Classes of each image's regions, (R,), by image id, in the cache's order; or all -1."""
        samples = (self.cache.sample(position) for position in range(len(self.cache)))
        return {sample.image_id: np.array(sample.labels) for sample in samples}


def open_evaluation_data(
    cache_dir: str | Path, annotations_path: Path, images_dir: Path | None
) -> EvaluationData:
    """Open a cache and its annotations.

    Images that could not be read when the cache was made (quarantined) count: their regions are
    missed. Images beyond the cache's plan (it was made with ``--limit``) do not.

    Args:
        cache_dir: Folder or URL of the feature cache.
        annotations_path: LVIS annotation file.
        images_dir: Folder of the images, if their pixels are wanted.

    Raises:
        MissingFileError: The cache, the annotation file or the folder of images is not there.
        CacheCorruptError: The cache is not finished, or damaged.
        AnnotationError: The file is not LVIS, or not of the images and classes of the cache.
    """
    cache = FeatureCache.open(cache_dir)
    whole = LvisGroundTruth.read(annotations_path)
    for remark in check_same_data(cache, whole, option="--annotations"):
        _logger.warning(remark)
    quarantined = _quarantined_ids(cache)
    planned = {*cache.index.image_ids.tolist(), *quarantined}
    is_subset = not planned.issuperset(whole.image_ids)
    truth = whole.subset(planned) if is_subset else whole
    if is_subset:
        _logger.warning(
            "the cache was planned for %d of the %d annotated images; only these are scored",
            len(truth.image_ids),
            len(whole.image_ids),
        )
    return EvaluationData(
        cache=cache,
        truth=truth,
        annotations_path=annotations_path,
        image_paths=_image_paths(annotations_path, images_dir),
        summary=EvaluatedData(
            name=cache.manifest.name,
            num_images=len(truth.image_ids),
            num_missing_images=len(quarantined),
            num_regions=truth.num_annotations,
            num_cached_regions=int(cache.index.num_regions.sum()),
            proposals=cache.manifest.proposals,
            num_classes=len(cache.manifest.vocabulary),
            is_subset=is_subset,
            annotation_sha256=truth.sha256,
        ),
    )


def missing_reasons(cache: FeatureCache) -> Counter[str]:
    """Count why images were left out of a cache."""
    return Counter(image.reason for image in read_quarantine(cache.path))


def _image_paths(annotations_path: Path, images_dir: Path | None) -> Mapping[int, Path]:
    if images_dir is None:
        return {}
    images = read_annotations("lvis", annotations_path, images_dir)
    return {record.image_id: images_dir / record.file_name for record in images.records}


def _quarantined_ids(cache: FeatureCache) -> list[int]:
    return [image.image_id for image in read_quarantine(cache.path)]
