"""Checking boxes and entries: literal tables, on small files in COCO's layout."""

import json
import typing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regionspot.annotations import (
    AnnotatedImages,
    KeepOrDrop,
    ReadOptions,
    Reason,
    read_annotations,
)
from regionspot.core.errors import AnnotationError, MissingFileError, VocabularyError

Json = dict[str, typing.Any]
WIDTH, HEIGHT = 100, 50


def image(**changes: object) -> Json:
    return {"id": 7, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT} | changes


def annotation(bbox: object, **changes: object) -> Json:
    return {"id": 1, "image_id": 7, "category_id": 3, "bbox": bbox} | changes


def content(*annotations: Json, **changes: object) -> Json:
    categories = [{"id": 9, "name": "dog"}, {"id": 3, "name": "cat"}]
    return {
        "images": [image()],
        "annotations": list(annotations),
        "categories": categories,
    } | changes


@pytest.fixture
def read(tmp_path: Path) -> Callable[[object], AnnotatedImages]:
    def write_and_read(value: object) -> AnnotatedImages:
        path = tmp_path / "annotations.json"
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
        return read_annotations("coco", path, tmp_path)

    return write_and_read


Read = Callable[[object], AnnotatedImages]


def test_a_good_box_becomes_a_region(read: Read) -> None:
    data = read(content(annotation([10, 5, 20, 30], category_id=9)))
    (record,) = data.records
    np.testing.assert_array_equal(record.boxes_xyxy, np.array([[10, 5, 30, 35]], np.float32))
    assert record.boxes_xyxy.dtype == np.float32
    assert record.labels.dtype == np.int64
    assert record.labels.tolist() == [1]  # categories in the order of their ids: 3 cat, 9 dog
    assert data.vocabulary.names == ("cat", "dog")
    assert data.category_ids == (3, 9)
    assert (record.key, record.image_id, record.size_hw) == ("000000000007", 7, (50, 100))
    assert data.name == "annotations"
    assert (data.report.num_regions, data.report.num_dropped, data.report.num_clipped) == (1, 0, 0)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (annotation([1, 1, 5, 5], image_id=8), Reason.UNKNOWN_IMAGE),
        (annotation([1, 1, 5, 5], image_id="seven"), Reason.UNKNOWN_IMAGE),
        (annotation([1, 1, 5, 5], category_id=4), Reason.UNKNOWN_CATEGORY),
        (annotation([1, 1, 5, 5], category_id=None), Reason.UNKNOWN_CATEGORY),
        (annotation([]), Reason.NO_BOX),
        (annotation([1, 1, 5]), Reason.NO_BOX),
        (annotation([1, 1, 5, None]), Reason.NO_BOX),
        (annotation(None), Reason.NO_BOX),
        (annotation([float("nan"), 1, 5, 5]), Reason.NOT_FINITE),
        (annotation([1, 1, float("inf"), 5]), Reason.NOT_FINITE),
        (annotation([1, 1, 10**400, 5]), Reason.NOT_FINITE),  # beyond all floats
        (annotation([1, 1, 3e38, 5]), Reason.NOT_FINITE),  # x + width beyond float32
        (annotation([20, 20, -5, 5]), Reason.NEGATIVE_SIZE),
        (annotation([20, 20, 0, 5]), Reason.ZERO_AREA),
        (annotation([99, 20, 1e-9, 5]), Reason.ZERO_AREA),  # float32: 99 + 1e-9 == 99
        (annotation([100, 20, 5, 5]), Reason.OUTSIDE),  # touches the right edge from outside
        (annotation([-10, 20, 10, 5]), Reason.OUTSIDE),
        (annotation([30, -10, 5, 5]), Reason.OUTSIDE),
        (annotation([2, 2, 8, 8]), Reason.DUPLICATE),
    ],
)
def test_what_is_no_region_is_dropped_and_counted_with_its_reason(
    read: Read, entry: Json, reason: Reason
) -> None:
    data = read(content(annotation([2, 2, 8, 8]), entry))
    assert [(found.reason, found.count, found.first) for found in data.report.dropped] == [
        (reason, 1, (1,))
    ]
    assert data.records[0].labels.tolist() == [0]
    assert any(reason in line and "annotations[1]" in line for line in data.report.lines())


@pytest.mark.parametrize(
    ("crowds", "num_regions", "num_crowds", "num_dropped"),
    [("keep", 2, 1, 0), ("drop", 1, 0, 1)],
)
def test_crowds_are_kept_or_dropped_as_asked_and_counted(
    tmp_path: Path, crowds: KeepOrDrop, num_regions: int, num_crowds: int, num_dropped: int
) -> None:
    path = tmp_path / "a.json"
    value = content(annotation([2, 2, 8, 8]), annotation([1, 1, 5, 5], iscrowd=1))
    path.write_text(json.dumps(value), encoding="utf-8")
    report = read_annotations("coco", path, tmp_path, options=ReadOptions(crowds=crowds)).report
    assert (report.num_regions, report.num_crowds) == (num_regions, num_crowds)
    assert report.dropped_for(Reason.CROWD) == num_dropped
    assert any("crowd" in line for line in report.lines())


@pytest.mark.parametrize(
    ("bbox", "wanted_xyxy"),
    [
        ([-5, 10, 20, 10], [0, 10, 15, 20]),  # left
        ([90, 10, 20, 10], [90, 10, 100, 20]),  # right
        ([10, 40, 20, 30], [10, 40, 30, 50]),  # below
        ([-1, -1, 200, 200], [0, 0, 100, 50]),  # all around
    ],
)
def test_boxes_over_the_edge_are_clipped_and_counted(
    read: Read, bbox: list[float], wanted_xyxy: list[float]
) -> None:
    data = read(content(annotation(bbox)))
    assert data.records[0].boxes_xyxy.tolist() == [wanted_xyxy]
    assert data.report.num_clipped == 1


def test_a_box_reaching_the_edge_is_not_clipped(read: Read) -> None:
    assert read(content(annotation([0, 0, 100, 50]))).report.num_clipped == 0


def test_one_box_of_two_categories_is_two_regions(read: Read) -> None:
    data = read(content(annotation([2, 2, 8, 8]), annotation([2, 2, 8, 8], category_id=9)))
    assert data.records[0].labels.tolist() == [0, 1]


def test_images_without_regions_stay(read: Read) -> None:
    data = read(content(annotation([2, 2, 8, 8]), images=[image(), image(id=8)]))
    assert [len(record.labels) for record in data.records] == [1, 0]
    assert data.records[1].boxes_xyxy.shape == (0, 4)
    assert data.report.num_images_without_regions == 1


def test_regions_keep_the_order_of_the_file_within_their_image(read: Read) -> None:
    boxes = [[x, 1, 2, 2] for x in (40, 10, 30, 20)]
    entries = [annotation(box, image_id=7 + index % 2) for index, box in enumerate(boxes)]
    data = read(content(*entries, images=[image(id=8), image(id=7)]))
    assert [record.image_id for record in data.records] == [8, 7]
    assert data.records[0].boxes_xyxy[:, 0].tolist() == [10, 20]
    assert data.records[1].boxes_xyxy[:, 0].tolist() == [40, 30]


def test_an_image_listed_twice_is_counted_once(read: Read) -> None:
    data = read(content(annotation([2, 2, 8, 8]), images=[image(), image()]))
    assert (len(data.records), data.report.num_repeated_images) == (1, 1)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (content(images=[image(), image(file_name="b.jpg")]), r"two images have the id 7"),
        (content(images=[]), r"lists no image"),
        (content(images=[image(width=0)]), r"not positive"),
        (content(images=[image(width="wide")]), r"images\[0\]\.width is 'wide'"),
        (content(images=[image(height=None)]), r"images\[0\]\.height is None"),
        (content(images=[image(id=-1)]), r"images\[0\]\.id is -1"),
        (content(images=[image(file_name=None)]), r"images\[0\] does not name its file"),
        (content(images=[image(file_name="../a.jpg")]), r"not a path below the images folder"),
        (content(images=[image(file_name="/etc/a.jpg")]), r"not a path below the images folder"),
        (content(images=[3]), r"images\[0\] is '3'; wanted an object"),
        (content({"bbox": [1, 1, 2, 2], "category_id": 3}), r"annotations\[0\] has no image_id"),
        (content({"image_id": 7, "category_id": 3}), r"none of its 1 annotations has a bbox"),
        (content(categories=[{"id": 3}]), r"categories\[0\]\.name is None"),
        (content(categories=[{"id": 3, "name": n} for n in "ab"]), r"'a' and for 'b'"),
        ({"images": [], "categories": []}, r"no list 'annotations'.*--annotations\.path"),
        ({"a": 1}, r"a JSON object with the keys a, which has no list 'images'"),
        (content({"segments_info": [], "image_id": 7}), r"annotations\[0\] has no category_id"),
        ([], r"a JSON list of 0 entries"),
        ([{"id": 1}, {"id": 2}], r"a JSON list of 2 objects with the keys id"),
        ({}, r"a JSON object with no keys"),
        (
            {"images": [image()], "annotations": [{"caption": "a cat"}]},
            r"a COCO captions file .*which has no list 'categories'",
        ),
        (content({"segments_info": []}) | {"images": {}}, r"a COCO panoptic file .*list 'images'"),
        ("3", r"a JSON int"),
    ],
)
def test_files_that_cannot_be_used_say_what_was_found(
    read: Read, value: object, message: str
) -> None:
    with pytest.raises(AnnotationError, match=message):
        read(value)


def test_two_categories_of_one_name_are_refused(read: Read) -> None:
    with pytest.raises(VocabularyError, match=r"annotations\.json: .*'a' already occurs"):
        read(content(categories=[{"id": n, "name": "a"} for n in (1, 2)]))


def test_a_category_without_a_name_is_refused(read: Read) -> None:
    with pytest.raises(VocabularyError, match=r"annotations\.json: .*name ' ' is empty or spans"):
        read(content(categories=[{"id": 1, "name": " "}]))


def test_a_cut_file_says_where_it_ends(read: Read) -> None:
    whole = json.dumps(content(annotation([2, 2, 8, 8])))
    with pytest.raises(AnnotationError, match=r"is cut off: it ends after 60 characters"):
        read(whole[:60])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"\x1f\x8b\x08\x00", r"is packed \(gzip\)"),
        (b"ImageID,Source,LabelName\n", r"is not JSON: Expecting value at line 1, column 1"),
        (b'{"images": [}', r"line 1, column 13 \(character 12\), near '}'"),
        (b"\xff\xd8\xff\xe0", r"byte 0 is not UTF-8"),
    ],
)
def test_files_that_are_not_json_say_what_and_where(
    tmp_path: Path, data: bytes, message: str
) -> None:
    path = tmp_path / "annotations.json"
    path.write_bytes(data)
    with pytest.raises(AnnotationError, match=message):
        read_annotations("coco", path, tmp_path)


def test_a_missing_file_lists_what_lies_there(tmp_path: Path) -> None:
    (tmp_path / "lvis_v1_val.json").write_text("{}")
    with pytest.raises(MissingFileError, match=r"does not exist.*lvis_v1_val\.json"):
        read_annotations("coco", tmp_path / "lvis_val.json", tmp_path)
    with pytest.raises(MissingFileError, match=r"is a folder.*lvis_v1_val\.json"):
        read_annotations("coco", tmp_path, tmp_path)


def test_a_missing_images_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"nowhere.*--annotations\.images_dir"):
        read_annotations("coco", tmp_path / "a.json", tmp_path / "nowhere")


def test_an_unknown_format_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"'darknet'.*coco, lvis"):
        read_annotations("darknet", tmp_path / "a.json", tmp_path)


SIDE = st.one_of(st.integers(-60, 160), st.floats(-1e3, 1e3, width=32), st.floats(), st.none())
ENTRY = st.builds(
    lambda box, image_id, category, crowd: annotation(
        box, image_id=image_id, category_id=category, iscrowd=crowd
    ),
    st.one_of(st.none(), st.lists(SIDE, max_size=5), st.lists(SIDE, min_size=4, max_size=4)),
    st.integers(6, 9),
    st.integers(2, 4),
    st.integers(0, 1),
)


@given(st.lists(ENTRY, max_size=12))
def test_every_annotation_is_kept_inside_its_image_or_counted(
    tmp_path_factory: pytest.TempPathFactory, entries: list[Json]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = folder / "many.json"
    usable = annotation([1, 1, 2.5, 2])
    value = content(usable, *entries, images=[image(), image(id=8)])
    path.write_text(json.dumps(value), encoding="utf-8")
    data = read_annotations("coco", path, folder, options=ReadOptions(implausible="accept"))
    report = data.report
    assert report.num_annotations == len(entries) + 1
    assert report.num_regions + report.num_dropped == report.num_annotations
    assert sum(len(record.labels) for record in data.records) == report.num_regions
    for record in data.records:
        x1, y1, x2, y2 = record.boxes_xyxy.T
        assert (x1 >= 0).all()
        assert (x1 < x2).all()
        assert (x2 <= WIDTH).all()
        assert (y1 >= 0).all()
        assert (y1 < y2).all()
        assert (y2 <= HEIGHT).all()


@pytest.mark.parametrize(
    ("dog", "cat", "wanted"),
    [
        (["dog", "hound"], ["cat"], (("cat",), ("dog", "hound"))),
        (["hound", "dog", "hound", " "], None, (("cat",), ("dog", "hound"))),  # own name first
        ([], [], (("cat",), ("dog",))),
        ([1, "hound"], {"a": 1}, (("cat",), ("dog", "hound"))),  # what is no text is no name
        (None, None, None),
    ],
)
def test_synonyms_are_all_names_of_a_class_its_own_first(
    read: Read, dog: object, cat: object, wanted: object
) -> None:
    categories = [
        {"id": 9, "name": "dog", "synonyms": dog},
        {"id": 3, "name": "cat", "synonyms": cat},
    ]
    data = read(content(annotation([1, 1, 5, 5]), categories=categories))
    assert data.synonyms == wanted
