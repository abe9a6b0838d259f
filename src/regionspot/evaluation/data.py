"""What an evaluation runs on: a cache and its ground truth, checked to belong together."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations import (
    FORMATS,
    AnnotatedImages,
    CocoMasks,
    read_annotations,
)
from regionspot.cache import MERGED, FeatureCache, read_quarantine
from regionspot.core.errors import AnnotationError, ConfigError, MissingFileError
from regionspot.core.json_text import load_json
from regionspot.inference import find_all_images
from regionspot.scoring import (
    CocoGroundTruth,
    IouType,
    LvisGroundTruth,
    Metric,
    check_same_data,
)
from regionspot.scoring.results import EvaluatedData

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """A cache, the ground truth it is scored by, and where the pixels are."""

    cache: FeatureCache
    """The images to evaluate on."""
    truth: LvisGroundTruth | CocoGroundTruth
    """Ground truth of the images that count: those that the cache was planned for."""
    annotations_path: Path | None
    """The annotation file; None if the ground truth is what the cache holds."""
    images_dir: Path | None
    """Folder of the images."""
    positions: tuple[int, ...]
    """Positions in the cache of the images that count, ascending."""
    image_paths: Mapping[int, Path]
    """The image file of every annotated image, by image id; {} where no pixels are at hand."""
    summary: EvaluatedData
    """What metrics.json and the report say about the data."""

    @property
    def metric(self) -> Metric:
        """What AP means."""
        return "lvis" if isinstance(self.truth, LvisGroundTruth) else "coco"

    @property
    def images_from(self) -> str:
        """What says where the images are, for messages."""
        return str(self.annotations_path or self.images_dir)

    @property
    def class_names(self) -> Mapping[int, str]:
        """Names of all annotated classes by id."""
        if isinstance(self.truth, CocoGroundTruth):
            return dict(zip(self.truth.category_ids, self.truth.class_names, strict=True))
        return {category.id: category.name for category in self.truth.categories}

    @property
    def num_unknown_classes(self) -> int:
        """Annotated classes that are not in the cache's vocabulary: never predicted."""
        return len(self.class_names) - len(self.cache.manifest.vocabulary)

    @cached_property
    def labels(self) -> Mapping[int, NDArray[np.int64]]:
        """Classes of each image's regions, (R,), by image id, in the cache's order; or all -1."""
        samples = (self.cache.sample(position) for position in self.positions)
        return {sample.image_id: np.array(sample.labels) for sample in samples}


def open_evaluation_data(
    cache_dir: str | Path,
    annotations_path: Path | None,
    images_dir: Path | None,
    *,
    metric: Metric | None = None,
    image_ids_path: Path | None = None,
    iou_type: IouType = "bbox",
) -> EvaluationData:
    """Open a cache and its ground truth.

    Under the LVIS metric the annotation file is the ground truth. Images that could not be read
    when the cache was made (quarantined) count: their regions are missed. Images beyond the cache's
    plan (it was made with ``--limit``) do not. Under the COCO metric the regions of the cache are
    the ground truth or, if these are proposals or masks are compared, those of the annotation file.

    Args:
        cache_dir: Folder or URL of the feature cache.
        annotations_path: The annotation file that it was made from.
        images_dir: Folder of the images, if their pixels are wanted.
        metric: What AP shall mean; None for LVIS AP on a cache of LVIS annotations, else COCO AP.
        image_ids_path: File of the ids of the images that count; None for all.
        iou_type: Whether boxes or masks are compared, which then are read.

    Raises:
        ConfigError: The metric, mask AP, or finding the images, needs an annotation file.
        MissingFileError: The cache, the annotation file or the folder of images is not there.
        CacheCorruptError: The cache is not finished, or damaged.
        CacheMismatchError: The cache cannot be its own ground truth.
        AnnotationError: The file has another format, or is not of the images and classes of the
            cache.
    """
    cache = FeatureCache.open(cache_dir)
    if images_dir is not None and not images_dir.is_dir():
        raise MissingFileError(
            f"there is no images folder at {images_dir}. Set --images_dir to the folder that the"
            " cache was made from, or leave it out."
        )
    chosen = None if image_ids_path is None else read_image_ids(image_ids_path)
    if (metric or _default_metric(cache, annotations_path)) == "coco":
        return _open_coco(cache, annotations_path, images_dir, chosen, iou_type)
    if annotations_path is None:
        raise ConfigError(
            f"LVIS AP of {cache.location} needs to know which classes were looked for in each"
            " image. Set --annotations to the LVIS file, or --metric coco for COCO AP of the"
            " regions in the cache."
        )
    return _open_lvis(cache, annotations_path, images_dir, chosen, iou_type)


def read_image_ids(path: Path) -> frozenset[int]:
    """Read the ids of the images that count, such as those of LVIS minival.

    Args:
        path: A JSON list of ids, a JSON file with a list ``images`` (LVIS, COCO), or a text file
            with one id a line.

    Raises:
        MissingFileError: There is no such file.
        ConfigError: It holds something else, or no id.
    """
    if not path.is_file():
        raise MissingFileError(f"no file of image ids at {path}. Correct --image_ids.")
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        found = load_json(text) if text.lstrip()[:1] in {"[", "{"} else text.split()
        if isinstance(found, dict):
            found = [entry["id"] for entry in found["images"]]
        ids = frozenset(int(value) for value in cast("list[str]", found))
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{path} is no file of image ids ({type(error).__name__}: {error}). Wanted a JSON list"
            " of ids, a JSON file with a list of images, or a text file with one id a line."
        ) from error
    if not ids:
        raise ConfigError(f"{path} holds no image id.")
    return ids


def missing_reasons(cache: FeatureCache) -> Counter[str]:
    """Count why images were left out of a cache."""
    return Counter(image.reason for image in read_quarantine(cache.path))


def _default_metric(cache: FeatureCache, annotations_path: Path | None) -> Metric:
    found = cache.manifest.annotation_format
    is_merged_lvis = found == MERGED and annotations_path is not None
    return "lvis" if found == "lvis" or is_merged_lvis else "coco"


def _open_lvis(
    cache: FeatureCache,
    annotations_path: Path,
    images_dir: Path | None,
    chosen: frozenset[int] | None,
    iou_type: IouType,
) -> EvaluationData:
    whole = LvisGroundTruth.read(annotations_path, with_masks=iou_type == "segm")
    for remark in check_same_data(cache, whole, option="--annotations"):
        _logger.warning(remark)
    planned = _counted_ids(cache, chosen)
    is_subset = not planned.issuperset(whole.image_ids)
    truth = whole.subset(planned) if is_subset else whole
    if is_subset:
        _logger.warning(
            "%d of the %d annotated images are scored",
            len(truth.image_ids),
            len(whole.image_ids),
        )
    annotated = None
    if images_dir is not None:
        annotated = read_annotations("lvis", annotations_path, images_dir)
    return EvaluationData(
        cache=cache,
        truth=truth,
        annotations_path=annotations_path,
        images_dir=images_dir,
        positions=_positions(cache, truth.image_ids),
        image_paths=_image_paths(cache, annotated, images_dir),
        summary=_summary(cache, truth, is_subset=is_subset, annotation_sha256=truth.sha256),
    )


def _image_paths(
    cache: FeatureCache, annotated: AnnotatedImages | None, images_dir: Path | None
) -> Mapping[int, Path]:
    if images_dir is None:
        return {}
    if annotated is None:
        return find_all_images(cache, images_dir)
    return {record.image_id: images_dir / record.file_name for record in annotated.records}


def _open_coco(
    cache: FeatureCache,
    annotations_path: Path | None,
    images_dir: Path | None,
    chosen: frozenset[int] | None,
    iou_type: IouType,
) -> EvaluationData:
    annotated = None
    if annotations_path is not None:
        annotated = _read_same_data(cache, annotations_path, images_dir)
    if annotations_path is not None and iou_type == "segm":
        found = CocoMasks.read(annotations_path)
        truth = CocoGroundTruth.of_masks(found, _planned_ids(cache))
    elif annotated is not None and cache.manifest.proposals is not None:
        truth = CocoGroundTruth.of_annotations(annotated, _planned_ids(cache))
    else:
        truth = CocoGroundTruth.of_cache(cache)
    if chosen is not None:
        truth = truth.subset(_counted_ids(cache, chosen))
    return EvaluationData(
        cache=cache,
        truth=truth,
        annotations_path=annotations_path,
        images_dir=images_dir,
        positions=_positions(cache, truth.image_ids),
        image_paths=_image_paths(cache, annotated, images_dir),
        summary=_summary(
            cache,
            truth,
            is_subset=chosen is not None,
            annotation_sha256=cache.manifest.annotation_sha256,
        ),
    )


def _read_same_data(
    cache: FeatureCache, annotations_path: Path, images_dir: Path | None
) -> AnnotatedImages:
    """Read the annotation file of a cache and check that its images and classes are the same."""
    found = cache.manifest.annotation_format
    if found not in FORMATS:
        raise ConfigError(
            f"{cache.location} is a merged cache, and its images were named by several files. Leave"
            " --annotations out, or evaluate its sources one by one."
        )
    annotated = read_annotations(found, annotations_path, images_dir)
    theirs = dict(zip(annotated.category_ids, annotated.vocabulary, strict=True))
    ours = dict(zip(cache.manifest.category_ids, cache.manifest.vocabulary, strict=True))
    strange = [
        f"class {number} ({name!r})" for number, name in ours.items() if theirs.get(number) != name
    ]
    listed = {record.image_id for record in annotated.records}
    strange += [f"image {number}" for number in sorted(_planned_ids(cache) - listed)]
    if strange:
        raise AnnotationError(
            f"{annotations_path} is not what {cache.location} was made from: it lacks"
            f" {', '.join(strange[:3])}. Set --annotations to the file that"
            f" {cache.manifest.name!r} was cached from."
        )
    return annotated


def _planned_ids(cache: FeatureCache) -> set[int]:
    quarantined = (image.image_id for image in read_quarantine(cache.path))
    return {*cache.index.image_ids.tolist(), *quarantined}


def _counted_ids(cache: FeatureCache, chosen: frozenset[int] | None) -> set[int]:
    """Return the images of the cache's plan that count."""
    planned = _planned_ids(cache)
    if chosen is None:
        return planned
    strange = chosen - planned
    if strange:
        raise ConfigError(
            f"--image_ids lists {len(strange):,} of {len(chosen):,} images that {cache.location}"
            f" does not hold, e.g. {min(strange)}. Give ids of images in the cache."
        )
    return set(chosen)


def _positions(cache: FeatureCache, image_ids: Sequence[int]) -> tuple[int, ...]:
    rows = np.isin(cache.index.image_ids, np.array(image_ids, np.int64))
    return tuple(np.flatnonzero(rows).tolist())


def _summary(
    cache: FeatureCache,
    truth: LvisGroundTruth | CocoGroundTruth,
    *,
    is_subset: bool,
    annotation_sha256: str,
) -> EvaluatedData:
    positions = _positions(cache, truth.image_ids)
    return EvaluatedData(
        name=cache.manifest.name,
        num_images=len(truth.image_ids),
        num_missing_images=len(truth.image_ids) - len(positions),
        num_regions=truth.num_annotations,
        num_cached_regions=int(cache.index.num_regions[list(positions)].sum()),
        proposals=cache.manifest.proposals,
        num_classes=len(cache.manifest.vocabulary),
        is_subset=is_subset,
        annotation_sha256=annotation_sha256,
        knows_missing_regions=isinstance(truth, LvisGroundTruth)
        or truth.masks is not None
        or cache.manifest.proposals is not None,
    )
