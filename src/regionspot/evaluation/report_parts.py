"""The parts of the report as plain values, which ``report.html.jinja`` lays out.

Nothing here is HTML: the template escapes every text.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from regionspot.core.errors import ConfigError
from regionspot.core.text import human_duration
from regionspot.scoring import CategoryScore, Interval, IouType
from regionspot.scoring.figures import FIGURES, format_figure, shown_figures
from regionspot.scoring.results import MethodResult
from regionspot.viz import NamedRegion, RegionPhoto

_NUM_EXTREME_CATEGORIES = 8
_SIGNATURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


@dataclass(frozen=True, kw_only=True)
class ReportPicture:
    """A picture that is embedded in the report."""

    data: bytes
    """The encoded picture, PNG or JPEG."""
    alt: str
    """What it shows, for readers who cannot see it."""
    caption: str = ""
    """The line below it."""

    @cached_property
    def data_uri(self) -> str:
        """The picture as a ``data:`` URI.

        Raises:
            ConfigError: The picture is neither PNG nor JPEG.
        """
        for start, media_type in _SIGNATURES.items():
            if self.data.startswith(start):
                return f"data:{media_type};base64,{base64.b64encode(self.data).decode('ascii')}"
        raise ConfigError(f"the picture {self.alt!r} is neither PNG nor JPEG.")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamesByMethod:
    """What one method called the regions of an image."""

    method: str
    """Name of the method."""
    regions: tuple[NamedRegion, ...]
    """The regions, numbered from 1 as in the picture."""

    @property
    def count(self) -> str:
        """How many names are right, or how many regions there are if that is unknown."""
        known = [region.is_right for region in self.regions if region.is_right is not None]
        return f"{sum(known)} of {len(known)} right" if known else f"{len(self.regions)} regions"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionPicture:
    """An image with numbered regions and the names by every method, one of which is shown."""

    title: str
    """Which image it is."""
    photo: RegionPhoto
    """The image and the shapes of its regions."""
    names: tuple[NamesByMethod, ...]
    """The names by each method, at least one; the first is shown at the start."""

    @property
    def picture(self) -> ReportPicture:
        """The image itself."""
        alt = f"{self.title} with {len(self.photo.shapes)} numbered regions"
        return ReportPicture(data=self.photo.data, alt=alt)

    def verdicts(self, region: int) -> str:
        """Return a region's CSS classes: v<method>-right, -wrong or -unknown for each method."""
        words = {True: "right", False: "wrong", None: "unknown"}
        return " ".join(
            f"v{number}-{words[one.regions[region].is_right]}"
            for number, one in enumerate(self.names)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionAttention:
    """What a region attends to."""

    picture: ReportPicture
    """The heat map over the image; the caption has the share of attention inside the box."""
    region: NamedRegion
    """The region and its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageAttention:
    """What the regions of an image attend to."""

    title: str
    """Which image it is, and the share of the first token."""
    scale: ReportPicture
    """The colour scale of its regions."""
    regions: tuple[RegionAttention, ...]
    """The regions, at least one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A number at the top of the report."""

    number: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A figure of the table of methods."""

    text: str
    is_best: bool
    """Whether no method has a better figure, at the precision shown."""
    interval: str = ""
    """Its 95 % interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodRow:
    """A row of the table of methods."""

    name: str
    description: str
    cells: tuple[Cell, ...]
    """One cell for each column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodTable:
    """The table of all methods."""

    columns: tuple[str, ...]
    rows: tuple[MethodRow, ...]
    note: str
    """What a reader has to know about the columns."""
    leads: tuple[str, ...] = ()
    """By how much the first method is ahead of each other, with intervals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryTable:
    """The AP of single classes."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """One text for each column; the class name comes first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingRow:
    """A row of the table of times."""

    name: str
    duration: str
    percent_of_longest: float
    """Length of the row's bar, 0 to 100."""


def cards(methods: Sequence[MethodResult], iou_type: IouType = "bbox") -> tuple[Card, ...]:
    """Return the figures of the first method, and its lead over the best of the others."""
    first = methods[0]
    found = [
        Card(number=figure.text(first.figures), label=f"{figure.title} of {first.name}")
        for figure in shown_figures("cards", [first.figures], iou_type)
    ]
    others = [method for method in methods[1:] if method.scores.AP is not None]
    if others and first.scores.AP is not None:
        best = max(others, key=lambda method: method.scores.AP or 0.0)
        lead = first.scores.AP - (best.scores.AP or 0.0)
        label = f"AP compared with the best other method, {best.name}"
        found.append(Card(number=f"{lead:+.1f}", label=label))
    return tuple(found)


_AP = next(figure for figure in FIGURES if figure.name == "AP")


def method_table(methods: Sequence[MethodResult], iou_type: IouType = "bbox") -> MethodTable:
    """Return the table of all methods, the best of each column marked."""
    figures = [method.figures for method in methods]
    shown = [
        figure
        for figure in shown_figures("report", figures, iou_type)
        # With annotated boxes AP50 repeats AP.
        if figure.name != "AP50" or any(figure.text(own) != _AP.text(own) for own in figures)
    ]
    columns = [
        _marked(
            [figure.text(method.figures) for method in methods],
            [method.figures[figure.name] for method in methods],
            [method.intervals.get(figure.name) for method in methods],
            lower_is_better=figure.lower_is_better,
        )
        for figure in shown
    ]
    rows = [
        MethodRow(
            name=method.name,
            description=method.description,
            cells=tuple(column[number] for column in columns),
        )
        for number, method in enumerate(methods)
    ]
    return MethodTable(
        columns=tuple(figure.title for figure in shown),
        rows=tuple(rows),
        note=" ".join(figure.note for figure in shown if figure.note),
        leads=tuple(_lead(methods[0], method) for method in methods[1:] if "AP" in method.lead),
    )


def _lead(first: MethodResult, other: MethodResult) -> str:
    """Say whether the difference of two methods is more than chance."""
    interval = other.lead["AP"]
    difference = (first.scores.AP or 0.0) - (other.scores.AP or 0.0)
    verdict = "more than chance" if interval.low > 0 or interval.high < 0 else "within chance"
    return (
        f"AP of {first.name} minus {other.name}: {difference:+.1f} ({interval.low:+.1f} to"
        f" {interval.high:+.1f}), {verdict}"
    )


def category_tables(methods: Sequence[MethodResult]) -> tuple[CategoryTable, ...]:
    """Return the best and the worst classes of the first method, and all classes.

    There is no table if no class has ground truth.
    """
    scored = [one for one in methods[0].scores.per_category if one.AP is not None]
    if not scored:
        return ()
    ranked = sorted(scored, key=lambda one: (-(one.AP or 0.0), one.category_id))
    count = min(_NUM_EXTREME_CATEGORIES, (len(ranked) + 1) // 2)
    return (
        _category_table("Best", ranked[:count], methods[:2]),
        _category_table("Worst", ranked[-count:][::-1], methods[:2]),
        _category_table("All classes", scored, methods),
    )


def timing_rows(timings_s: Mapping[str, float]) -> tuple[TimingRow, ...]:
    """Return the seconds of each step as a duration and a bar."""
    longest = max([*timings_s.values(), 1e-9])
    return tuple(
        TimingRow(
            name=name, duration=human_duration(seconds), percent_of_longest=100 * seconds / longest
        )
        for name, seconds in timings_s.items()
    )


def _marked(
    texts: Sequence[str],
    values: Sequence[float | None],
    intervals: Sequence[Interval | None],
    *,
    lower_is_better: bool,
) -> list[Cell]:
    choose = min if lower_is_better else max
    best = choose((value for value in values if value is not None), default=None)
    return [
        Cell(
            text=text,
            is_best=best is not None and text == format_figure(best),
            interval="" if interval is None else interval.text(),
        )
        for text, interval in zip(texts, intervals, strict=True)
    ]


def _category_table(
    title: str, rows: Sequence[CategoryScore], methods: Sequence[MethodResult]
) -> CategoryTable:
    figures = [{one.category_id: one.AP for one in m.scores.per_category} for m in methods]
    has_frequency = any(row.frequency for row in rows)
    return CategoryTable(
        title=title,
        columns=(
            *("class", *(["freq."] if has_frequency else []), "regions"),
            *(method.name for method in methods),
        ),
        rows=tuple(
            (
                *(row.name, *([row.frequency or ""] if has_frequency else [])),
                f"{row.num_annotations:,}",
                *(format_figure(of_method[row.category_id]) for of_method in figures),
            )
            for row in rows
        ),
    )
