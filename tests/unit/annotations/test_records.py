"""Records made from columns; the oracle applies the rules box by box, in plain Python."""

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regionspot.annotations import (
    ImageRecord,
    KeepOrDrop,
    ReadOptions,
    Reason,
    read_annotations,
    read_coco_json,
)
from regionspot.annotations.box_checks import is_repeated
from regionspot.annotations.columns import TextColumn
from regionspot.core.errors import AnnotationError, ShapeError

Json = dict[str, Any]
SIZES_HW = {5: (50, 100), 9: (2, 2), 1: (7, 300)}
CATEGORY_IDS = (3, 8)
HALF = float(np.finfo(np.float32).max) / 2

SIDES = st.one_of(
    st.sampled_from([0, 1, 2, 3, -1, 0.5, 2.5, 100, -0.0, 1e-60, 3e38]),
    st.floats(-400, 400),
    st.floats(),
)
ENTRIES = st.fixed_dictionaries(
    {
        "image_id": st.sampled_from([5, 9, 1, 9, 5, 77]),
        "category_id": st.sampled_from([3, 8, 3, 8, 4]),
        "bbox": st.lists(SIDES, min_size=4, max_size=4),
        "iscrowd": st.sampled_from([0, 0, 0, 1]),
    }
)


def outcome_of(entry: Json, seen: set[tuple[Any, ...]], *, drop_crowds: bool) -> Reason | Any:
    """Return the reason against an annotation, or its box, label and whether it was clipped."""
    if entry["image_id"] not in SIZES_HW:
        return Reason.UNKNOWN_IMAGE
    if entry["category_id"] not in CATEGORY_IDS:
        return Reason.UNKNOWN_CATEGORY
    if entry["iscrowd"] and drop_crowds:
        return Reason.CROWD
    if not all(abs(side) < HALF for side in entry["bbox"]):
        return Reason.NOT_FINITE
    if min(entry["bbox"][2:]) < 0:
        return Reason.NEGATIVE_SIZE
    x, y, width, height = map(np.float32, entry["bbox"])
    x2, y2 = x + width, y + height
    if min(entry["bbox"][2:]) == 0 or not (x2 - x) * (y2 - y) > 0:
        return Reason.ZERO_AREA
    image_height, image_width = SIZES_HW[entry["image_id"]]
    box = (
        *(max(float(x), 0.0) + 0.0, max(float(y), 0.0) + 0.0),
        *(min(float(x2), image_width), min(float(y2), image_height)),
    )
    if not np.float32(max(box[2] - box[0], 0)) * np.float32(max(box[3] - box[1], 0)) > 0:
        return Reason.OUTSIDE
    identity = (entry["image_id"], entry["category_id"], box)
    if identity in seen:
        return Reason.DUPLICATE
    seen.add(identity)
    label = CATEGORY_IDS.index(entry["category_id"])
    return box, label, box != (float(x), float(y), float(x2), float(y2))


@settings(deadline=None)
@given(entries=st.lists(ENTRIES, max_size=30), drop_crowds=st.booleans())
def test_records_are_those_of_a_plain_recomputation(
    tmp_path_factory: pytest.TempPathFactory,
    entries: list[Json],
    drop_crowds: bool,  # noqa: FBT001 - drawn
) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = folder / "records.json"
    images = [
        {"id": number, "file_name": f"\u00e9/{number}.jpg", "height": h, "width": w}
        for number, (h, w) in SIZES_HW.items()
    ]
    categories = [{"id": number, "name": f"name {number}"} for number in CATEGORY_IDS]
    value = {"annotations": entries, "categories": categories, "images": images}
    path.write_text(json.dumps(value), encoding="utf-8")
    crowds: KeepOrDrop = "drop" if drop_crowds else "keep"
    with np.errstate(over="ignore"):
        seen: set[tuple[Any, ...]] = set()
        outcomes = [outcome_of(entry, seen, drop_crowds=drop_crowds) for entry in entries]

    options = ReadOptions(crowds=crowds, implausible="accept")
    data = read_annotations("coco", path, folder, options=options)

    kept = [v for v in outcomes if not isinstance(v, Reason)]
    dropped = Counter(outcome for outcome in outcomes if isinstance(outcome, Reason))
    assert {entry.reason: entry.count for entry in data.report.dropped} == dropped
    for entry in data.report.dropped:
        places = [place for place, outcome in enumerate(outcomes) if outcome is entry.reason]
        assert entry.first == tuple(places[:3])
    assert data.report.num_regions == len(kept)
    assert data.report.num_clipped == sum(is_clipped for _, _, is_clipped in kept)
    for image, record in zip(images, data.records, strict=True):
        wanted = [
            outcome
            for entry, outcome in zip(entries, outcomes, strict=True)
            if entry["image_id"] == image["id"] and not isinstance(outcome, Reason)
        ]
        assert (record.image_id, record.file_name) == (image["id"], image["file_name"])
        assert record.size_hw == SIZES_HW[record.image_id]
        assert record.labels.tolist() == [label for _, label, _ in wanted]
        assert [tuple(box) for box in record.boxes_xyxy.tolist()] == [box for box, _, _ in wanted]
        assert not np.signbit(record.boxes_xyxy).any()


@given(
    entries=st.lists(ENTRIES, max_size=12),
    numbers=st.lists(st.integers(0, 3).map(float), min_size=3, max_size=3),
    piece_bytes=st.integers(60, 600),
)
def test_careful_and_fast_decoding_give_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    entries: list[Json],
    numbers: list[float],
    piece_bytes: int,
) -> None:
    """480.0 for 480 and an odd neighbour send a piece through the careful decoder."""
    path = tmp_path_factory.getbasetemp() / "decoding.json"
    image = {"id": 5, "file_name": "a.jpg", "height": 4, "width": 4}
    sound = [
        {**entry, "bbox": [side if math.isfinite(side) else 1 for side in entry["bbox"]]}
        for entry in entries
    ]
    odd = [{**entry, "image_id": float(entry["image_id"]), "iscrowd": None} for entry in sound]
    found = []
    for images, annotations in (([image], sound), ([{**image, "height": 4.0}], odd)):
        value = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 3, "name": "a"}],
        }
        path.write_text(json.dumps(value))
        found.append(read_coco_json(path, format_name="coco", piece_bytes=piece_bytes))
    fast, careful = found
    assert fast.images.sizes_hw is not None
    assert careful.images.sizes_hw is not None
    np.testing.assert_array_equal(fast.images.sizes_hw, careful.images.sizes_hw)
    np.testing.assert_array_equal(fast.image_rows, careful.image_rows)
    np.testing.assert_array_equal(fast.labels, careful.labels)
    np.testing.assert_array_equal(fast.boxes_xyxy, careful.boxes_xyxy)
    np.testing.assert_array_equal(fast.faults, careful.faults)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    images = [
        {"id": n, "file_name": f"{n}.jpg", "height": 10, "width": 20} for n in (4, 2, 7, 1, 3)
    ]
    annotations = [
        {"image_id": n, "category_id": 1, "bbox": [n, 1, 2, 3]} for n in (1, 4, 1, 2, 4, 4)
    ]
    for place, entry in enumerate(annotations):
        entry["bbox"][1] += place  # type: ignore[index]
    path = tmp_path / "a.json"
    value = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    path.write_text(json.dumps(value))
    return path


def test_records_are_a_sequence_whose_slices_are_too(path: Path) -> None:
    records = read_annotations("coco", path, path.parent).records
    keys = [f"{number:012d}" for number in (4, 2, 7, 1, 3)]
    assert len(records) == 5
    assert [record.key for record in records] == records.keys() == keys
    assert records[-1].key == keys[-1]
    assert [record.key for record in records[1:4]] == records[1:4].keys() == keys[1:4]
    assert [record.key for record in records[1:][1:][::-1]] == keys[2:][::-1]
    assert records[:None].keys() == keys
    assert len(records[9:]) == 0
    assert [len(record.labels) for record in records] == [3, 1, 0, 2, 0]
    assert records[0].boxes_xyxy[:, 1].tolist() == [2, 5, 6]
    with pytest.raises(IndexError):
        records[5]
    with pytest.raises(IndexError):
        records[1:3][2]


def test_a_record_owns_its_arrays(path: Path) -> None:
    records = read_annotations("coco", path, path.parent).records
    records[0].boxes_xyxy[:] = 0
    assert records[0].boxes_xyxy.any()


def record(**changes: Any) -> ImageRecord:
    return replace(
        ImageRecord(
            key="a",
            image_id=1,
            file_name="a.jpg",
            annotated_size_hw=None,
            boxes_xyxy=np.array([[0.25, 0.5, 0.75, 1.0]], np.float32),
            labels=np.array([3]),
            box_unit="relative",
        ),
        **changes,
    )


def test_relative_boxes_become_pixels_of_the_decoded_image() -> None:
    resolved = record().resolved((40, 80)).record
    assert (resolved.size_hw, resolved.box_unit) == ((40, 80), "pixel")
    assert resolved.boxes_xyxy.tolist() == [[20, 20, 60, 40]]
    assert resolved.boxes_xyxy.dtype == np.float32
    assert resolved.labels.tolist() == [3]
    assert resolved.resolved((40, 80)).record is resolved


def test_boxes_in_pixels_are_clipped_to_the_decoded_image() -> None:
    boxes = [[1, 1, 90, 90], [50, 1, 60, 5], [2, 2, 3, 3], [1, 1, 95, 40], [1, 1, 70, 80]]
    unsized = record(
        boxes_xyxy=np.array(boxes, np.float32), labels=np.array([0, 1, 2, 0, 5]), box_unit="pixel"
    )
    found = unsized.resolved((30, 50))
    resolved = found.record
    assert (found.num_clipped, found.num_dropped) == (2, 2)
    # The second lies outside, and the fourth has become the first.
    assert resolved.boxes_xyxy.tolist() == [[1, 1, 50, 30], [2, 2, 3, 3], [1, 1, 50, 30]]
    assert resolved.labels.tolist() == [0, 2, 5]
    assert resolved.labels.dtype == np.int64


def test_a_record_without_regions_is_resolved_too() -> None:
    empty = record(boxes_xyxy=np.zeros((0, 4), np.float32), labels=np.zeros(0, np.int64))
    resolved = empty.resolved((3, 4)).record
    assert resolved.boxes_xyxy.shape == (0, 4)
    assert resolved.size_hw == (3, 4)


def test_a_size_that_nobody_knows_is_not_made_up() -> None:
    with pytest.raises(AnnotationError, match=r"a\.jpg.*no size.*resolved"):
        _ = record().size_hw
    sized = record().resolved((3, 4)).record
    with pytest.raises(ShapeError, match=r"annotated as \(3, 4\), but decoded to \(4, 3\)"):
        sized.resolved((4, 3))
    with pytest.raises(ShapeError, match=r"boxes are relative, but the size \(3, 4\) is known"):
        record(annotated_size_hw=(3, 4))


def test_what_is_no_record_is_refused() -> None:
    with pytest.raises(AnnotationError, match=r"'a\.b' cannot name a sample"):
        record(key="a.b")
    with pytest.raises(ShapeError, match=r"boxes \(1, 4\) and labels \(2,\) must be \(R, 4\)"):
        record(labels=np.array([1, 2]))


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "/",
        "a/..",
        "../a.jpg",
        "a/../b.jpg",
        "/a.jpg",
        "a\0.jpg",
        "\ud800.jpg",
        "./",
        "//a",
    ],
)
def test_names_that_no_file_has_are_found_among_many(tmp_path: Path, name: str) -> None:
    images = [
        {"id": n, "file_name": other, "height": 1, "width": 1}
        for n, other in enumerate(["..a.jpg", "a..jpg", "\u00e9.jpg", name, "b/.c"])
    ]
    path = tmp_path / "a.json"
    value = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    path.write_text(json.dumps(value))
    with pytest.raises(AnnotationError, match=r"image 3: (the|no) file|images\[3\] does not name"):
        read_annotations("coco", path, tmp_path)
    del images[3]
    path.write_text(json.dumps(value))
    assert len(read_annotations("coco", path, tmp_path).records) == 4


@given(st.lists(st.text(max_size=5)), st.lists(st.text(max_size=5)))
def test_a_column_of_texts_holds_them_all(left: list[str], right: list[str]) -> None:
    column = TextColumn.joined([TextColumn.from_texts(left), TextColumn.from_texts(right)])
    assert list(column) == [column[row] for row in range(len(column))] == left + right
    with pytest.raises(IndexError, match=rf"row {len(column)} of a column of {len(column)}"):
        column[len(column)]
    rows = np.arange(len(column))[::-2]
    assert list(column.take(rows)) == (left + right)[::-2]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.sampled_from([1.0, 2.0]))))
def test_repeats_are_found_wherever_they_stand(rows: list[tuple[int, int, float]]) -> None:
    wanted = [row in rows[:place] for place, row in enumerate(rows)]
    boxes = np.array([[0, 0, 1, side] for _, _, side in rows], np.float32).reshape(-1, 4)
    images, labels = (np.array([row[i] for row in rows], np.int32) for i in (0, 1))
    assert is_repeated(images, labels, boxes).tolist() == wanted


def test_equal_hashes_make_no_equal_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "regionspot.annotations.box_checks._hashes", lambda rows, *_: np.zeros(len(rows), np.uint64)
    )
    boxes = np.array([[0, 0, 1, 1], [0, 0, 1, 2], [0, 0, 1, 1]], np.float32)
    rows = np.zeros(3, np.int32)
    assert is_repeated(rows, rows, boxes).tolist() == [False, False, True]


def test_blocks_change_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = read_annotations("coco", path, path.parent)
    monkeypatch.setattr("regionspot.annotations.box_checks._BLOCK", 2)
    monkeypatch.setattr("regionspot.annotations.assembly._BLOCK", 2)
    found = read_annotations("coco", path, path.parent)
    assert found.report == wanted.report
    for ours, theirs in zip(found.records, wanted.records, strict=True):
        np.testing.assert_array_equal(ours.boxes_xyxy, theirs.boxes_xyxy)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
