"""A bar chart of AP by method and class frequency."""

from collections.abc import Mapping, Sequence

import numpy as np

from regionspot.core.errors import ConfigError
from regionspot.viz.style import INK, SERIES, figure_png, new_figure, style_axes

FIGURES = ("AP", "APr", "APc", "APf")


def draw_ap_bars(
    methods: Mapping[str, Mapping[str, float | None]], figures: Sequence[str] = FIGURES
) -> bytes:
    """Draw groups of bars, one group a figure and one colour a method, as a PNG.

    Args:
        methods: Figures in percent by name, for each method in the order to draw; None or an
            absent figure (no category has ground truth) leaves a gap.
        figures: Which figures to draw.

    Raises:
        ConfigError: There is no method.
    """
    if not methods:
        raise ConfigError("no method to draw: evaluate at least one.")
    figure = new_figure(9.6, 3.6)
    axes = figure.subplots()
    style_axes(axes, title="Average precision by class frequency", ylabel="%")
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
