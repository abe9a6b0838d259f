"""What scoring does on its own; that its figures are LVIS's is checked in tests/parity."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regionspot.core.errors import AnnotationError, MissingExtraError, RegionSpotError
from regionspot.scoring import LvisGroundTruth, Predictions, score_lvis
from regionspot.scoring.lvis_ap import check_group_mean
from regionspot.scoring.lvis_reference import reference_lvis_figures


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    """Two images; a rare and a frequent category with one region each, a common one without."""
    images: list[dict[str, Any]] = [
        {"id": 1, "neg_category_ids": [2, 3], "not_exhaustive_category_ids": []},
        {"id": 2, "neg_category_ids": [1], "not_exhaustive_category_ids": []},
    ]
    regions = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "area": 100},
        {"id": 2, "image_id": 2, "category_id": 3, "bbox": [5, 5, 40, 40], "area": 1600},
    ]
    categories = [
        {"id": number, "name": name, "frequency": name[0]}
        for number, name in enumerate(["rare", "common", "frequent"], start=1)
    ]
    path = tmp_path / "annotations.json"
    content = {"images": images, "annotations": regions, "categories": categories}
    path.write_text(json.dumps(content))
    return path


def predict(*rows: tuple[int, int, list[float], float]) -> Predictions:
    return Predictions(
        image_ids=np.array([row[0] for row in rows], np.int64),
        category_ids=np.array([row[1] for row in rows], np.int64),
        boxes_xywh=np.array([row[2] for row in rows], np.float64),
        scores=np.array([row[3] for row in rows], np.float64),
    )


def test_perfect_predictions_reach_100_percent(annotations: Path) -> None:
    scores = score_lvis(
        annotations, predict((1, 1, [0, 0, 10, 10], 0.9), (2, 3, [5, 5, 40, 40], 0.1))
    )
    # Up to the reference's own rounding: its precision is tp / (tp + 2e-16).
    assert pytest.approx(100) == scores.AP
    assert scores.APr == pytest.approx(100)
    assert scores.APc is None
    assert scores.APs == pytest.approx(100)
    assert scores.APl is None
    assert scores.num_categories == {"r": 1, "c": 0, "f": 1}
    assert [item.num_annotations for item in scores.per_category] == [1, 0, 1]


def test_a_missed_image_counts(annotations: Path) -> None:
    scores = score_lvis(annotations, predict((1, 1, [0, 0, 10, 10], 0.9)))
    assert pytest.approx(50) == scores.AP
    assert scores.APf == 0


@pytest.mark.parametrize("crowd", [0, 1, None, "1"])
def test_a_crowd_that_nobody_found_is_missed(annotations: Path, crowd: object) -> None:
    content = json.loads(annotations.read_text())
    crowded = {"id": 3, "image_id": 2, "category_id": 1, "bbox": [0, 0, 6, 6], "area": 36}
    content["annotations"].append({**crowded, "iscrowd": crowd})
    annotations.write_text(json.dumps(content))
    scores = score_lvis(
        annotations, predict((1, 1, [0, 0, 10, 10], 0.9), (2, 3, [5, 5, 40, 40], 0.9))
    )
    # Half of the rare regions are found: 51 of 101 recall levels are reached.
    assert scores.APr == pytest.approx(100 * 51 / 101)
    assert pytest.approx(100 * (51 / 101 + 1) / 2) == scores.AP


@pytest.mark.parametrize("area", [0, -3.0])
def test_a_region_without_an_area_is_none(annotations: Path, area: float) -> None:
    content = json.loads(annotations.read_text())
    content["annotations"][0]["area"] = area
    annotations.write_text(json.dumps(content))
    scores = score_lvis(annotations, predict((2, 3, [5, 5, 40, 40], 0.9)))
    assert scores.APr is None
    assert pytest.approx(100) == scores.AP


def test_no_predictions_at_all_score_zero(annotations: Path) -> None:
    assert score_lvis(annotations, Predictions.empty()).AP == 0


def test_categories_not_looked_for_in_an_image_count_neither_way(annotations: Path) -> None:
    right = [(1, 1, [0.0, 0, 10, 10], 0.5), (2, 3, [5.0, 5, 40, 40], 0.5)]
    unasked = (2, 2, [0.0, 0.0, 9.0, 9.0], 0.9)
    denied = (2, 1, [0.0, 0.0, 9.0, 9.0], 0.9)
    assert pytest.approx(100) == score_lvis(annotations, predict(*right, unasked)).AP
    assert score_lvis(annotations, predict(*right, denied)).APr == pytest.approx(50)


def test_scoring_says_nothing_on_standard_output(
    annotations: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    score_lvis(annotations, predict((1, 1, [0, 0, 10, 10], 0.9)))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("image", "category", "what"), [(9, 1, "images"), (1, 9, "categories")])
def test_predictions_for_other_annotations_are_refused(
    annotations: Path, image: int, category: int, what: str
) -> None:
    with pytest.raises(AnnotationError, match=rf"name 1 {what}.*e\.g\. id 9"):
        score_lvis(annotations, predict((image, category, [0, 0, 1, 1], 1)))


def test_groups_that_do_not_average_to_ap_are_refused(annotations: Path) -> None:
    scores = score_lvis(annotations, predict((1, 1, [0, 0, 10, 10], 0.9)))
    with pytest.raises(RegionSpotError, match="self-check"):
        check_group_mean(replace(scores, APr=scores.APf, APf=51.0))


def test_ground_truth_read_once_scores_like_the_file(annotations: Path) -> None:
    rows = predict((1, 1, [0, 0, 10, 10], 0.9))
    assert score_lvis(LvisGroundTruth.read(annotations), rows) == score_lvis(annotations, rows)


@pytest.mark.parametrize("package", ["hotcoco", "lvis"])
def test_a_missing_package_names_its_extra(
    annotations: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.eval", None)
    score = score_lvis if package == "hotcoco" else reference_lvis_figures
    with pytest.raises(MissingExtraError, match=rf"needs {package}.*regionspot\[eval\]"):
        score(annotations, predict((1, 1, [0, 0, 10, 10], 0.9)))
