import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.samples import GENUINE, OURS, sample_files
from regionspot.core.errors import (
    AnnotationError,
    MissingFileError,
    RegionSpotError,
    VocabularyError,
)
from regionspot.scoring import LvisGroundTruth, Predictions, score_lvis


def dataset() -> dict[str, Any]:
    return {
        "images": [
            {"id": 4, "neg_category_ids": [2], "not_exhaustive_category_ids": []},
            {"id": 3, "neg_category_ids": [], "not_exhaustive_category_ids": [1]},
        ],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 1, "bbox": [0, 0, 2, 2], "area": 4}
        ],
        "categories": [
            {"id": 2, "name": "b", "frequency": "f"},
            {"id": 1, "name": "a", "frequency": "r"},
        ],
    }


def read(tmp_path: Path, content: object) -> LvisGroundTruth:
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    return LvisGroundTruth.read(path)


def test_categories_come_in_order_of_ids(tmp_path: Path) -> None:
    truth = read(tmp_path, dataset())
    assert [(item.id, item.name, item.frequency) for item in truth.categories] == [
        (1, "a", "r"),
        (2, "b", "f"),
    ]
    assert truth.image_ids == (4, 3)
    assert truth.num_annotations == 1


def test_a_subset_keeps_every_category_and_the_identity_of_the_file(tmp_path: Path) -> None:
    truth = read(tmp_path, dataset())
    subset = truth.subset([4])
    assert (subset.image_ids, subset.num_annotations) == ((4,), 0)
    assert subset.categories == truth.categories
    assert subset.sha256 == truth.sha256
    assert truth.image_ids == (4, 3)


@pytest.mark.parametrize(
    ("path", "num_categories", "num_images"),
    sample_files(
        (OURS / "lvis/ground_truth.json", 9, 8),
        (GENUINE / "lvis/lvis_v0.5_val_100.json", 1230, 100),
    ),
)
def test_a_whole_lvis_file_is_read(path: Path, num_categories: int, num_images: int) -> None:
    truth = LvisGroundTruth.read(path)
    assert (len(truth.categories), len(truth.image_ids)) == (num_categories, num_images)


@pytest.mark.parametrize(
    "path",
    sample_files((OURS / "coco/instances.json",), (GENUINE / "coco/instances_val2014_100.json",)),
)
def test_a_whole_coco_file_is_refused_with_what_to_do(path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"lacks \['frequency'\].*not LVIS.*COCO AP"):
        LvisGroundTruth.read(path)


def test_a_missing_file_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"lvis_v1_val\.json from"):
        LvisGroundTruth.read(tmp_path / "nothing.json")


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    path.write_text(json.dumps(dataset())[:-9])
    with pytest.raises(AnnotationError, match="cut off"):
        LvisGroundTruth.read(path)


def without_negatives(content: dict[str, Any]) -> None:
    del content["images"][1]["neg_category_ids"]


def without_categories(content: dict[str, Any]) -> None:
    del content["categories"]


def with_strange_frequency(content: dict[str, Any]) -> None:
    content["categories"][0]["frequency"] = "often"


def with_null_negatives(content: dict[str, Any]) -> None:
    content["images"][1]["neg_category_ids"] = None


def with_a_negative_in_words(content: dict[str, Any]) -> None:
    content["images"][1]["neg_category_ids"] = ["cat"]


def with_text_for_a_list(content: dict[str, Any]) -> None:
    content["images"][0]["not_exhaustive_category_ids"] = "none"


def without_area(content: dict[str, Any]) -> None:
    del content["annotations"][0]["area"]


def with_null_area(content: dict[str, Any]) -> None:
    content["annotations"][0]["area"] = None


def without_image_id(content: dict[str, Any]) -> None:
    del content["annotations"][0]["image_id"]


def with_an_annotation_id_twice(content: dict[str, Any]) -> None:
    content["annotations"] += content["annotations"] * 2


def with_a_name_twice(content: dict[str, Any]) -> None:
    content["categories"][1]["name"] = "b"


def with_a_category_in_words(content: dict[str, Any]) -> None:
    content["categories"][0]["id"] = "first"


def with_null_for_an_annotation(content: dict[str, Any]) -> None:
    content["annotations"].append(None)


def without_images(content: dict[str, Any]) -> None:
    content["images"] = []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_negatives, r"images\[1\] lacks \['neg_category_ids'\]"),
        (without_categories, "no list 'categories'"),
        (with_strange_frequency, "frequency 'often'"),
        (with_null_negatives, r"images\[1\]\.neg_category_ids is None; wanted a list"),
        (with_a_negative_in_words, r"images\[1\]\.neg_category_ids is \['cat'\]; wanted a list"),
        (with_text_for_a_list, r"images\[0\]\.not_exhaustive_category_ids is none; wanted a list"),
        (without_area, r"annotations\[0\] lacks \['area'\]"),
        (with_null_area, r"annotations\[0\] has the area None; wanted"),
        (without_image_id, r"annotations\[0\] has no image_id"),
        (with_an_annotation_id_twice, r"annotations\[0\] and annotations\[1\] both have the id 1"),
        (with_null_for_an_annotation, r"annotations\[1\] is 'None'; wanted an object"),
        (with_a_category_in_words, r"categories\[0\]\.id is 'first'"),
        (without_images, "lists no image"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, spoil: Any, message: str) -> None:
    content = dataset()
    spoil(content)
    with pytest.raises(AnnotationError, match=message):
        read(tmp_path, content)


def test_names_of_classes_are_judged_as_in_caching(tmp_path: Path) -> None:
    content = dataset()
    with_a_name_twice(content)
    with pytest.raises(VocabularyError, match="categories 1 and 2 are named 'b'"):
        read(tmp_path, content)


def test_text_that_is_not_utf8_is_refused_with_the_option_to_set(tmp_path: Path) -> None:
    path = tmp_path / "latin1.json"
    path.write_bytes(json.dumps(dataset()).replace('"a"', '"caf\u00e9"').encode("latin-1"))
    with pytest.raises(AnnotationError, match=r"is not UTF-8 text.*with --val_annotations\."):
        LvisGroundTruth.read(path, option="--val_annotations")


SOUND = {"id": 1, "image_id": 3, "category_id": 1, "bbox": [0, 0, 2, 2], "area": 4}


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"image_id": 99}, "of images that the file does not list"),
        ({"image_id": None, "area": None}, "of images that the file does not list"),
        ({"category_id": 99, "area": None}, "of categories that it does not list"),
        ({"area": 0}, "whose area is not more than 0, as for lvis"),
        ({"area": -4.5, "bbox": []}, "whose area is not more than 0, as for lvis"),
        ({"area": float("nan")}, "whose area is not more than 0, as for lvis"),
        ({"bbox": []}, "without four finite numbers in bbox"),
        ({"bbox": None}, "without four finite numbers in bbox"),
        ({"bbox": "0 0 2 2"}, "without four finite numbers in bbox"),
        ({"bbox": [0, 0, 2, float("inf")]}, "without four finite numbers in bbox"),
        ({"bbox": [0, 0, 2, 10**400]}, "without four finite numbers in bbox"),
    ],
)
def test_annotations_that_do_not_count_are_told(
    tmp_path: Path, change: dict[str, Any], note: str
) -> None:
    content = dataset()
    content["annotations"] = [SOUND, {**SOUND, "id": 2, **change}]
    truth = read(tmp_path, content)
    assert truth.num_annotations == 1
    assert truth.notes == (f"not scored: 1 annotations {note} (annotations[1])",)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "a2"},
        {"id": None},
        {"iscrowd": None},
        {"iscrowd": 1},
        {"segmentation": None},
        {"ignore": None},
        {"image_id": 3.0},
        {"bbox": [0, 0, 0, 2]},
        {"bbox": [5, 5, -1, -1]},
    ],
)
def test_annotations_that_count_are_not_talked_about(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    content = dataset()
    content["annotations"] = [SOUND, {**SOUND, "id": 2, **change}]
    truth = read(tmp_path, content)
    assert (truth.num_annotations, truth.notes) == (2, ())


def test_an_image_that_is_listed_again_is_one_image(tmp_path: Path) -> None:
    content = dataset()
    content["images"].append({**content["images"][0], "neg_category_ids": [1]})
    truth = read(tmp_path, content)
    assert truth.image_ids == (4, 3)
    assert truth.labels[4].negative == (1,)  # of the last entry, as for lvis


def test_the_id_zero_is_told(tmp_path: Path) -> None:
    content = dataset()
    content["annotations"][0]["id"] = 0
    (note,) = read(tmp_path, content).notes
    assert "number annotations from 1" in note


def test_a_list_is_not_an_annotation_file(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="holds a list"):
        read(tmp_path, [])


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "1", "cat"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("id"), inner),
    max_leaves=4,
)
PLACES = st.sampled_from(
    [
        *(("images", 0, key) for key in ("id", "neg_category_ids", "not_exhaustive_category_ids")),
        *(("annotations", 0, key) for key in SOUND),
        *(("categories", 0, key) for key in ("id", "name", "frequency")),
        *((name, 0, None) for name in ("images", "annotations", "categories")),
        *((name, None, None) for name in ("images", "annotations", "categories")),
    ]
)


@pytest.mark.parametrize(
    "num_examples", [100, pytest.param(2000, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_junk_anywhere_ends_in_a_score_or_in_an_error_of_ours(
    tmp_path: Path, num_examples: int
) -> None:
    @settings(max_examples=num_examples, derandomize=True)
    @given(places=st.lists(st.tuples(PLACES, JUNK), min_size=1, max_size=3))
    def check(places: list[tuple[tuple[str, int | None, str | None], object]]) -> None:
        content = dataset()
        for (name, index, key), junk in places:
            if index is None:
                content[name] = junk
            elif isinstance(content[name], list) and content[name]:
                if key is None:
                    content[name][index] = junk
                elif isinstance(content[name][index], dict):
                    content[name][index][key] = junk
        with contextlib.suppress(RegionSpotError):
            score_lvis(read(tmp_path, content), Predictions.empty())

    check()


@pytest.mark.parametrize(
    "num_examples", [100, pytest.param(2000, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_damaged_bytes_end_in_a_score_or_in_an_error_of_ours(
    tmp_path: Path, num_examples: int
) -> None:
    sound = json.dumps(dataset()).encode()
    path = tmp_path / "damaged.json"

    @settings(max_examples=num_examples, derandomize=True)
    @given(
        place=st.integers(0, len(sound)),
        removed=st.integers(0, 40),
        inserted=st.binary(max_size=4) | st.sampled_from([b"[", b"}", b'"', b"1e999", b"NaN"]),
    )
    def check(place: int, removed: int, inserted: bytes) -> None:
        path.write_bytes(sound[:place] + inserted + sound[place + removed :])
        with contextlib.suppress(RegionSpotError):
            score_lvis(LvisGroundTruth.read(path), Predictions.empty())

    check()
