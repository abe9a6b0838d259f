"""Files whose annotations are wrong as a whole are refused; small files, literal numbers."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regionspot.annotations import (
    AnnotatedImages,
    AnnotationFormat,
    ReadOptions,
    Reason,
    read_annotations,
    read_proposals,
    with_proposals,
)
from regionspot.core.errors import AnnotationError

Json = dict[str, Any]
WIDTH, HEIGHT = 96, 64
# Five objects of an image of 96 x 64 pixels, by two corners and by corner and size.
CORNERS = [(8, 10, 38, 40), (50, 20, 90, 60), (40, 30, 95, 62), (60, 5, 80, 25), (2, 33, 90, 64)]
SIZES = [(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in CORNERS]
NORMALISED = [(0.08, 0.15, 0.31, 0.46), (0.5, 0.3, 0.4, 0.6)]


def content(boxes: Sequence[Sequence[float]], **changes: object) -> Json:
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": list(box)} for box in boxes],
        "categories": [{"id": 1, "name": "red box"}, {"id": 2, "name": "blue box"}],
    } | changes


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., AnnotatedImages]:
    def write_and_read(value: Json, **options: Any) -> AnnotatedImages:
        path = tmp_path / "a.json"
        path.write_text(json.dumps(value))
        return read_annotations("coco", path, tmp_path, options=ReadOptions(**options))

    return write_and_read


Read = Callable[..., AnnotatedImages]


def read_csv(
    folder: Path, boxes: Sequence[Sequence[float]], format_name: AnnotationFormat = "csv"
) -> AnnotatedImages:
    path = folder / "own.csv"
    classes = None
    if format_name == "csv":
        rows = [f"a.jpg,{','.join(map(str, box))},cat" for box in boxes]
        path.write_text("\n".join(["image,x1,y1,x2,y2,label", *rows]))
    else:
        header = "ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf,IsDepiction"
        rows = [f"{'0' * 16},/m/a,{x1},{x2},{y1},{y2},0,0" for x1, y1, x2, y2 in boxes]
        path.write_text("\n".join([header, *rows]))
        classes = folder / "classes.csv"
        classes.write_text("/m/a,ant\n")
    options = ReadOptions(classes_path=classes)
    return read_annotations(format_name, path, folder, options=options)


# Ids.


@pytest.mark.parametrize("spell", [str, float, "{}.0".format, " {} ".format, "{:04d}".format])
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("images", "id"),
        ("categories", "id"),
        ("annotations", "image_id"),
        ("annotations", "category_id"),
    ],
)
def test_ids_meet_however_a_list_spells_them(
    read: Read, name: str, key: str, spell: Callable[[int], object]
) -> None:
    value = content(SIZES)
    wanted = read(value)
    for entry in value[name]:
        entry[key] = spell(entry[key])
    found = read(value)
    assert found.report == wanted.report
    assert found.category_ids == (1, 2)
    assert found.records[0].image_id == 1
    assert found.records[0].labels.tolist() == [0] * len(SIZES)


@pytest.mark.parametrize("spell", [str, "{}.0".format])
def test_image_ids_of_proposals_meet_those_of_the_annotations(
    read: Read, tmp_path: Path, spell: Callable[[int], object]
) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps([{"image_id": spell(1), "bbox": SIZES[0], "score": 0.5}]))
    data = with_proposals(read(content(SIZES)), read_proposals(path))
    assert data.records[0].boxes_xyxy.tolist() == [list(CORNERS[0])]


@pytest.mark.parametrize(
    ("value", "is_crowd"),
    [
        *[(0, False), ("0", False), (False, False), (0.0, False), (None, False), ("False", False)],
        *[(1, True), ("1", True), (True, True), (1.0, True), ("true", True)],
        *[(2, None), (-1, None), ("no", None), ([], None), ({}, None), (0.5, None), ("", None)],
    ],
)
def test_iscrowd_means_what_it_says(
    read: Read,
    value: object,
    is_crowd: bool | None,  # noqa: FBT001 - a table
) -> None:
    boxes = content(SIZES)
    boxes["annotations"][1]["iscrowd"] = value
    report = read(boxes).report
    assert report.num_crowds == (is_crowd is True)
    assert report.dropped_for(Reason.ODD_CROWD) == (is_crowd is None)
    assert read(boxes, crowds="drop").report.dropped_for(Reason.CROWD) == (is_crowd is True)


# Annotations that do not fit.


@pytest.mark.parametrize(
    ("changes", "counted"),
    [
        ({"image_id": "b7"}, "10 of an image that the annotations do not list"),
        ({"image_id": 77}, "10 of an image that the annotations do not list"),
        ({"category_id": "red"}, "10 of a category that the file does not list"),
        ({"bbox": [5, 5, 0, 5]}, "10 of zero area"),
        ({"iscrowd": "maybe"}, "10 with an iscrowd that is neither 0 nor 1"),
    ],
)
def test_a_file_of_which_hardly_anything_fits_is_refused_with_counts_and_the_first_entry(
    read: Read, changes: Json, counted: str
) -> None:
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 96, "height": 64} for n in range(1, 10)]
    value = content([(n, n, 9, 9) for n in range(11)], images=images)
    for entry in [*value["annotations"][:4], *value["annotations"][5:]]:
        entry.update(changes)
    with pytest.raises(AnnotationError) as caught:
        read(value)
    message = str(caught.value)
    assert "of 11 annotations only 1 fit:" in message
    first = json.dumps(value["annotations"][0])
    assert f"{counted}; the first is annotations[0]: {first}" in message
    if "do not list" in message:
        assert "The image ids that are listed are 1, 2, 3, ..." in message
    if "category that" in message:
        assert "The categories that are listed are 1 (red box), 2 (blue box)." in message
    assert "--annotations.implausible accept" in message
    data = read(value, implausible="accept")
    assert data.report.num_regions == 1
    assert any("only 1 fit" in line for line in data.report.lines())


def test_a_file_of_which_one_in_ten_fits_is_read(read: Read) -> None:
    value = content(SIZES)
    value["annotations"] += 9 * [{"image_id": 1, "category_id": 5, "bbox": [5, 5, 9, 9]}] * 5
    assert read(value).report.dropped_for(Reason.UNKNOWN_CATEGORY) == 45


def test_nothing_that_fits_is_refused_in_csv_with_its_row(tmp_path: Path) -> None:
    with pytest.raises(
        AnnotationError,
        match=r"of 2 rows only 0 fit:\n  2 of zero area; the first"
        r" is rows\[0\]: a\.jpg,5,5,5,9,cat",
    ):
        read_csv(tmp_path, [(5, 5, 5, 9), (6, 5, 6, 9)])


def test_the_annotations_of_more_images_than_are_listed_are_read(read: Read) -> None:
    value = content(SIZES)
    value["annotations"] += [
        {"image_id": number, "category_id": 1, "bbox": SIZES[0]} for number in range(2, 1000)
    ]
    assert read(value).report.num_regions == len(SIZES)


def test_the_proposals_of_more_images_than_are_listed_are_taken(read: Read, tmp_path: Path) -> None:
    entries = [{"image_id": n, "bbox": SIZES[0], "score": 0.5} for n in range(1, 1000)]
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(entries))
    assert with_proposals(read(content(SIZES)), read_proposals(path)).report.num_regions == 1


def test_proposals_of_which_hardly_any_fits_are_refused_with_counts(
    read: Read, tmp_path: Path
) -> None:
    flat, outside = [[n, 5, 0, 9] for n in range(6)], [[n, 5, 9, 9] for n in (96, 97)]
    boxes = [*flat, [8, 10, 30, 30], *outside, *flat[:3]]
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps([{"image_id": "1", "bbox": b, "score": 0.5} for b in boxes]))
    with pytest.raises(AnnotationError) as caught:
        with_proposals(read(content(SIZES)), read_proposals(path))
    message = str(caught.value)
    assert "boxes.json: of 12 proposals only 1 fit:" in message
    assert "\n  9 of zero area; the first is proposals[0]: {" in message
    assert "\n  2 wholly outside the image; the first is proposals[7]: {" in message
    assert message.endswith("give --proposals.implausible accept.")


def test_what_the_options_leave_out_is_no_fault(read: Read, tmp_path: Path) -> None:
    value = content(SIZES)
    value["annotations"] += [
        {"image_id": 1, "category_id": 1, "bbox": [n % 50, 1, 9, 9 + n], "iscrowd": 1}
        for n in range(100)
    ]
    assert read(value, crowds="drop").report.num_regions == len(SIZES)
    entries = [{"image_id": 1, "bbox": [n, 1, 9, 9], "score": n / 100} for n in range(80)]
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(entries))
    data = with_proposals(read(value), read_proposals(path), min_score=0.79, max_per_image=1)
    assert data.report.num_regions == 1
    classes = tmp_path / "classes.txt"
    classes.write_text("dog\n")
    rows = [f"a.jpg,1,1,9,{n},{'dog' if n == 30 else 'cat'}" for n in range(10, 60)]
    (tmp_path / "own.csv").write_text("\n".join(["image,x1,y1,x2,y2,label", *rows]))
    options = ReadOptions(classes_path=classes)
    data = read_annotations("csv", tmp_path / "own.csv", tmp_path, options=options)
    assert data.report.num_regions == 1


def test_a_file_without_annotations_is_read(read: Read) -> None:
    assert read(content([])).report.num_annotations == 0


# Units and order.


@pytest.mark.parametrize("boxes", [NORMALISED, NORMALISED * 500, [(0.1, 0.1, 1.0, 1.0)]])
def test_normalised_boxes_are_refused(read: Read, boxes: Sequence[Sequence[float]]) -> None:
    with pytest.raises(AnnotationError, match=r"They look normalised.*multiply x and width by"):
        read(content(boxes))
    data = read(content(boxes), implausible="accept")
    assert data.report.num_regions > 0
    assert any("They look normalised" in note for note in data.report.notes)


def test_normalised_boxes_are_refused_in_csv_and_as_proposals(read: Read, tmp_path: Path) -> None:
    corners = [(x, y, x + w, y + h) for x, y, w, h in NORMALISED]
    with pytest.raises(AnnotationError, match=r"own\.csv: 2 of 2 boxes .* look normalised"):
        read_csv(tmp_path, corners)
    coco = [{"image_id": 1, "bbox": box, "score": 0.5} for box in NORMALISED]
    glip = {"1": {"boxes": corners, "scores": [0.5, 0.5]}}
    for value in (coco, glip):
        path = tmp_path / "boxes.json"
        path.write_text(json.dumps(value))
        data, table = read(content(SIZES)), read_proposals(path)
        message = r"boxes\.json: 2 of 2 .* look normalised(.|\n)*--proposals\.implausible accept"
        with pytest.raises(AnnotationError, match=message):
            with_proposals(data, table)
        assert with_proposals(data, table, implausible="accept").report.num_regions == 2


def test_boxes_of_one_pixel_are_told_apart_from_normalised_ones(read: Read) -> None:
    points = [(10 * n, 9, 1, 1) for n in range(9)]
    with pytest.raises(AnnotationError, match=r"9 of 9 boxes are smaller than 1\.5 x 1\.5") as got:
        read(content(points))
    assert "normalised" not in str(got.value)
    assert read(content(points), implausible="accept").report.num_regions == 9
    assert read(content([*points, SIZES[0]])).report.num_regions == 10  # nine in ten


def test_two_corners_in_place_of_a_size_are_refused(read: Read, tmp_path: Path) -> None:
    message = r"of 5 boxes reach far over the edge.*Read as x1, y1, x2, y2 they would fit"
    with pytest.raises(AnnotationError, match=message):
        read(content(CORNERS))
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps([{"image_id": 1, "bbox": b, "score": 0.5} for b in CORNERS]))
    with pytest.raises(AnnotationError, match=message):
        with_proposals(read(content(SIZES)), read_proposals(path))


def test_a_size_in_place_of_a_corner_is_refused(read: Read, tmp_path: Path) -> None:
    message = r"of 5 boxes have a negative width or height\. They may be x, y, width, height"
    with pytest.raises(AnnotationError, match=message):
        read_csv(tmp_path, SIZES)
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({"1": {"boxes": SIZES, "scores": [0.5] * 5}}))
    with pytest.raises(AnnotationError, match=message):
        with_proposals(read(content(SIZES)), read_proposals(path))


def test_pixels_in_place_of_shares_are_refused(tmp_path: Path) -> None:
    assert read_csv(tmp_path, [(0.1, 0.2, 0.9, 1.0)] * 5, "openimages").report.num_regions == 1
    with pytest.raises(AnnotationError, match=r"5 of 5 boxes reach far .* They look like pixels"):
        read_csv(tmp_path, CORNERS, "openimages")


def test_boxes_of_larger_images_are_refused(read: Read) -> None:
    larger = [(10 * x, 10 * y, 10 * w, 10 * h) for x, y, w, h in SIZES]
    with pytest.raises(AnnotationError, match=r"5 of 5 boxes .* may be of images of another size"):
        read(content(larger))


@given(
    corners=st.lists(
        st.tuples(st.integers(0, 92), st.integers(0, 60), st.integers(2, 96), st.integers(2, 64)),
        min_size=1,
        max_size=40,
    ),
    overshoot=st.sampled_from([0, 0.5, 3]),
)
def test_boxes_inside_their_image_are_never_refused(
    tmp_path_factory: pytest.TempPathFactory,
    corners: list[tuple[int, int, int, int]],
    overshoot: float,
) -> None:
    folder = tmp_path_factory.getbasetemp()
    boxes = [(x, y, min(w, 96 - x) + overshoot, min(h, 64 - y)) for x, y, w, h in corners]
    path = folder / "inside.json"
    path.write_text(json.dumps(content(boxes)))
    data = read_annotations("coco", path, folder)
    assert data.report.num_regions == len(boxes) - data.report.dropped_for(Reason.DUPLICATE)
