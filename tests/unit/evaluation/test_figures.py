"""Figures over regions, counted by hand; and where each figure is shown."""

import numpy as np
import pytest

from regionspot.core.region_scores import RegionScores
from regionspot.scoring import FIGURES, Figure, RegionMeans, figures, shown_figures


def image(rows: list[list[float]]) -> RegionScores:
    return RegionScores(
        image_id=1,
        boxes_xyxy=np.zeros((len(rows), 4), np.float32),
        scores=np.array(rows, np.float32).reshape(-1, 3),
    )


def test_top1_accuracy_is_the_share_of_known_regions_named_right() -> None:
    means = RegionMeans()
    assert means.figures() == {"top1_accuracy": None}
    means.add(image([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.2, 0.6]]), np.array([1, 1, -1]))
    means.add(image([]), np.zeros(0, np.int64))
    assert means.figures() == {"top1_accuracy": 50.0}
    means.add(image([[0.1, 0.7, 0.2]]), np.array([1]))
    assert means.figures() == {"top1_accuracy": 100 * (2 / 3)}


def test_figures_that_no_method_has_are_not_shown() -> None:
    some: dict[str, float | None] = {figure.name: None for figure in FIGURES}
    titles = [figure.title for figure in shown_figures("report", [some, some])]
    assert titles == ["AP", "APr", "APc", "APf", "AP50"]
    titles = [figure.title for figure in shown_figures("report", [some, some | _TOP1])]
    assert titles == ["AP", "APr", "APc", "APf", "AP50", "top-1"]
    titles = [figure.title for figure in shown_figures("cards", [some | _TOP1])]
    assert titles == ["AP", "APr", "APc", "APf"]


_TOP1 = {"top1_accuracy": 1.0}


def test_a_new_figure_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    confidence = Figure(
        name="confidence",
        title="sure",
        places=("shell",),
        of_regions=lambda class_scores, _labels: class_scores.max(axis=1),
    )
    monkeypatch.setattr(figures, "FIGURES", (*FIGURES[:1], confidence))
    means = RegionMeans()
    means.add(image([[0.25, 0.75, 0], [0.5, 0.25, 0.25], [1, 0, 0]]), np.array([0, 0, -1]))
    assert means.figures() == {"confidence": 62.5}
    values = {"AP": 60.25, **means.figures()}
    shown = [(one.title, one.text(values)) for one in shown_figures("shell", [values])]
    assert shown == [("AP", "60.2"), ("sure", "62.5")]
