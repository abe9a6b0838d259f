"""COCO AP of cached regions against pycocotools, and torchmetrics' `MeanAveragePrecision`."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchmetrics.detection import MeanAveragePrecision

from regionspot.core.errors import AnnotationError, ConfigError
from regionspot.scoring import CocoGroundTruth, CocoScorer, Predictions

_TORCHMETRICS = {
    "AP": "map",
    "AP50": "map_50",
    "AP75": "map_75",
    "APs": "map_small",
    "APm": "map_medium",
    "APl": "map_large",
    "AR": "mar_100",
    "ARs": "mar_small",
    "ARm": "mar_medium",
    "ARl": "mar_large",
}


def drawn_case(
    seed: int, *, num_images: int, num_classes: int, crowd: int = 8
) -> tuple[CocoGroundTruth, Predictions]:
    """Ground truth, and predictions that hit, nearly hit, repeat, tie and miss."""
    generator = np.random.default_rng(seed)
    counts = generator.integers(0, crowd, num_images)
    images = np.repeat(np.arange(num_images), counts)
    sides = generator.choice([12.0, 60.0, 200.0], (len(images), 2))
    boxes = np.hstack([generator.integers(0, 300, (len(images), 2)).astype(float), sides])
    labels = generator.integers(0, max(1, num_classes - 1), len(images))  # the last never occurs
    copies = np.repeat(np.arange(len(images)), generator.integers(0, 4, len(images)))
    strays = generator.integers(0, num_images, 5)
    found_boxes = boxes[copies] + generator.choice([0.0, 1.0, 5.0, 40.0], (len(copies), 4))
    predictions = Predictions(
        image_ids=np.concatenate([images[copies], strays]) * 3 + 7,
        category_ids=np.concatenate(
            [
                np.where(generator.random(len(copies)) < 0.7, labels[copies], 0),
                generator.integers(0, num_classes, 5),
            ]
        )
        * 10
        + 5,
        boxes_xywh=np.vstack([found_boxes, np.full((5, 4), 30.0)]),
        scores=generator.integers(1, 10, len(copies) + 5) / 10,
    )
    truth = CocoGroundTruth(
        name="drawn",
        image_ids=tuple(range(7, 7 + 3 * num_images, 3)),
        category_ids=tuple(range(5, 5 + 10 * num_classes, 10)),
        class_names=tuple(f"class {label}" for label in range(num_classes)),
        region_images=images * 3 + 7,
        region_labels=labels,
        boxes_xywh=boxes,
    )
    return truth, predictions


def by_torchmetrics(truth: CocoGroundTruth, predictions: Predictions) -> dict[str, float]:
    metric = MeanAveragePrecision(
        box_format="xywh",
        # Its own are rounded to float32, which decides matches of exactly 0.55 or recalls of 0.3.
        iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
        rec_thresholds=np.linspace(0.0, 1.0, 101).tolist(),
    )
    found, wanted = [], []
    for image_id in truth.image_ids:
        rows = predictions.image_ids == image_id
        found.append(
            {
                "boxes": torch.from_numpy(predictions.boxes_xywh[rows]),
                "labels": torch.from_numpy((predictions.category_ids[rows] - 5) // 10),
                "scores": torch.from_numpy(predictions.scores[rows]),
            }
        )
        rows = truth.region_images == image_id
        wanted.append(
            {
                "boxes": torch.from_numpy(truth.boxes_xywh[rows]),
                "labels": torch.from_numpy(truth.region_labels[rows]),
            }
        )
    metric.warn_on_many_detections = False
    metric.update(found, wanted)
    return {name: float(value) for name, value in metric.compute().items() if value.numel() == 1}


def by_pycocotools(truth: CocoGroundTruth, predictions: Predictions) -> dict[str, float]:
    annotated = COCO()
    annotated.dataset = {
        "images": [{"id": number} for number in truth.image_ids],
        "categories": [{"id": number} for number in truth.category_ids],
        "annotations": [
            {
                "id": 1 + row,
                "image_id": int(truth.region_images[row]),
                "category_id": truth.category_ids[truth.region_labels[row]],
                "bbox": truth.boxes_xywh[row].tolist(),
                "area": float(truth.boxes_xywh[row, 2:].prod()),
                "iscrowd": 0,
            }
            for row in range(truth.num_annotations)
        ],
    }
    annotated.createIndex()
    rows = np.column_stack(
        [
            predictions.image_ids,
            predictions.boxes_xywh,
            predictions.scores,
            predictions.category_ids,
        ]
    )
    evaluation = COCOeval(annotated, annotated.loadRes(rows), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "", "", "AR", "ARs", "ARm", "ARl")
    return {name: float(value) for name, value in zip(names, evaluation.stats, strict=True) if name}


def assert_equal_figures(truth: CocoGroundTruth, predictions: Predictions) -> None:
    exact = by_pycocotools(truth, predictions)
    loose = by_torchmetrics(truth, predictions)
    for scorer in ("hotcoco", "reference"):
        ours = CocoScorer(truth, scorer=scorer).score(predictions).figures()
        wanted = {name: None if value == -1 else 100 * value for name, value in exact.items()}
        assert ours == wanted
        for name, key in _TORCHMETRICS.items():
            value = -1 if ours[name] is None else ours[name]
            assert value == pytest.approx(100 * loose[key] if loose[key] != -1 else -1, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), num_images=st.integers(1, 6), num_classes=st.integers(1, 5))
def test_figures_are_those_of_pycocotools_and_torchmetrics(
    seed: int, num_images: int, num_classes: int
) -> None:
    assert_equal_figures(*drawn_case(seed, num_images=num_images, num_classes=num_classes))


def test_more_than_100_predictions_of_a_class_in_an_image_are_cut_alike() -> None:
    truth, predictions = drawn_case(3, num_images=2, num_classes=2, crowd=150)
    in_first = (predictions.image_ids == 7) & (predictions.category_ids == 5)
    assert in_first.sum() > 100
    assert_equal_figures(truth, predictions)


def test_both_scorers_give_equal_curves_of_every_class() -> None:
    truth, predictions = drawn_case(11, num_images=20, num_classes=6)
    ours = CocoScorer(truth).score(predictions)
    theirs = CocoScorer(truth, scorer="reference").score(predictions)
    assert ours == theirs


def test_no_predictions_score_zero() -> None:
    truth, _ = drawn_case(5, num_images=3, num_classes=3)
    for scorer in ("hotcoco", "reference"):
        scores = CocoScorer(truth, scorer=scorer).score(Predictions.empty())
        assert scores.AP == 0.0
        assert scores.per_category[-1].AP is None, "the last class has no ground truth"


def test_foreign_ids_and_unknown_scorers_are_refused() -> None:
    truth, predictions = drawn_case(5, num_images=3, num_classes=3)
    with pytest.raises(AnnotationError, match=r"1 images that drawn does not hold, e\.g\. id 8"):
        one = predictions.select(np.array([0]))
        CocoScorer(truth).score(
            Predictions(
                image_ids=np.array([8]),
                category_ids=one.category_ids,
                boxes_xywh=one.boxes_xywh,
                scores=one.scores,
            )
        )
    with pytest.raises(ConfigError, match=r"Set --scorer to one of hotcoco, reference"):
        CocoScorer(truth, scorer="coco")  # type: ignore[arg-type]
