"""Reading proposals; the oracles are literal tables and a recomputation with ``json``."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regionspot.annotations import ProposalTable, Reason, read_annotations, read_proposals
from regionspot.core.errors import AnnotationError, MissingFileError

Json = dict[str, Any]
Read = Callable[[object], ProposalTable]


def result(bbox: object, score: object = 0.5, **changes: object) -> Json:
    return {"image_id": 7, "category_id": 3, "bbox": bbox, "score": score} | changes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "proposals.json"


@pytest.fixture
def read(path: Path) -> Read:
    def write_and_read(value: object) -> ProposalTable:
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
        return read_proposals(path)

    return write_and_read


def test_coco_results_are_sorted_by_image_and_score(read: Read, path: Path) -> None:
    table = read(
        [
            result([1, 2, 3, 4], 0.25, image_id=9),
            result([10, 20, 30, 40], 0.5),
            result([5, 5, 5, 5], 0.5),
            result([0, 0, 2.5, 1], 1),
        ]
    )
    assert table.image_ids.tolist() == [7, 9]
    assert table.starts.tolist() == [0, 3, 4]
    assert table.scores.tolist() == [1, 0.5, 0.5, 0.25]
    assert table.positions.tolist() == [3, 1, 2, 0]  # of equal scores the first in the file
    assert table.boxes_xyxy.tolist() == [
        [0, 0, 2.5, 1],
        [10, 20, 40, 60],
        [5, 5, 10, 10],
        [1, 2, 4, 6],
    ]
    assert table.boxes_xyxy.dtype == table.scores.dtype == np.float32
    assert table.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (len(table), table.num_read, table.dropped) == (4, 4, ())


def test_one_image_of_a_table(read: Read) -> None:
    table = read([result([1, 2, 3, 4], 0.25, image_id=9), result([10, 20, 30, 40])])
    boxes_xyxy, scores = table.of_image(9)
    assert (boxes_xyxy.tolist(), scores.tolist()) == ([[1, 2, 4, 6]], [0.25])
    for image_id in (1, 8, 10):
        boxes_xyxy, scores = table.of_image(image_id)
        assert (boxes_xyxy.shape, scores.shape) == ((0, 4), (0,))


def test_masks_and_classes_of_lvis_results_are_ignored(read: Read) -> None:
    mask = {"size": [4, 4], "counts": "0[{"}
    table = read([result([1, 2, 3, 4], 0.25, segmentation=mask, category_id=1203)])
    assert table.boxes_xyxy.tolist() == [[1, 2, 4, 6]]
    without_class = result([1, 2, 3, 4])
    del without_class["category_id"]
    assert len(read([without_class])) == 1


def test_a_box_of_several_classes_is_one_proposal_with_its_best_score(read: Read) -> None:
    box = [1, 2, 3, 4]
    table = read([result(box, score, category_id=n) for n, score in enumerate([0.25, 0.75, 0.5])])
    assert (table.boxes_xyxy.tolist(), table.scores.tolist()) == ([[1, 2, 4, 6]], [0.75])
    ((reason, count, first),) = [(d.reason, d.count, d.first) for d in table.dropped]
    assert (reason, count, first) == (Reason.DUPLICATE, 2, (0, 2))


def test_glip_boxes_are_corners_by_image(read: Read) -> None:
    table = read(
        {
            "000000000139": {"boxes": [[1, 2, 4, 6], [0, 0, 9, 9.5]], "scores": [0.25, 1]},
            "42": {"boxes": [[5, 5, 6, 7]], "scores": [0.5], "labels": ["a cat"]},
            "7": {"boxes": [], "scores": [], "labels": []},
        }
    )
    assert table.image_ids.tolist() == [42, 139]
    assert table.of_image(42)[0].tolist() == [[5, 5, 6, 7]]
    boxes_xyxy, scores = table.of_image(139)
    assert boxes_xyxy.tolist() == [[0, 0, 9, 9.5], [1, 2, 4, 6]]
    assert scores.tolist() == [1, 0.25]
    assert table.positions.tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("bbox", "reason"),
    [
        ([1, 1, 5], Reason.NO_BOX),
        (None, Reason.NO_BOX),
        ([1, 1, "5", 5], Reason.NO_BOX),
        ([math.nan, 1, 5, 5], Reason.NOT_FINITE),
        ([1, 1, math.inf, 5], Reason.NOT_FINITE),
        ([1, 1, 10**400, 5], Reason.NOT_FINITE),
        ([20, 20, -5, 5], Reason.NEGATIVE_SIZE),
        ([20, 20, 0, 5], Reason.ZERO_AREA),
    ],
)
def test_what_is_no_box_is_counted_and_alone_refused(
    read: Read, bbox: object, reason: Reason
) -> None:
    table = read([result([1, 2, 3, 4]), result(bbox)])
    assert [(entry.reason, entry.count, entry.first) for entry in table.dropped] == [
        (reason, 1, (1,))
    ]
    assert (len(table), table.num_read) == (1, 2)
    with pytest.raises(AnnotationError) as raised:
        read([result(bbox)])
    message = str(raised.value)
    assert "proposals.json: none of its 1 proposals is a box" in message
    assert f"1 {reason} (proposals[0])" in message
    assert "[x, y, width, height]" in message


def test_a_glip_box_of_three_numbers_is_counted_too(read: Read) -> None:
    table = read({"7": {"boxes": [[1, 2, 3], [1, 2, 3, 4]], "scores": [0.5, 0.25]}})
    assert [(entry.reason, entry.first) for entry in table.dropped] == [(Reason.NO_BOX, (0,))]
    assert (table.boxes_xyxy.tolist(), table.scores.tolist()) == ([[1, 2, 3, 4]], [0.25])


GOOD = result([1, 2, 3, 4])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            [GOOD, {"bbox": [1, 2, 3, 4], "score": 1}],
            r"proposals\[1\] has no image_id \(keys: bbox",
        ),
        ([GOOD, {}], r"proposals\[1\] has no image_id \(keys: none"),
        ([GOOD, 3], r"proposals\[1\] is '3'; wanted an object"),
        ([result([1, 2, 3, 4], image_id="seven")], r"\[0\]\.image_id is 'seven'; wanted a whole"),
        ([result([1, 2, 3, 4], image_id=1.5)], r"\[0\]\.image_id is 1\.5; wanted a whole number"),
        ([result([1, 2, 3, 4], image_id=None)], r"\[0\]\.image_id is None; wanted a whole"),
        ([{"image_id": 7, "bbox": [1, 2, 3, 4]}], r"\[0\] has no score .*boxes with scores"),
        ([result([1, 2, 3, 4], "high")], r"\[0\]\.score is 'high'; wanted a number from 0 to 1\.$"),
        ([GOOD, result([1, 2, 3, 4], 3.5)], r"\[1\]\.score is 3\.5; .*0 to 1\. If it is a logit"),
        ([result([1, 2, 3, 4], -0.5)], r"\[0\]\.score is -0\.5; wanted a number from 0 to 1"),
        ([result([1, 2, 3, 4], math.nan)], r"\[0\]\.score is nan; wanted a number from 0 to 1"),
        ([result([1, 2, 3, 4], score=True)], r"\[0\]\.score is True; wanted a number"),
        ([], r"proposals\.json holds no proposals"),
        ({}, r"a JSON object with no keys; wanted proposals: a list of \{"),
        ("3", r"a JSON int; wanted proposals"),
        ({"7": {"boxes": [], "scores": []}}, r"holds no proposals"),
        (
            {"7": {"boxes": [[1, 2, 3, 4]], "scores": [0.5, 0.5]}},
            r"image '7' has 1 boxes and 2 scores; wanted one score for each box",
        ),
        ({"7": {"boxes": [[1, 2, 3, 4]]}}, r"image '7' has no list 'scores' \(keys: boxes\)"),
        ({"7": {}}, r"image '7' has no list 'boxes' \(keys: none\)"),
        ({"7": [[1, 2, 3, 4, 0.5]]}, r"image '7' is .*; wanted an object with the lists boxes"),
        ({"7": None, "8": {"boxes": [[1, 2, 3, 4]], "scores": [1]}}, r"image '7' is None; wanted"),
        (
            {"8": {"boxes": [[1, 2, 3, 4]], "scores": [1]}, "a": {"boxes": [], "scores": []}},
            r"image 'a' is no image id; wanted a whole number",
        ),
        (
            {k: {"boxes": [[1, 2, 3, 4]], "scores": [1]} for k in ("7", "007")},
            r"image '007' is there twice",
        ),
        ({"9" * 5000: {}}, r"an object of boxes by image id"),
        (
            {"7": {"boxes": [[1, 2, 3, 4]] * 2, "scores": [0.5, -2.25]}},
            r"image '7': scores\[1\] is -2\.25; .*logit",
        ),
        (
            {"images": [], "annotations": [], "categories": []},
            r"is a COCO ground-truth file; wanted proposals",
        ),
    ],
)
def test_files_that_cannot_be_used_say_what_where_and_what_was_expected(
    read: Read, value: object, message: str
) -> None:
    with pytest.raises(AnnotationError, match=message) as raised:
        read(value)
    assert "proposals.json" in str(raised.value)


@pytest.mark.parametrize(
    "value", [[GOOD] * 4, {str(n): {"boxes": [[1, 2, 3, 4]], "scores": [1]} for n in range(9)}]
)
def test_a_cut_file_says_where_it_ends(read: Read, value: object) -> None:
    with pytest.raises(AnnotationError, match=r"is cut off: it ends after 150 .*proposals file"):
        read(json.dumps(value)[:150])


def test_what_is_no_json_says_so_in_words_of_proposals(read: Read, path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"is not JSON: .*line 2, col.* --proposals\.path"):
        read('[\n{"image_id": 7,, "bbox": [1, 2, 3, 4]}]')
    path.write_bytes(b"")
    with pytest.raises(AnnotationError, match=r"is empty \(0 bytes\).*proposals file"):
        read_proposals(path)
    with pytest.raises(MissingFileError, match=r"proposals\.json\. Set --proposals\.path"):
        read_proposals(path.with_name("nowhere.json"))


def test_the_format_can_be_set_and_is_then_insisted_on(path: Path) -> None:
    path.write_text(json.dumps([GOOD]))
    assert len(read_proposals(path, format="coco")) == 1
    with pytest.raises(AnnotationError, match=r"list of 1 detections .*an object of .*at auto"):
        read_proposals(path, format="glip")
    path.write_text(json.dumps({"7": {"boxes": [[1, 2, 3, 4]], "scores": [1]}}))
    assert len(read_proposals(path, format="glip")) == 1
    with pytest.raises(AnnotationError, match=r"GLIP proposals\); wanted proposals: a list of"):
        read_proposals(path, format="coco")


def test_glip_boxes_given_as_annotations_are_called_so(read: Read, path: Path) -> None:
    read({"7": {"boxes": [[1, 2, 3, 4]], "scores": [1]}})
    with pytest.raises(AnnotationError, match=r"the layout of GLIP proposals"):
        read_annotations("coco", path, path.parent)


SIDES = st.one_of(st.sampled_from([0, 1, 2, 2.5, -1, -0.0, 3e38]), st.floats(-50, 50), st.floats())
BOXES = st.lists(SIDES, min_size=4, max_size=4) | st.sampled_from([[1, 2, 3], None])
PROPOSALS = st.lists(
    st.tuples(
        st.sampled_from([5, 9, -3, 2**63 - 1]),
        BOXES | st.sampled_from([[1, 2, 3, 4], [2, 2, 4, 4]]),
        st.sampled_from([0, 0.1, 0.5, 1]) | st.floats(0, 1),
    ),
    max_size=24,
)


def kept_by_hand(
    proposals: list[tuple[int, Any, float]], *, are_corners: bool
) -> dict[int, list[tuple[float, tuple[float, ...]]]]:
    """Sort, and keep the first of equal boxes, entry by entry."""
    of_image: dict[int, list[tuple[float, tuple[float, ...]]]] = {}
    for image_id, box, score in proposals:
        limit = float(np.finfo(np.float32).max) / 2
        if box is None or len(box) != 4 or not all(abs(side) < limit for side in box):
            continue
        x1, y1 = np.float32(box[0]), np.float32(box[1])
        if are_corners:
            (x2, y2), sizes = map(np.float32, box[2:]), (box[2] - box[0], box[3] - box[1])
        else:
            x2, y2, sizes = x1 + np.float32(box[2]), y1 + np.float32(box[3]), tuple(box[2:])
        if min(sizes) > 0:
            corners = tuple(map(float, (x1, y1, x2, y2)))
            of_image.setdefault(image_id, []).append((float(np.float32(score)), corners))
    for image_id, found in of_image.items():
        best_first = sorted(found, key=lambda entry: -entry[0])  # stable
        seen: dict[bytes, tuple[float, tuple[float, ...]]] = {}
        for entry in best_first:
            seen.setdefault(np.array(entry[1]).tobytes(), entry)
        of_image[image_id] = list(seen.values())
    return of_image


@given(proposals=PROPOSALS, piece_bytes=st.integers(40, 400), is_glip=st.booleans())
def test_tables_are_those_of_a_plain_recomputation(
    tmp_path_factory: pytest.TempPathFactory,
    proposals: list[tuple[int, Any, float]],
    piece_bytes: int,
    is_glip: bool,  # noqa: FBT001 - drawn
) -> None:
    path = tmp_path_factory.getbasetemp() / "drawn.json"
    proposals = [*proposals, (11, [1, 1, 3, 4], 0.5)]
    value: object = [result(box, score, image_id=image) for image, box, score in proposals]
    if is_glip:
        images = {
            image_id: [p for p in proposals if p[0] == image_id] for image_id, *_ in proposals
        }
        value = {
            str(image_id): {
                "boxes": [box for _, box, _ in own],
                "scores": [score for *_, score in own],
            }
            for image_id, own in images.items()
        }
    path.write_text(json.dumps(value))
    wanted = kept_by_hand(proposals, are_corners=is_glip)

    table = read_proposals(path, piece_bytes=piece_bytes)

    assert table.image_ids.tolist() == sorted(wanted)
    for image_id, entries in wanted.items():
        boxes_xyxy, scores = table.of_image(image_id)
        assert list(zip(scores.tolist(), map(tuple, boxes_xyxy.tolist()), strict=True)) == entries
    assert table.num_read == len(proposals)
    assert len(table) + sum(entry.count for entry in table.dropped) == table.num_read


def test_careful_and_fast_decoding_give_the_same(read: Read) -> None:
    """42.0 for 42 sends a piece of a file through the careful decoder."""
    values = [result([1, 2, 3, 4.5], n / 8, image_id=n % 3) for n in range(6)]
    fast = read(values)
    careful = read([{**entry, "image_id": float(entry["image_id"])} for entry in values])
    for name in ("image_ids", "starts", "boxes_xyxy", "scores", "positions"):
        np.testing.assert_array_equal(getattr(fast, name), getattr(careful, name))
