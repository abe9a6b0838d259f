"""A page that compares earlier evaluations and trainings side by side.

Figures are only subtracted where metric, protocol and data are the same; else the page starts with
what differs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from regionspot.core.errors import ConfigError, MissingFileError
from regionspot.core.files import write_text_atomic
from regionspot.evaluation.pages import render_page
from regionspot.evaluation.past_runs import PastRun, is_evaluation, names_of, read_past_run
from regionspot.evaluation.report_parts import ReportPicture
from regionspot.scoring import format_figure, shown_figures
from regionspot.viz import TrainingLog, draw_runs, find_metrics_csv, read_training_log

_NUM_CLASSES = 8
_CHARTS = (
    ("train/loss", "Training loss"),
    ("val/AP", "AP on the validation images, %"),
    ("val/top1", "Top-1 accuracy on the validation images"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedCell:
    """A figure of a method, and how much it differs."""

    text: str
    """The figure."""
    difference: str
    """Its difference to the first run; "" where there is none to state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRow:
    """The figures of a method of a run."""

    run: str
    """Name of the run."""
    method: str
    """Name of the method."""
    cells: tuple[ComparedCell, ...]
    """A cell for each column."""

    @property
    def is_compared(self) -> bool:
        """Whether a difference to the first run is stated."""
        return any(cell.difference for cell in self.cells)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassChanges:
    """The classes whose AP changed most from the first run to another one."""

    title: str
    """Which methods of which runs."""
    columns: tuple[str, ...]
    """The columns of both tables."""
    gains: tuple[tuple[str, ...], ...]
    """The largest gains, largest first."""
    losses: tuple[tuple[str, ...], ...]
    """The largest losses, largest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Something known of every run."""

    name: str
    """What it is."""
    values: tuple[str, ...]
    """Its value in each run; "-" where a run does not say."""

    @property
    def differs(self) -> bool:
        """Whether two runs have different values."""
        return len(set(self.values)) > 1


def write_comparison(
    folders: Sequence[Path], output: Path, *, title: str = "Comparison of runs"
) -> tuple[str, ...]:
    """Compare evaluations, and trainings by their curves, on one page.

    Args:
        folders: Output folders of evaluations, of training runs, or folders of training runs.
        output: The page to write.
        title: Heading of the page.

    Returns:
        Why figures are not comparable; () if they are.

    Raises:
        ConfigError: No folder is given or one twice, or an evaluation is damaged.
        MissingFileError: A folder holds neither an evaluation nor the log of a training.
    """
    if not folders:
        raise ConfigError("there is nothing to compare: give at least one folder.")
    evaluations = [folder for folder in folders if is_evaluation(folder)]
    runs = [read_past_run(*one) for one in zip(evaluations, names_of(evaluations), strict=True)]
    trainings = _training_runs([one for one in folders if one not in evaluations])
    decisive = _facts([run.decisive for run in runs])
    warnings = tuple(
        f"{fact.name} differs: "
        + ", ".join(f"{v} in {run.name}" for v, run in zip(fact.values, runs, strict=True))
        for fact in decisive
        if fact.differs
    )
    columns, rows = compare_figures(runs)
    page = render_page(
        "comparison.html.jinja",
        title=title,
        runs=[run.name for run in runs],
        trainings=trainings,
        warnings=warnings,
        columns=columns,
        rows=rows,
        notes=_notes(runs),
        changes=[changes for run in runs[1:] if (changes := compare_classes(runs[0], run))],
        curves=draw_training_curves(trainings),
        facts=[*decisive, *_facts([run.provenance for run in runs])],
    )
    write_text_atomic(output, page)
    return warnings


def are_comparable(first: PastRun, other: PastRun) -> bool:
    """Return whether metric, protocol and data of two runs are the same."""
    return first.decisive == other.decisive


def compare_figures(
    runs: Sequence[PastRun],
) -> tuple[tuple[str, ...], tuple[ComparedRow, ...]]:
    """Return the columns and rows of the table of figures.

    Groups of classes are columns if all runs that have them mean the same classes.
    """
    figures = [own for run in runs for own in run.figures.values()]
    are_masks = {run.decisive.get("iou_type") for run in runs} == {"segm"}
    columns = shown_figures("report", figures, "segm" if are_masks else "bbox")
    shown = [(one.name, one.title) for one in columns]
    groups = [name for name in _group_names(runs) if len(_meanings(runs, name)) == 1]
    rows = []
    for run in runs:
        for method in run.methods:
            base = runs[0].counterpart(method)
            is_base = run is runs[0] or not are_comparable(runs[0], run)
            own, its = run.figures[method], runs[0].figures[base]
            cells = [_cell(own.get(name), None if is_base else its.get(name)) for name, _ in shown]
            own, its = run.group_figures[method], runs[0].group_figures[base]
            cells += [_cell(own.get(name), None if is_base else its.get(name)) for name in groups]
            rows.append(ComparedRow(run=run.name, method=method, cells=tuple(cells)))
    titles = (*(title for _, title in shown), *(f"AP {name}" for name in groups))
    return titles, tuple(rows)


def compare_classes(first: PastRun, other: PastRun) -> ClassChanges | None:
    """Return the classes that changed most; None if the runs are not comparable.

    The first method of ``other`` is compared with its counterpart.
    """
    if not are_comparable(first, other):
        return None
    method = other.methods[0]
    base = first.counterpart(method)
    before, after = first.classes[base], other.classes[method]
    changes = [
        (after_ap - before_ap, name)
        for name, after_ap in after.items()
        if after_ap is not None and (before_ap := before.get(name)) is not None
    ]
    ranked = sorted(changes, key=lambda one: (-one[0], one[1]))

    def rows(chosen: Sequence[tuple[float, str]]) -> tuple[tuple[str, ...], ...]:
        return tuple(
            (
                name,
                f"{other.num_annotations[name]:,}",
                *(format_figure(before[name]), format_figure(after[name]), f"{change:+.1f}"),
            )
            for change, name in chosen
        )

    return ClassChanges(
        title=f"{other.name}: {method}, compared with {first.name}: {base}",
        columns=("class", "regions", first.name, other.name, "change"),
        gains=rows([one for one in ranked if one[0] > 0][:_NUM_CLASSES]),
        losses=rows([one for one in ranked[::-1] if one[0] < 0][:_NUM_CLASSES]),
    )


def draw_training_curves(trainings: Sequence[tuple[str, TrainingLog]]) -> tuple[ReportPicture, ...]:
    """Draw loss, AP and accuracy of trainings together, as far as they were logged."""
    found = []
    for name, title in _CHARTS:
        curves = {run: log.curves[name] for run, log in trainings if name in log.curves}
        if curves:
            alt = f"{title} by optimizer step of {', '.join(curves)}"
            drawn = draw_runs(curves, title=title, smooth=name.startswith("train/"))
            found.append(ReportPicture(data=drawn, alt=alt))
    return tuple(found)


def _training_runs(folders: Sequence[Path]) -> list[tuple[str, TrainingLog]]:
    """Read the logs of training runs: each folder is a run, or holds runs."""
    found: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise MissingFileError(f"there is no folder {folder}. Give the folders of runs.")
        is_run = (folder / "csv").is_dir() or (folder / "metrics.csv").is_file()
        inside = [folder] if is_run else sorted(one for one in folder.iterdir() if one.is_dir())
        logged = [one for one in inside if next(one.rglob("metrics.csv"), None) is not None]
        if not logged:
            raise MissingFileError(
                f"{folder} holds neither an evaluation (metrics.json) nor the log of a training"
                " (metrics.csv of Lightning's CSVLogger)."
            )
        found += logged
    return [
        (name, read_training_log([(name, find_metrics_csv(folder))]))
        for name, folder in zip(names_of(found), found, strict=True)
    ]


def _cell(value: float | None, base: float | None) -> ComparedCell:
    difference = "" if value is None or base is None else f"{value - base:+.1f}"
    return ComparedCell(text=format_figure(value), difference=difference)


def _group_names(runs: Sequence[PastRun]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.class_groups))


def _meanings(runs: Sequence[PastRun], group: str) -> set[frozenset[str]]:
    return {run.class_groups[group] for run in runs if group in run.class_groups}


def _notes(runs: Sequence[PastRun]) -> list[str]:
    return [
        f"The group {name!r} is left out: it has other classes in some runs."
        for name in _group_names(runs)
        if len(_meanings(runs, name)) > 1
    ]


def _facts(runs: Sequence[Mapping[str, str]]) -> list[Fact]:
    names = dict.fromkeys(name for run in runs for name in run)
    return [Fact(name=name, values=tuple(run.get(name, "-") for run in runs)) for name in names]
