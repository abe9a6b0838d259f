"""What an evaluation found: figures of every method, and the files that keep them.

metrics.json         {"methods": {"fusion_head": {"AP": .., "APr": .., ..}, ..}, "timings_s": ..}
per_category.csv     AP of every category by every method
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from regionspot.core.files import write_text_atomic
from regionspot.scoring.ap_scores import ApScores, IouType, Metric, Scorer
from regionspot.scoring.bootstrap import Intervals
from regionspot.scoring.class_groups import ClassGroup
from regionspot.scoring.figures import format_figure, shown_figures
from regionspot.scoring.lvis_ap import LvisScores
from regionspot.scoring.protocols import Protocol
from regionspot.scoring.score_rules import ScoreRule

METRICS_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodResult:
    """How one method did."""

    name: str
    """What the method is called in tables and files, e.g. "fusion_head"."""
    description: str
    """What the method does, in one sentence."""
    scores: ApScores
    """AP and its kin; `LvisScores` under the LVIS metric."""
    region_figures: Mapping[str, float | None]
    """Figures over annotated boxes by name, in percent (`region_figures`); None where boxes come
    from a detector."""

    intervals: Intervals = field(default_factory=dict)
    """Bootstrap intervals of figures by name, see `Intervals`; {} where none were asked for."""
    lead: Intervals = field(default_factory=dict)
    """Intervals of the first method's figures minus those of this one, by name."""

    @property
    def figures(self) -> Mapping[str, float | None]:
        """All its figures by name, in percent; None where undefined."""
        return {**self.scores.figures(), **self.region_figures}

    @property
    def num_categories(self) -> Mapping[str, int]:
        """Categories with ground truth: of each frequency under the LVIS metric, else all."""
        if isinstance(self.scores, LvisScores):
            return cast("Mapping[str, int]", self.scores.num_categories)
        return {"all": sum(one.AP is not None for one in self.scores.per_category)}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedData:
    """What was scored."""

    name: str
    """Name of the data set, from the cache's manifest."""
    num_images: int
    """Images that count: annotated ones that the cache was planned for."""
    num_missing_images: int
    """Those of them that the cache had to leave out (quarantined)."""
    num_regions: int
    """Annotated regions in the images that count."""
    num_cached_regions: int
    """Regions of these images in the cache, which all methods get to name: proposals, or those of
    the annotated ones that the cache holds, the others being missed."""
    proposals: str | None
    """Which proposals the regions are; None where they are the annotated ones."""
    num_classes: int
    """Size of the vocabulary."""
    is_subset: bool
    """Whether the cache was planned for fewer images than the annotation file has."""
    annotation_sha256: str
    """Identity of the annotation file."""
    knows_missing_regions: bool = True
    """Whether the ground truth has the regions of missing images, which then are all missed; false
    where it is what the cache holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """All that `metrics.json` says."""

    methods: tuple[MethodResult, ...]
    """The methods, in the order asked for."""
    protocol: Protocol
    """Which (box, class) pairs were scored."""
    score_rule: ScoreRule = "box_score"
    """What a pair's score is."""
    iou_type: IouType = "bbox"
    """Whether AP is of boxes or of masks."""
    metric: Metric
    """What AP means."""
    scorer: Scorer
    """Who computed it."""
    templates: str
    """Template set of the text bank, the same for every method."""
    data: EvaluatedData
    """What was scored."""
    class_groups: tuple[ClassGroup, ...] = ()
    """Groups of classes with an AP of their own."""
    timings_s: Mapping[str, float] = field(default_factory=dict)
    """Seconds by step, earlier steps of the run first."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """What was run: frozen models, weights, versions."""

    def to_json(self) -> str:
        """Return the text of ``metrics.json``: AP in percent, null where undefined."""
        content = {
            "schema_version": METRICS_VERSION,
            "methods": {
                result.name: {
                    **result.figures,
                    "num_categories": result.num_categories,
                    **self._group_figures(result),
                    **_bounds("intervals", result.intervals),
                    **_bounds("first_minus_this", result.lead),
                }
                for result in self.methods
            },
            "metric": self.metric,
            "iou_type": self.iou_type,
            "scorer": self.scorer,
            "protocol": self.protocol,
            "score_rule": self.score_rule,
            "templates": self.templates,
            "class_groups": {group.name: list(group.classes) for group in self.class_groups},
            "data": {
                "name": self.data.name,
                "num_images": self.data.num_images,
                "num_missing_images": self.data.num_missing_images,
                "num_regions": self.data.num_regions,
                "num_cached_regions": self.data.num_cached_regions,
                "proposals": self.data.proposals,
                "num_classes": self.data.num_classes,
                "is_subset": self.data.is_subset,
                "annotation_sha256": self.data.annotation_sha256,
            },
            "timings_s": dict(self.timings_s),
            "provenance": dict(self.provenance),
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    def _group_figures(self, method: MethodResult) -> dict[str, dict[str, float | None]]:
        figures = {one.name: one.average_precision(method.scores) for one in self.class_groups}
        return {"class_groups": figures} if figures else {}


def _bounds(key: str, intervals: Intervals) -> dict[str, dict[str, list[float]]]:
    bounds = {name: [interval.low, interval.high] for name, interval in intervals.items()}
    return {key: bounds} if bounds else {}


def write_metrics(path: Path, result: EvaluationResult) -> None:
    """Write ``metrics.json``."""
    write_text_atomic(path, result.to_json())


def write_per_category(path: Path, methods: Sequence[MethodResult]) -> None:
    """Write a CSV table: one row a category, one column of AP (percent) a method.

    The cell of a category without ground truth is empty.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    head = ["category_id", "name", "frequency", "num_annotations"]
    writer.writerow([*head, *(method.name for method in methods)])
    for rows in zip(*(method.scores.per_category for method in methods), strict=True):
        first = rows[0]
        writer.writerow(
            [
                first.category_id,
                first.name,
                first.frequency or "",
                first.num_annotations,
                *("" if row.AP is None else repr(row.AP) for row in rows),
            ]
        )
    write_text_atomic(path, buffer.getvalue())


def format_table(methods: Sequence[MethodResult], iou_type: IouType = "bbox") -> str:
    """Return the table that the command line prints, in percent."""
    columns = shown_figures("shell", [method.figures for method in methods], iou_type)
    width = max(len("method"), *(len(method.name) for method in methods))
    widths = [max(8, len(column.title) + 2) for column in columns]
    titles = zip(columns, widths, strict=True)
    lines = [f"{'method':<{width}}" + "".join(f"{column.title:>{w}}" for column, w in titles)]
    for method in methods:
        figures = method.figures
        lines.append(
            f"{method.name:<{width}}"
            + "".join(f"{c.text(figures):>{w}}" for c, w in zip(columns, widths, strict=True))
        )
    return "\n".join(lines)


def group_rows(
    methods: Sequence[MethodResult], groups: Sequence[ClassGroup]
) -> tuple[tuple[str, ...], ...]:
    """Return a table of the AP of groups of classes, as texts; () without groups.

    The first row is the head of the table; the first group is that of all classes. Intervals follow
    figures in parentheses.
    """
    if not groups:
        return ()
    scores = [method.scores for method in methods]
    names = tuple(one.name for one in scores[0].per_category)
    return (
        ("classes", "number", *(method.name for method in methods)),
        *(
            (
                group.name,
                f"{group.num_scored(scores[0]):,}",
                *(_group_text(group, method, figure) for method in methods),
            )
            for group, figure in (
                (ClassGroup(name="all", classes=names), "AP"),
                *((group, group.figure) for group in groups),
            )
        ),
    )


def _group_text(group: ClassGroup, method: MethodResult, figure: str) -> str:
    text = format_figure(group.average_precision(method.scores))
    interval = method.intervals.get(figure)
    return text if interval is None else f"{text} ({interval.text()})"


def format_groups(methods: Sequence[MethodResult], groups: Sequence[ClassGroup]) -> str:
    """Return the table of groups of classes that the command line prints; "" without groups."""
    rows = group_rows(methods, groups)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        f"{row[0]:<{widths[0]}}"
        + "".join(f"{text:>{w + 2}}" for text, w in zip(row[1:], widths[1:], strict=True))
        for row in rows
    )
