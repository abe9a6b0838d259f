"""What a cache is scored by: its LVIS file, its own regions, or another file's."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from regionspot.cache import FeatureCache
from regionspot.core.errors import AnnotationError, CacheMismatchError, ConfigError
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


def test_pictures_of_other_formats_than_csv_need_the_file(
    make_cache: MakeCache, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with pytest.raises(ConfigError, match=r"was made from coco annotations.*Set --annotations"):
        open_evaluation_data(make_cache(annotation_format="coco"), None, images)
