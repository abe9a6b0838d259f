"""The figures of a method: name, title and format of each, and where it is shown.

A method has its figures as one mapping from name to value (`MethodResult.figures`): AP and its kin
from `ApScores`, and figures over regions from `region_figures`. ``metrics.json`` has all of them;
the table of the command line and the report show those in `FIGURES`. A new figure over regions is
one row there.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from regionspot.scoring.ap_scores import IouType
from regionspot.scoring.diagnosis import reliability
from regionspot.scoring.named import NamedRegions

Place = Literal["cards", "shell", "report"]
"""Where a figure is shown: the cards at the top of the report, the table that the command line
prints, the table of the report."""

OfRegions = Callable[[NamedRegions], float | None]
"""From regions whose class is known, at least one, to a figure in 0..1; None if it has no meaning
for them."""


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
    lower_is_better: bool = False
    """Whether the smallest figure is the best."""
    of_regions: OfRegions | None = None
    """How it follows from the regions whose class is known; None for the figures of `ApScores`."""

    def text(self, figures: Mapping[str, float | None]) -> str:
        """Return the figure of a method as it is shown; see `format_figure`."""
        return format_figure(figures[self.name])


def format_figure(value: float | None) -> str:
    """Format a figure in percent with one decimal; "-" where it is undefined."""
    return "-" if value is None else f"{value:.1f}"


def top1_accuracy(regions: NamedRegions) -> float:
    """Return the share of regions whose most likely class is the annotated one."""
    return float(np.mean(regions.ranks == 0))


def top5_accuracy(regions: NamedRegions) -> float | None:
    """Return the share of regions whose class is among the five most likely; None of 5 or fewer."""
    return float(np.mean(regions.ranks < 5)) if regions.num_classes > 5 else None


def mean_class_accuracy(regions: NamedRegions) -> float:
    """Return top-1 accuracy of each class, averaged over the classes that occur."""
    counts = np.bincount(regions.labels)
    right = np.bincount(regions.labels, weights=regions.ranks == 0)
    return float(np.mean(right[counts > 0] / counts[counts > 0]))


def calibration_error(regions: NamedRegions) -> float:
    """Return the expected calibration error of the most likely class (Guo et al. 2017).

    The mean distance between confidence and accuracy over 15 bins of equal width, weighted by the
    number of regions in each.
    """
    bins = reliability(regions)
    distance = sum(one.count * abs(one.confidence - one.accuracy) for one in bins)
    return distance / len(regions)


FIGURES: tuple[Figure, ...] = (
    Figure(
        name="AP",
        title="AP",
        places=("cards", "shell", "report"),
        note="AP: average precision in percent over IoU thresholds 0.50 to 0.95, averaged over the"
        " classes that have ground truth.",
    ),
    Figure(
        name="APr",
        title="APr",
        places=("cards", "shell", "report"),
        note="APr, APc, APf: of rare, common and frequent classes.",
    ),
    Figure(name="APc", title="APc", places=("cards", "shell", "report")),
    Figure(name="APf", title="APf", places=("cards", "shell", "report")),
    Figure(name="AP50", title="AP50", places=("shell", "report")),
    Figure(
        name="top1_accuracy",
        title="top-1",
        places=("shell", "report"),
        note="top-1, top-5: share of annotated boxes whose class is the most likely one, or among"
        " the five most likely.",
        of_regions=top1_accuracy,
    ),
    Figure(
        name="top5_accuracy", title="top-5", places=("shell", "report"), of_regions=top5_accuracy
    ),
    Figure(
        name="mean_class_accuracy",
        title="class acc.",
        places=("shell", "report"),
        note="class acc.: top-1 averaged over classes, so that rare ones count as much as frequent"
        " ones.",
        of_regions=mean_class_accuracy,
    ),
    Figure(
        name="calibration_error",
        title="ECE",
        places=("report",),
        note="ECE: expected calibration error, the distance between the probability of the most"
        " likely class and how often it is right.",
        lower_is_better=True,
        of_regions=calibration_error,
    ),
    Figure(
        name="retrieval_mAP",
        title="retr. mAP",
        places=("shell", "report"),
        note="retr. mAP, R@1, R@10: each class name ranks all regions by their probability of it;"
        " mean average precision, and the share of names with a right region among the best 1, 10.",
    ),
    Figure(name="retrieval_recall_at_1", title="R@1", places=("report",)),
    Figure(name="retrieval_recall_at_10", title="R@10", places=("report",)),
)
"""The figures that are shown, in the order of the columns."""


def shown_figures(
    place: Place,
    methods: Collection[Mapping[str, float | None]],
    iou_type: IouType = "bbox",
) -> tuple[Figure, ...]:
    """Return the figures to show: those that the metric has, and that any method has.

    Args:
        place: Where they are shown.
        methods: The figures of each method.
        iou_type: What AP compares; the AP of masks is titled so.
    """
    return tuple(
        replace(figure, title=f"mask {figure.title}")
        if iou_type == "segm" and figure.name.startswith("AP")
        else figure
        for figure in FIGURES
        if place in figure.places
        and any(figure.name in method for method in methods)
        and (figure.of_regions is None or any(m[figure.name] is not None for m in methods))
    )


def region_figures(regions: NamedRegions) -> dict[str, float | None]:
    """Return the figures over regions by name, in percent; None without any annotated class.

    Args:
        regions: What a method called them.
    """
    known = regions.known
    found = {
        figure.name: figure.of_regions(known) if len(known) else None
        for figure in FIGURES
        if figure.of_regions is not None
    }
    return {name: None if value is None else 100.0 * value for name, value in found.items()}
