"""Figures over regions, counted by hand and by torchmetrics; and where each figure is shown."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from regionspot.core.region_scores import RegionScores
from regionspot.scoring import (
    FIGURES,
    Figure,
    NamedRegions,
    figures,
    region_figures,
    shown_figures,
)

_ALL = ("top1_accuracy", "top5_accuracy", "mean_class_accuracy", "calibration_error")


def named(rows: list[list[float]], labels: list[int]) -> NamedRegions:
    scores = RegionScores(
        image_id=1,
        boxes_xyxy=np.zeros((len(rows), 4), np.float32),
        scores=np.array(rows, np.float32).reshape(len(rows), -1 if rows else 3),
    )
    return NamedRegions.of_scores(scores, np.array(labels, np.int64))


def test_accuracies_are_over_the_regions_whose_class_is_known() -> None:
    assert region_figures(named([], [])) == dict.fromkeys(_ALL)
    first = named([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.2, 0.6]], [1, 1, -1])
    found = region_figures(NamedRegions.concatenate([first, named([], [])]))
    assert found["top1_accuracy"] == 50.0
    assert found["top5_accuracy"] is None, "every class is among five of three"
    second = named([[0.1, 0.7, 0.2], [0.1, 0.7, 0.2]], [1, 2])
    found = region_figures(NamedRegions.concatenate([first, second]))
    assert found["top1_accuracy"] == 50.0
    # Class 1: two of three right. Class 2: none of one.
    assert found["mean_class_accuracy"] == pytest.approx(100 * (2 / 3 + 0) / 2)


def test_equal_scores_rank_by_class_as_argmax_does() -> None:
    regions = named([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], [0, 1, -1])
    assert regions.predicted.tolist() == [0, 0, 2]
    assert regions.ranks.tolist() == [0, 1, -1]


@given(seed=st.integers(0, 2**32 - 1), num_regions=st.integers(1, 60))
def test_figures_are_those_of_torchmetrics(seed: int, num_regions: int) -> None:
    generator = np.random.default_rng(seed)
    logits = torch.from_numpy(generator.normal(size=(num_regions, 8)).astype(np.float32)) * 3
    probabilities, labels = (
        logits.softmax(-1),
        torch.from_numpy(generator.integers(0, 8, num_regions)),
    )
    scores = RegionScores(
        image_id=1,
        boxes_xyxy=np.zeros((num_regions, 4), np.float32),
        scores=probabilities.numpy(),
    )
    found = region_figures(NamedRegions.of_scores(scores, labels.numpy()))
    theirs = {
        "top1_accuracy": MulticlassAccuracy(8, average="micro"),
        "top5_accuracy": MulticlassAccuracy(8, average="micro", top_k=5),
        "calibration_error": MulticlassCalibrationError(8, n_bins=15, norm="l1"),
    }
    for name, metric in theirs.items():
        assert found[name] == pytest.approx(100 * float(metric(probabilities, labels)), abs=1e-4), (
            name
        )
    recalls = [
        float((probabilities.argmax(-1)[labels == label] == label).double().mean())
        for label in labels.unique()
    ]
    assert found["mean_class_accuracy"] == pytest.approx(100 * np.mean(recalls))


def test_figures_that_no_method_has_are_not_shown() -> None:
    some: dict[str, float | None] = {
        figure.name: None for figure in FIGURES if not figure.name.startswith("retrieval")
    }
    lvis = ["AP", "APr", "APc", "APf", "AP50"]
    assert [figure.title for figure in shown_figures("report", [some, some])] == lvis
    titles = [figure.title for figure in shown_figures("report", [some, some | _TOP1])]
    assert titles == [*lvis, "top-1"]
    assert [figure.title for figure in shown_figures("cards", [some | _TOP1])] == lvis[:-1]
    coco: dict[str, float | None] = {"AP": None, "AP50": 1.0, **dict.fromkeys(_ALL)}
    assert [figure.title for figure in shown_figures("report", [coco])] == ["AP", "AP50"]


_TOP1 = {"top1_accuracy": 1.0}


def test_a_new_figure_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    confidence = Figure(
        name="confidence",
        title="sure",
        places=("shell",),
        of_regions=lambda regions: float(regions.probabilities.mean()),
    )
    monkeypatch.setattr(figures, "FIGURES", (*FIGURES[:1], confidence))
    found = region_figures(named([[0.25, 0.75, 0], [0.5, 0.25, 0.25], [1, 0, 0]], [0, 0, -1]))
    assert found == {"confidence": 62.5}
    values = {"AP": 60.25, **found}
    shown = [(one.title, one.text(values)) for one in shown_figures("shell", [values])]
    assert shown == [("AP", "60.2"), ("sure", "62.5")]
