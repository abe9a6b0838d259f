"""What a cache is scored by: its LVIS file, its own regions, or another file's."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from helpers.format3 import as_format3
from regionspot.cache import FeatureCache
from regionspot.core.errors import (
    AnnotationError,
    CacheMismatchError,
    ConfigError,
    MissingFileError,
)
from regionspot.evaluation import open_evaluation_data
from regionspot.scoring import CocoGroundTruth, LvisGroundTruth

MakeCache = Callable[..., Path]
AnnotationsOf = Callable[[Path], Path]


def as_coco(path: Path) -> Path:
    """Take from an LVIS file what makes it one."""
    content = json.loads(path.read_text())
    for number, image in enumerate(content["images"]):
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
        image["file_name"] = f"{number}.jpg"
    for category in content["categories"]:
        del category["frequency"]
    path.write_text(json.dumps(content))
    return path


def test_the_regions_of_a_cache_are_its_ground_truth(make_cache: MakeCache) -> None:
    folder = make_cache(annotation_format="coco", empty=[2])
    data = open_evaluation_data(folder, None, None)
    assert isinstance(data.truth, CocoGroundTruth)
    assert data.metric == "coco"
    with FeatureCache.open(folder) as cache:
        for position in range(len(cache)):
            sample = cache.sample(position)
            rows = data.truth.region_images == sample.image_id
            np.testing.assert_array_equal(data.truth.region_labels[rows], sample.labels)
            x1, y1, x2, y2 = sample.boxes_xyxy.T
            sides = np.stack([x1, y1, x2 - x1, y2 - y1], axis=1)
            np.testing.assert_array_equal(data.truth.boxes_xywh[rows], sides)
        assert set(data.truth.image_ids) == set(cache.index.image_ids.tolist())
    assert data.summary.num_regions == data.summary.num_cached_regions


def test_lvis_caches_need_their_file_or_the_other_metric(
    make_cache: MakeCache, annotations_of: AnnotationsOf
) -> None:
    folder = make_cache()
    with pytest.raises(ConfigError, match=r"Set --annotations to the LVIS file, or --metric coco"):
        open_evaluation_data(folder, None, None)
    assert open_evaluation_data(folder, None, None, metric="coco").metric == "coco"
    data = open_evaluation_data(folder, annotations_of(folder), None)
    assert isinstance(data.truth, LvisGroundTruth)


def test_proposals_are_scored_by_the_annotation_file(
    make_cache: MakeCache, annotations_of: AnnotationsOf
) -> None:
    folder = make_cache(annotation_format="coco", proposals="drawn")
    with pytest.raises(CacheMismatchError, match=r"are proposals \(drawn\).*--annotations"):
        open_evaluation_data(folder, None, None)
    path = as_coco(annotations_of(make_cache("annotated")))  # the same boxes, with their classes
    content = json.loads(path.read_text())
    data = open_evaluation_data(folder, path, None)
    assert isinstance(data.truth, CocoGroundTruth)
    assert data.truth.num_annotations == len(content["annotations"])


def test_a_file_of_other_images_or_classes_is_refused(
    make_cache: MakeCache, annotations_of: AnnotationsOf
) -> None:
    folder = make_cache(annotation_format="coco")
    path = as_coco(annotations_of(folder))
    content = json.loads(path.read_text())
    content["categories"][0]["name"] = "orange"
    path.write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match=r"it lacks class 1 \('lemon'\)\. Set --annotations"):
        open_evaluation_data(folder, path, None)


def write_images(folder: Path, names: Iterable[str]) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"not read here")
    return folder


def test_a_cache_knows_its_image_files_without_the_annotations(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    folder = make_cache(annotation_format="coco")
    images = write_images(tmp_path / "images", [f"image{n:03d}.jpg" for n in range(12)])
    data = open_evaluation_data(folder, None, images)
    cache = data.cache
    assert dict(data.image_paths) == {
        sample.image_id: images / f"{sample.key}.jpg"
        for sample in (cache.sample(position) for position in range(len(cache)))
    }
    (images / "image003.jpg").unlink()
    with pytest.raises(MissingFileError, match=r"lacks 1 of 12 images.*Set --images_dir"):
        open_evaluation_data(folder, None, images)


def test_an_older_cache_of_other_formats_than_csv_needs_the_file(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    folder = as_format3(make_cache(annotation_format="coco"), tmp_path / "old")
    images = write_images(tmp_path / "images", [f"image{n:03d}.jpg" for n in range(12)])
    with pytest.raises(ConfigError, match=r"was made from coco annotations.*Set --annotations"):
        open_evaluation_data(folder, None, images)


def test_an_older_cache_from_csv_finds_images_by_their_keys(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    folder = as_format3(make_cache(annotation_format="csv"), tmp_path / "old")
    images = write_images(tmp_path / "images", ["other.jpg"])
    with pytest.raises(MissingFileError, match=r"lacks 12 of 12 images"):
        open_evaluation_data(folder, None, images)
