"""Charts of how good the predictions of methods are: precision by recall, and reliability."""

from collections.abc import Mapping, Sequence

import numpy as np

from regionspot.viz.style import GRID, INK, SERIES, figure_png, new_axes

_SIZE_IN = (5.6, 3.9)


def draw_precision_recall(methods: Mapping[str, Sequence[float]]) -> bytes:
    """Draw precision at 101 recall levels from 0 to 1 as a PNG, a line for each method.

    Args:
        methods: Precision in percent by method, 101 values each.
    """
    figure, axes = new_axes(
        _SIZE_IN, title="Precision by recall at IoU 0.50, mean of classes", xlabel="recall, %"
    )
    recall = np.linspace(0, 100, 101)
    for number, (name, precision) in enumerate(methods.items()):
        axes.plot(recall, precision, color=SERIES[number % len(SERIES)], linewidth=1.6, label=name)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 103)
    axes.set_ylabel("precision, %")
    axes.legend(loc="lower left", fontsize=8, frameon=False, labelcolor=INK)
    return figure_png(figure)


def draw_reliability(methods: Mapping[str, Sequence[tuple[float, float, int]]]) -> bytes:
    """Draw how often names are right by how probable they are, as a PNG.

    Args:
        methods: Bins by method: confidence and accuracy in 0..1, and the number of regions, which
            decides the size of the point.
    """
    figure, axes = new_axes(
        _SIZE_IN, title="Reliability of probabilities", xlabel="probability of the name, %"
    )
    axes.plot([0, 100], [0, 100], color=GRID, linewidth=1.2, zorder=0)
    for number, (name, bins) in enumerate(methods.items()):
        confidence, accuracy, count = np.array(bins, np.float64).reshape(-1, 3).T
        colour = SERIES[number % len(SERIES)]
        axes.plot(100 * confidence, 100 * accuracy, color=colour, linewidth=1.2, label=name)
        sizes = 60 * count / max(count.sum(), 1) + 6
        axes.scatter(100 * confidence, 100 * accuracy, s=sizes, color=colour, zorder=3)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 103)
    axes.set_ylabel("right, %")
    axes.legend(loc="upper left", fontsize=8, frameon=False, labelcolor=INK)
    return figure_png(figure)
