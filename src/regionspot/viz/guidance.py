"""The learned guidance of a head: how strongly each attention head prefers the inside of a box."""

import re

from regionspot.viz.curves import TrainingLog
from regionspot.viz.style import INK, SERIES, figure_png, new_panels

_NAME = re.compile(r"train/guidance/block(\d+)_head(\d+)")


def draw_guidance(log: TrainingLog) -> bytes | None:
    """Draw the learned strengths during training as a PNG; None if none were logged.

    A panel for each block, with a line for each attention head; the legend has the last values.
    """
    blocks: dict[int, list[tuple[int, str]]] = {}
    for name in log.curves:
        if (match := _NAME.fullmatch(name)) is not None:
            blocks.setdefault(int(match[1]), []).append((int(match[2]), name))
    if not blocks:
        return None
    figure, panels = new_panels(
        (3.2 * len(blocks), 3.5),
        titles=[f"Guidance, block {block}" for block in sorted(blocks)],
        xlabel="optimizer steps",
    )
    for axes, (_, heads) in zip(panels, sorted(blocks.items()), strict=True):
        for head, name in sorted(heads):
            curve = log.curves[name]
            axes.plot(
                curve.steps,
                curve.values,
                color=SERIES[head % len(SERIES)],
                linewidth=1.4,
                label=f"head {head}: {curve.values[-1]:.2f}",
            )
        axes.set_xlim(left=0)
        axes.legend(loc="upper left", fontsize=7, frameon=False, labelcolor=INK, ncols=2)
    lowest, highest = panels[0].get_ylim()
    panels[0].set_ylim(min(lowest, 0.0), highest + 0.35 * (highest - lowest))  # for the legends
    return figure_png(figure)
