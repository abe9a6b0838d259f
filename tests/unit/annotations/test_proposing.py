"""Proposals in the place of annotated boxes; oracles: literal tables, plain Python, pycocotools."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO

from helpers.samples import GENUINE, OURS, sample_files
from regionspot.annotations import (
    AnnotatedImages,
    ImageRecord,
    ProposalTable,
    ReadOptions,
    Reason,
    read_annotations,
    read_proposals,
    with_proposals,
)
from regionspot.core.errors import AnnotationError, ConfigError, ShapeError
from regionspot.core.geometry import xyxy_to_xywh

OUR_COCO = (OURS / "coco/instances.json", OURS / "coco/results.json")
COCO_2014 = (
    GENUINE / "coco/instances_val2014_100.json",
    GENUINE / "coco/instances_val2014_fakebbox100_results.json",
)

Json = dict[str, Any]
WIDTH, HEIGHT = 100, 50


@pytest.fixture
def annotated(tmp_path: Path) -> AnnotatedImages:
    path = tmp_path / "annotations.json"
    value = {
        "images": [
            {"id": n, "file_name": f"{n}.jpg", "width": WIDTH, "height": HEIGHT} for n in (8, 7, 9)
        ],
        "annotations": [{"image_id": 7, "category_id": 3, "bbox": [1, 1, 5, 5]}],
        "categories": [{"id": 3, "name": "cat"}],
    }
    path.write_text(json.dumps(value))
    return read_annotations("coco", path, tmp_path)


Propose = Callable[[list[tuple[int, list[float], float]]], ProposalTable]


@pytest.fixture
def propose(tmp_path: Path) -> Propose:
    def write_and_read(proposals: list[tuple[int, list[float], float]]) -> ProposalTable:
        path = tmp_path / "proposals.json"
        entries = [{"image_id": n, "bbox": box, "score": score} for n, box, score in proposals]
        path.write_text(json.dumps(entries))
        return read_proposals(path)

    return write_and_read


def dropped(data: AnnotatedImages) -> dict[Reason, tuple[int, tuple[int, ...]]]:
    return {entry.reason: (entry.count, entry.first) for entry in data.report.dropped}


def test_regions_are_proposals_best_first_without_a_class(
    annotated: AnnotatedImages, propose: Propose
) -> None:
    table = propose([(7, [1, 2, 3, 4], 0.25), (8, [5, 5, 5, 5], 0.5), (7, [10, 10, 5, 5], 0.75)])
    data = with_proposals(annotated, table)
    first, second, third = data.records
    assert (first.image_id, second.image_id, third.image_id) == (8, 7, 9)
    assert second.boxes_xyxy.tolist() == [[10, 10, 15, 15], [1, 2, 4, 6]]
    assert second.labels.tolist() == [-1, -1]
    assert second.box_scores is not None
    assert second.box_scores.tolist() == [0.75, 0.25]
    assert second.box_scores.dtype == np.float32
    assert third.box_scores is not None
    assert (third.boxes_xyxy.shape, third.box_scores.shape) == ((0, 4), (0,))
    assert (second.key, second.file_name, second.size_hw) == ("000000000007", "7.jpg", (50, 100))
    assert (data.vocabulary, data.category_ids) == (annotated.vocabulary, annotated.category_ids)
    assert data.annotation_sha256 == annotated.annotation_sha256
    assert annotated.records[1].box_scores is None
    assert annotated.proposals_sha256 is None


def test_everything_that_is_dropped_is_counted_in_the_order_of_the_file(
    annotated: AnnotatedImages, propose: Propose
) -> None:
    table = propose(
        [
            (7, [1, 2, 3, 4], 0.5),
            (7, [-5, 10, 20, 10], 0.75),  # over the left edge
            (6, [1, 1, 5, 5], 0.5),
            (7, [100, 20, 5, 5], 0.5),  # touches the right edge from outside
            (7, [1, 2, 3, 4], 0.25),
            (7, [0, 10, 15, 10], 0.5),  # what the second one is clipped to
            (7, [20, 20, 0, 5], 0.5),
            (7, [99, 20, 1e-9, 5], 0.5),  # float32: 99 + 1e-9 == 99
            (8, [1, 1, 5, 5], 0.125),
            (8, [1, 1, 6, 6], 0.25),
            (8, [1, 1, 7, 7], 1),
            (8, [1, 1, 8, 8], 0.5),
            (5, [1, 1, 5, 5], 0.0),
        ]
    )
    data = with_proposals(annotated, table, min_score=0.25, max_per_image=2)
    assert dropped(data) == {
        Reason.UNKNOWN_IMAGE: (2, (2, 12)),
        Reason.LOW_SCORE: (1, (8,)),
        Reason.ZERO_AREA: (2, (6, 7)),
        Reason.OUTSIDE: (1, (3,)),
        Reason.DUPLICATE: (2, (4, 5)),
        Reason.TOO_MANY: (1, (9,)),
    }
    assert data.report.lines() == [
        "3 images, 4 regions of 13 proposals",
        "1 images have no region (kept)",
        "1 boxes clipped to their image",
        "dropped 2 boxes of an image that the annotations do not list (proposals[2, 12])",
        "dropped 1 boxes with a score below the minimum (min_score) (proposals[8])",
        "dropped 2 boxes of zero area (proposals[6, 7])",
        "dropped 1 boxes wholly outside the image (proposals[3])",
        f"dropped 2 boxes {Reason.DUPLICATE} (proposals[4, 5])",
        "dropped 1 boxes after the best of their image (max_per_image) (proposals[9])",
        "regions are the proposals of proposals.json, in place of 1 annotated boxes",
    ]
    assert data.records[1].boxes_xyxy.tolist() == [[0, 10, 15, 20], [1, 2, 4, 6]]
    assert data.records[0].boxes_xyxy[:, 2].tolist() == [8, 9]


def test_a_score_at_the_minimum_is_enough(annotated: AnnotatedImages, propose: Propose) -> None:
    table = propose([(7, [1, 2, 3, 4], 0.3), (7, [1, 2, 3, 5], 0.29)])  # 0.3 is no float32
    assert with_proposals(annotated, table, min_score=0.3).report.num_regions == 1


def test_the_identity_of_proposals_depends_on_the_file_and_on_what_was_asked_for(
    annotated: AnnotatedImages, propose: Propose
) -> None:
    table = propose([(7, [1, 2, 3, 4], 0.5)])
    other = propose([(7, [1, 2, 3, 4], 0.75)])
    identities = [
        with_proposals(annotated, table).proposals_sha256,
        with_proposals(annotated, table, min_score=0.25).proposals_sha256,
        with_proposals(annotated, table, max_per_image=100).proposals_sha256,
        with_proposals(annotated, other).proposals_sha256,
    ]
    assert all(len(identity or "") == 64 for identity in identities)
    assert len(set(identities)) == 4
    assert with_proposals(annotated, table, min_score=0).proposals_sha256 == identities[0]


def test_proposals_of_another_split_are_refused_with_ids_of_both(
    annotated: AnnotatedImages, propose: Propose
) -> None:
    table = propose([(n, [1, 2, 3, 4], 0.5) for n in range(5)])
    with pytest.raises(
        AnnotationError,
        match=r"proposals\.json: none of the 5 images .* the 3 annotated .* ids are 0, 1, 2, \.\.\."
        r", the annotated ones 8, 7, 9\. Give the proposals of the same split.*counted from 0",
    ):
        with_proposals(annotated, table)


def test_options_out_of_range_are_refused(annotated: AnnotatedImages, propose: Propose) -> None:
    table = propose([(7, [1, 2, 3, 4], 0.5)])
    for min_score in (-0.5, 50.0, float("nan")):
        with pytest.raises(ConfigError, match=r"min_score is .*from 0 to 1"):
            with_proposals(annotated, table, min_score=min_score)
    with pytest.raises(ConfigError, match=r"max_per_image is 0; wanted 1 or more"):
        with_proposals(annotated, table, max_per_image=0)


def test_a_part_of_a_data_set_stays_that_part(annotated: AnnotatedImages, propose: Propose) -> None:
    part = replace(annotated, records=annotated.records[1:2])
    data = with_proposals(part, propose([(7, [1, 2, 3, 4], 0.5)]))
    assert [record.image_id for record in data.records] == [7]
    assert len(data.records[0].labels) == 1


def test_without_annotated_sizes_boxes_are_clipped_when_the_image_is_decoded(
    tmp_path: Path, propose: Propose
) -> None:
    header = (
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,"
        "IsGroupOf,IsDepiction,IsInside"
    )
    (tmp_path / "boxes.csv").write_text(
        f"{header}\nffffffffffffffff,xclick,/m/b,1,0.2,0.5,0,1,0,0,0,0,0\n"
    )
    (tmp_path / "classes.csv").write_text("/m/b,bee\n")
    options = ReadOptions(classes_path=tmp_path / "classes.csv")
    annotated = read_annotations("openimages", tmp_path / "boxes.csv", tmp_path, options=options)
    table = propose(
        [
            (-1, [10, 10, 500, 500], 0.5),  # as a signed number, the id is -1
            (-1, [10, 10, 600, 600], 0.25),  # clipped to the same
            (-1, [200, 10, 5, 5], 0.75),  # outside
            (-1, [1, 2, 3, 4], 0.125),
        ]
    )
    (record,) = with_proposals(annotated, table).records
    assert record.annotated_size_hw is None
    assert record.box_unit == "pixel"
    assert record.boxes_xyxy.tolist() == [
        [200, 10, 205, 15],
        [10, 10, 510, 510],
        [10, 10, 610, 610],
        [1, 2, 4, 6],
    ]
    resolved = record.resolved((40, 80)).record
    assert resolved.boxes_xyxy.tolist() == [[10, 10, 80, 40], [1, 2, 4, 6]]
    assert resolved.labels.tolist() == [-1, -1]
    assert resolved.box_scores is not None
    assert resolved.box_scores.tolist() == [0.5, 0.125]


def test_a_record_has_classes_or_scores(annotated: AnnotatedImages) -> None:
    record = annotated.records[1]
    with pytest.raises(AnnotationError, match=r"image 7: an annotated box has the label -1"):
        replace(record, labels=np.array([-1]))
    with pytest.raises(ShapeError, match=r"box_scores \(2,\) and labels \(1,\)"):
        replace(record, box_scores=np.zeros(2, np.float32))
    scored = replace(record, labels=np.array([-1]), box_scores=np.ones(1, np.float32))
    assert scored.box_scores is not None


def proposed(record: ImageRecord) -> list[tuple[float, tuple[float, ...]]]:
    assert record.box_scores is not None
    boxes = map(tuple, record.boxes_xyxy.tolist())
    return list(zip(record.box_scores.tolist(), boxes, strict=True))


SIDES = st.sampled_from([0, 1, 2, 2.5, -1, 60, 99, 120])
PROPOSALS = st.lists(
    st.tuples(
        st.sampled_from([7, 8, 7, 5]),
        st.lists(SIDES, min_size=4, max_size=4),
        st.sampled_from([0, 0.25, 0.5, 1]),
    ),
    max_size=30,
)


@given(
    proposals=PROPOSALS,
    min_score=st.sampled_from([0, 0.25, 0.6]),
    max_per_image=st.none() | st.integers(1, 4),
)
def test_regions_are_those_of_a_plain_recomputation(
    tmp_path_factory: pytest.TempPathFactory,
    proposals: list[tuple[int, list[float], float]],
    min_score: float,
    max_per_image: int | None,
) -> None:
    folder = tmp_path_factory.getbasetemp()
    proposals = [(7, [1, 1, 3, 3], 1.0), *proposals]
    path = folder / "drawn_annotations.json"
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 100, "height": 50} for n in (8, 7)]
    value = {"images": images, "annotations": [], "categories": [{"id": 3, "name": "cat"}]}
    path.write_text(json.dumps(value))
    entries = [{"image_id": n, "bbox": box, "score": score} for n, box, score in proposals]
    proposals_path = folder / "drawn_proposals.json"
    proposals_path.write_text(json.dumps(entries))

    wanted: dict[int, list[tuple[float, tuple[float, ...]]]] = {7: [], 8: []}
    for image_id, (x, y, w, h), score in sorted(proposals, key=lambda entry: -entry[2]):
        box = (max(x, 0.0), max(y, 0.0), min(x + w, 100.0), min(y + h, 50.0))
        if image_id not in wanted or score < min_score or min(w, h) <= 0:
            continue
        if box[0] >= box[2] or box[1] >= box[3]:
            continue
        of_image = wanted[image_id]
        has_room = max_per_image is None or len(of_image) < max_per_image
        if has_room and all(box != known for _, known in of_image):
            of_image.append((score, box))

    data = with_proposals(
        read_annotations("coco", path, folder),
        read_proposals(proposals_path),
        min_score=min_score,
        max_per_image=max_per_image,
        implausible="accept",
    )
    assert {record.image_id: proposed(record) for record in data.records} == wanted
    report = data.report
    assert report.num_annotations == report.num_regions + report.num_dropped == len(proposals)
    assert report.num_regions == sum(map(len, wanted.values()))


@pytest.mark.parametrize(("truth", "results"), sample_files(OUR_COCO, COCO_2014))
def test_whole_results_are_the_boxes_that_pycocotools_loads(
    tmp_path: Path, truth: Path, results: Path
) -> None:
    table = read_proposals(results)
    data = with_proposals(read_annotations("coco", truth, tmp_path), table)
    theirs = COCO(str(truth)).loadRes(str(results))

    counts = Counter(entry["image_id"] for entry in theirs.anns.values())
    assert {r.image_id: len(r.labels) for r in data.records if len(r.labels)} == counts
    for image_id in counts:
        found = theirs.loadAnns(theirs.getAnnIds(imgIds=[image_id]))
        best_first = sorted(found, key=lambda entry: -entry["score"])
        boxes_xyxy, scores = table.of_image(image_id)
        np.testing.assert_allclose(
            xyxy_to_xywh(boxes_xyxy), [entry["bbox"] for entry in best_first], atol=1e-3
        )
        np.testing.assert_allclose(scores, [entry["score"] for entry in best_first], rtol=1e-6)


# Counted with ten lines of json: results, images, and what a score of 0.3 and 3 an image leave.
OUR_COUNTS = {"results": 73, "images": 12, "low": 23, "too many": 23, "best": 27}
COUNTS_2014 = {"results": 734, "images": 100, "low": 217, "too many": 289, "best": 228}


@pytest.mark.parametrize(
    ("truth", "results", "counts", "image_id", "boxes_xyxy", "scores"),
    sample_files(
        (
            *(*OUR_COCO, OUR_COUNTS, 912302),
            # [93.95, 104, 97, 74.8] with 0.899, [102.31, 104, 97, 74.8] with 0.691
            [[93.95, 104, 190.95, 178.8], [102.31, 104, 199.31, 178.8]],
            [0.899, 0.691],
        ),
        # [258.15, 41.29, 348.26, 243.78] with 0.236
        (*COCO_2014, COUNTS_2014, 42, [[258.15, 41.29, 606.41, 285.07]], [0.236]),
    ),
)
def test_whole_results_are_counted_as_by_hand(
    tmp_path: Path,
    truth: Path,
    results: Path,
    counts: dict[str, int],
    image_id: int,
    boxes_xyxy: list[list[float]],
    scores: list[float],
) -> None:
    data = with_proposals(read_annotations("coco", truth, tmp_path), read_proposals(results))
    report = data.report
    assert (report.num_annotations, report.num_regions) == (counts["results"], counts["results"])
    assert report.num_dropped == 0
    # Each file has one image without any result.
    assert (report.num_images, report.num_images_without_regions) == (counts["images"], 1)
    best = with_proposals(
        read_annotations("coco", truth, tmp_path),
        read_proposals(results),
        min_score=0.3,
        max_per_image=3,
    )
    assert best.report.dropped_for(Reason.LOW_SCORE) == counts["low"]
    assert best.report.dropped_for(Reason.TOO_MANY) == counts["too many"]
    assert best.report.num_regions == counts["best"]
    (image,) = (record for record in data.records if record.image_id == image_id)
    np.testing.assert_allclose(image.boxes_xyxy, boxes_xyxy, atol=1e-3)
    assert image.box_scores is not None
    np.testing.assert_allclose(image.box_scores, scores, atol=1e-6)
