"""Charts of the report: loss and AP during training, and bars of AP by method.

Training curves are read from the metrics.csv files that Lightning's CSVLogger writes.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from regionspot.core.errors import ConfigError, MissingFileError
from regionspot.viz.style import GRID, INK, MUTED, SERIES, figure_png, new_axes

_SIZE_IN = (5.6, 3.5)
"""Width and height of a training curve in inches."""
_GROUP_NAMES = ("val/APr", "val/APc", "val/APf")
_BAR_FIGURES = ("AP", "APr", "APc", "APf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One logged quantity: values at optimizer steps."""

    steps: NDArray[np.int64]
    """Optimizer steps, (N,), counted from 0 over all stages."""
    values: NDArray[np.float64]
    """The values, (N,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingLog:
    """The logs of one or more training stages, concatenated."""

    curves: dict[str, Curve]
    """Curves by their logged name."""
    stage_starts: tuple[int, ...]
    """The step at which each stage starts."""
    stage_names: tuple[str, ...]
    """Names of the stages."""


def find_metrics_csv(training_dir: Path) -> Path:
    """Return the newest ``metrics.csv`` below a trainer's ``default_root_dir``.

    Raises:
        MissingFileError: There is none.
    """
    found = sorted(training_dir.rglob("metrics.csv"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise MissingFileError(
            f"no metrics.csv below {training_dir}. Train with Lightning's CSVLogger, or leave the"
            " folder out of `training_dirs`."
        )
    return found[-1]


def read_training_log(stages: Sequence[tuple[str, Path]]) -> TrainingLog:
    """Read the metrics of training stages, and concatenate their steps.

    Args:
        stages: Name and ``metrics.csv`` of each stage, in the order of training.

    Raises:
        MissingFileError: A file does not exist.
    """
    points: dict[str, list[tuple[int, float]]] = {}
    starts: list[int] = []
    start = 0
    for _, path in stages:
        starts.append(start)
        start = _read_stage(path, start, points)
    curves = {
        name: Curve(
            steps=np.array([step for step, _ in rows], np.int64),
            values=np.array([value for _, value in rows], np.float64),
        )
        for name, rows in points.items()
    }
    names = tuple(name for name, _ in stages)
    return TrainingLog(curves=curves, stage_starts=tuple(starts), stage_names=names)


def draw_loss_curve(log: TrainingLog) -> bytes | None:
    """Draw the training loss as a PNG; None if it was not logged."""
    loss = log.curves.get("train/loss")
    if loss is None:
        return None
    figure, axes = new_axes(_SIZE_IN, title="Training loss", xlabel="optimizer steps")
    for stage in _by_stage(loss, log):
        axes.plot(stage.steps, stage.values, color=SERIES[0], alpha=0.25, linewidth=0.8)
        axes.plot(stage.steps, _smoothed(stage.values), color=SERIES[0], linewidth=1.8)
    if loss.values.min() > 0 and loss.values.max() > 20 * np.median(loss.values):
        axes.set_yscale("log")
    _mark_stages(axes, log)
    return figure_png(figure)


def draw_ap_curve(log: TrainingLog) -> bytes | None:
    """Draw AP on the validation images as a PNG; None if it was not logged."""
    ap = log.curves.get("val/AP")
    if ap is None:
        return None
    figure, axes = new_axes(
        _SIZE_IN, title="AP on the validation images", xlabel="optimizer steps", ylabel="%"
    )
    for colour, name in zip(SERIES[1:], _GROUP_NAMES, strict=False):
        group = log.curves.get(name)
        if group is not None:
            for number, stage in enumerate(_by_stage(group, log)):
                label = None if number else name.removeprefix("val/")
                axes.plot(stage.steps, stage.values, color=colour, linewidth=1.1, label=label)
    for number, stage in enumerate(_by_stage(ap, log)):
        axes.plot(
            stage.steps,
            stage.values,
            color=SERIES[0],
            linewidth=2.2,
            marker="o",
            markersize=3.5,
            label=None if number else "AP",
        )
    axes.annotate(
        f"{ap.values[-1]:.1f}",
        (float(ap.steps[-1]), float(ap.values[-1])),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=9.5,
        fontweight="bold",
        color=SERIES[0],
    )
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right", fontsize=8.5, frameon=False, labelcolor=INK, ncols=2)
    _mark_stages(axes, log)
    return figure_png(figure)


def draw_runs(runs: Mapping[str, Curve], *, title: str, smooth: bool = False) -> bytes:
    """Draw the curves of several runs together as a PNG; the legend has the last values.

    Args:
        runs: A curve for each run, by its name.
        title: What is drawn.
        smooth: Whether to draw moving averages instead of every value.
    """
    figure, axes = new_axes(_SIZE_IN, title=title, xlabel="optimizer steps")
    for number, (name, curve) in enumerate(runs.items()):
        axes.plot(
            curve.steps,
            _smoothed(curve.values) if smooth else curve.values,
            color=SERIES[number % len(SERIES)],
            linestyle=("-", "--", ":")[number // len(SERIES) % 3],
            linewidth=1.6,
            marker=None if smooth else "o",
            markersize=3.5,
            label=f"{name}: {curve.values[-1]:.4g}",
        )
    axes.set_xlim(left=0)
    axes.legend(fontsize=8, frameon=False, labelcolor=INK)
    return figure_png(figure)


def _read_stage(path: Path, start: int, points: dict[str, list[tuple[int, float]]]) -> int:
    """Add a stage's points, shifted by ``start``, and return the step after its last one."""
    if not path.is_file():
        raise MissingFileError(f"no training log at {path}; wanted Lightning's metrics.csv.")
    last = start
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            step_text = row.get("step")
            if not step_text:
                continue
            step = start + int(float(step_text))
            last = max(last, step + 1)
            for name, text in row.items():
                if text and name not in ("step", "epoch"):
                    points.setdefault(name, []).append((step, float(text)))
    return last


def _mark_stages(axes: Axes, log: TrainingLog) -> None:
    axes.set_xlim(left=0)
    if len(log.stage_starts) < 2:
        return
    for start, name in zip(log.stage_starts, log.stage_names, strict=True):
        if start:
            axes.axvline(start, color=GRID, linewidth=1.2, zorder=0)
        axes.annotate(
            name,
            (start, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(4, -2),
            textcoords="offset points",
            va="top",
            fontsize=8,
            color=MUTED,
        )


def _by_stage(curve: Curve, log: TrainingLog) -> list[Curve]:
    """Split a curve at the starts of stages, so that no line joins two stages."""
    cuts = np.searchsorted(curve.steps, log.stage_starts[1:])
    return [
        Curve(steps=steps, values=values)
        for steps, values in zip(
            np.split(curve.steps, cuts), np.split(curve.values, cuts), strict=True
        )
        if len(steps)
    ]


def _smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over a centred window of 1/40 of the values, which shrinks at the ends."""
    half = max(1, len(values) // 80)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    positions = np.arange(len(values))
    first = np.clip(positions - half, 0, None)
    last = np.clip(positions + half + 1, None, len(values))
    smoothed: NDArray[np.float64] = (sums[last] - sums[first]) / (last - first)
    return smoothed


def draw_ap_bars(
    methods: Mapping[str, Mapping[str, float | None]], figures: Sequence[str] = _BAR_FIGURES
) -> bytes:
    """Draw a bar chart as a PNG: a group of bars for each figure, a colour for each method.

    Args:
        methods: Figures in percent by name, for each method in drawing order. A figure that is
            None or missing (no class has ground truth) is drawn as a gap.
        figures: Names of the figures to draw.

    Raises:
        ConfigError: There is no method.
    """
    if not methods:
        raise ConfigError("no method to draw: evaluate at least one.")
    grouping = "class frequency" if "APr" in figures else "box size"
    figure, axes = new_axes((9.6, 3.6), title=f"Average precision by {grouping}", ylabel="%")
    width = 0.84 / len(methods)
    centres = np.arange(len(figures))
    size = 8.5 if len(methods) <= 4 else 7.0
    for number, (name, values) in enumerate(methods.items()):
        offset = (number - (len(methods) - 1) / 2) * width
        heights = [values.get(key) for key in figures]
        bars = axes.bar(
            centres + offset,
            [height or 0.0 for height in heights],
            width=width * 0.9,
            color=SERIES[number % len(SERIES)],
            label=name,
        )
        texts = ["-" if height is None else f"{height:.1f}" for height in heights]
        axes.bar_label(bars, labels=texts, padding=2, fontsize=size, color=INK)
    axes.set_xticks(centres, figures, fontsize=10, color=INK)
    axes.margins(y=0.12)
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.08),
        ncols=min(len(methods), 5),
        fontsize=8.5,
        frameon=False,
        labelcolor=INK,
    )
    return figure_png(figure)
