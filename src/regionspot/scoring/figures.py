"""The figures of a method: name, title and format of each, and where it is shown.

A method has its figures as one mapping from name to value (`MethodResult.figures`): LVIS AP and its
kin from `LvisScores`, and means over regions, which `RegionMeans` collects while images are scored.
``metrics.json`` has all of them; the table of the command line and the report show those in
`FIGURES`. A new figure over regions is one row there.

Shape letters: R regions, C classes.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from regionspot.core.region_scores import RegionScores

Place = Literal["cards", "shell", "report"]
"""Where a figure is shown: the cards at the top of the report, the table that the command line
prints, the table of the report."""

OfRegions = Callable[[NDArray[np.float32], NDArray[np.int64]], NDArray[np.generic]]
"""From class scores, (R, C), and labels, (R,), to a number in 0..1 for each region, (R,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure in percent that is shown in tables."""

    name: str
    """Key in ``metrics.json``."""
    title: str
    """Heading of its column."""
    places: tuple[Place, ...]
    """Where it is shown."""
    note: str = ""
    """What a reader has to know about it, in whole sentences."""
    of_regions: OfRegions | None = None
    """What it is the mean of, over the regions whose class is known; None for the figures of
    `LvisScores`."""

    def text(self, figures: Mapping[str, float | None]) -> str:
        """Return the figure of a method as it is shown; see `format_figure`."""
        return format_figure(figures[self.name])


def format_figure(value: float | None) -> str:
    """Format a figure in percent with one decimal; "-" where it is undefined."""
    return "-" if value is None else f"{value:.1f}"


def top1_is_right(
    class_scores: NDArray[np.float32], labels: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return whether the most likely class of each region is the annotated one, (R,)."""
    right: NDArray[np.bool_] = class_scores.argmax(axis=1) == labels
    return right


FIGURES: tuple[Figure, ...] = (
    Figure(
        name="AP",
        title="AP",
        places=("cards", "shell", "report"),
        note="Average precision in percent over IoU thresholds 0.50 to 0.95, averaged over the"
        " classes that have ground truth. r, c, f: rare, common and frequent classes.",
    ),
    Figure(name="APr", title="APr", places=("cards", "shell", "report")),
    Figure(name="APc", title="APc", places=("cards", "shell", "report")),
    Figure(name="APf", title="APf", places=("cards", "shell", "report")),
    Figure(name="AP50", title="AP50", places=("shell", "report")),
    Figure(
        name="top1_accuracy",
        title="top-1",
        places=("report",),
        note="top-1: share of annotated boxes whose most likely class is right.",
        of_regions=top1_is_right,
    ),
)
"""The figures that are shown, in the order of the columns."""


def shown_figures(
    place: Place, methods: Collection[Mapping[str, float | None]]
) -> tuple[Figure, ...]:
    """Return the figures to show, without those over regions that no method has.

    Args:
        place: Where they are shown.
        methods: The figures of each method.
    """
    return tuple(
        figure
        for figure in FIGURES
        if place in figure.places
        and (figure.of_regions is None or any(m[figure.name] is not None for m in methods))
    )


class RegionMeans:
    """Means over all regions whose class is known, which proposals' are not."""

    def __init__(self) -> None:
        self._sums = {figure.name: 0.0 for figure in FIGURES if figure.of_regions is not None}
        self._num_regions = 0

    def add(self, scores: RegionScores, labels: NDArray[np.int64]) -> None:
        """Add the regions of an image.

        Args:
            scores: Their class scores.
            labels: Their annotated classes, (R,); -1 for none.
        """
        is_known = labels >= 0
        class_scores, labels = scores.scores[is_known], labels[is_known]
        self._num_regions += len(labels)
        for figure in FIGURES:
            if figure.of_regions is not None:
                self._sums[figure.name] += float(figure.of_regions(class_scores, labels).sum())

    def figures(self) -> dict[str, float | None]:
        """Return the means by name, in percent; None without any such region."""
        num_regions = self._num_regions
        return {
            name: 100.0 * (total / num_regions) if num_regions else None
            for name, total in self._sums.items()
        }
