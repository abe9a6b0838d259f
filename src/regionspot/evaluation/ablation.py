"""Ablations: tables whose rows are heads trained with different options, and what they show.

`AblationConfig` says what to run, `summarize_ablation` makes the tables from the figures found, and
``ablation_page.py`` writes them. ``regionspot ablate`` runs the commands (``cli/ablate.py``).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from statistics import mean
from typing import Any, Literal

from regionspot.core.errors import ConfigError
from regionspot.evaluation.config import DEFAULT_HEAD_NAME

ABLATION_VERSION = 1

Verdict = Literal["holds", "does not hold", "within the spread"]
Options = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class CommandOptions:
    """A configuration file and options that override it."""

    config: str
    """Configuration of the command."""
    options: Options = field(default_factory=dict)
    """Options by name, such as data.train; {data} in a text stands for the run's data folder."""


@dataclass(frozen=True, kw_only=True)
class AblationRun:
    """A head that is trained with some options changed, or methods that need no training."""

    data: str | None = None
    """Folder to replace {data} by; by default that of the ablation."""
    fit: Options = field(default_factory=dict)
    """Options of all stages of training."""
    stages: list[Options] = field(default_factory=list)
    """Further options of each stage, in order."""
    evaluate: Options = field(default_factory=dict)
    """Options of all evaluations."""
    methods: list[str] = field(default_factory=list)
    """Methods of evaluate.py that need no training; then nothing is trained."""


@dataclass(frozen=True, kw_only=True)
class AblationRow:
    """One row of a table."""

    name: str
    """What differs from other rows."""
    run: str
    """Name of the run."""
    evaluation: str | None = None
    """Name of the evaluation; by default the table's."""
    method: str = DEFAULT_HEAD_NAME
    """Method of the evaluation, for runs without training."""
    figure: str | None = None
    """Name of the figure in metrics.json; by default the table's."""
    paper: float | None = None
    """The figure in the paper."""


@dataclass(frozen=True, kw_only=True)
class AblationTable:
    """A table that answers one question."""

    title: str
    """What the rows vary."""
    rows: list[AblationRow]
    """The rows; rows without a figure of the paper are compared with the first one."""
    evaluation: str
    """Name of the evaluation."""
    figure: str = "AP"
    """Name of the figure in metrics.json, in percent."""
    note: str = ""
    """What readers need to know."""


@dataclass(frozen=True, kw_only=True)
class AblationConfig:
    """Train and evaluate the heads of several tables, each with several seeds.

    Raises:
        ConfigError: A table names a run or an evaluation that is not there, or nothing is to do.
    """

    output_dir: str
    """Folder to write all runs, ablation.json, ablation.html and ablation.md to."""
    stages: list[CommandOptions]
    """The stages of training, each from the head of the one before."""
    evaluations: dict[str, CommandOptions]
    """The evaluations by name; each run gets those that its rows ask for."""
    runs: dict[str, AblationRun]
    """The runs by name."""
    tables: dict[str, AblationTable]
    """The tables by name."""
    data: str = ""
    """Folder that {data} stands for in commands and options."""
    prepare: list[str] = field(default_factory=list)
    """Commands to run first, without the word regionspot, for instance to make the caches. Each
    must do nothing if it was finished before."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Random seeds; a head is trained with each."""
    num_processes: int = 1
    """Number of processes on this machine, which share the runs."""
    part: str | None = None
    """Share of the runs for this machine, such as 2/4 for the second of four, or auto under SLURM
    and torchrun. Part 1 prepares the data; the last one to finish writes the tables."""
    title: str = "Ablation"
    """Heading of the page."""
    notes: list[str] = field(default_factory=list)
    """Sentences to print above the tables."""

    def __post_init__(self) -> None:
        if not (self.tables and self.stages and self.seeds) or self.num_processes < 1:
            raise ConfigError(
                f"an ablation needs tables, stages, seeds and a process; found {len(self.tables)}"
                f" tables, {len(self.stages)} stages, {len(self.seeds)} seeds and num_processes"
                f" {self.num_processes}."
            )
        for name, table in self.tables.items():
            for row in table.rows:
                self._check(f"table {name}, row {row.name!r}: run", row.run, self.runs)
                wanted = row.evaluation or table.evaluation
                self._check(f"table {name}, row {row.name!r}: evaluation", wanted, self.evaluations)
        for name, run in self.runs.items():
            if len(run.stages) > len(self.stages):
                raise ConfigError(
                    f"run {name} has options of {len(run.stages)} stages; there are"
                    f" {len(self.stages)} (stages)."
                )

    @staticmethod
    def _check(where: str, name: str, known: Mapping[str, object]) -> None:
        if name not in known:
            raise ConfigError(f"{where} is {name!r}; wanted one of {', '.join(known)}.")

    def evaluations_of(self, run: str) -> list[str]:
        """Return the names of the evaluations that the tables want of a run, in their order."""
        wanted = {
            row.evaluation or table.evaluation
            for table in self.tables.values()
            for row in table.rows
            if row.run == run
        }
        return [name for name in self.evaluations if name in wanted]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """What was found for a row."""

    name: str
    """What differs from other rows."""
    values: tuple[float, ...]
    """The figure of each seed, in percent."""
    paper: float | None
    """The figure in the paper."""

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return mean(self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Whether one row is better than another."""

    lower: str
    """Name of the row that is expected to be lower."""
    higher: str
    """Name of the row that is expected to be higher."""
    paper_difference: float | None
    """Difference in the paper; None if the paper has no such rows."""
    difference: float
    """Difference of the means, higher minus lower."""
    verdict: Verdict
    """Whether it is; see `verdict_of`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableResult:
    """What was found for a table."""

    name: str
    """Name of the table in the configuration."""
    title: str
    """What its rows vary."""
    figure: str
    """Name of the figure."""
    note: str
    """What readers need to know."""
    rows: tuple[RowResult, ...]
    """The rows."""
    comparisons: tuple[Comparison, ...]
    """Each order of two rows in the paper; without its figures, each row against the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationResult:
    """All that ``ablation.json`` says."""

    title: str
    """Heading."""
    notes: tuple[str, ...]
    """Sentences to print above the tables."""
    command: str
    """The command that gives these tables."""
    date: str
    """Date of the tables, YYYY-MM-DD."""
    seeds: tuple[int, ...]
    """Random seeds of each head."""
    tables: tuple[TableResult, ...]
    """The tables."""

    def to_json(self) -> str:
        """Return the text of ``ablation.json``; figures in percent."""
        content = {"schema_version": ABLATION_VERSION, **asdict(self)}
        for table, found in zip(content["tables"], self.tables, strict=True):
            for row, one in zip(table["rows"], found.rows, strict=True):
                row["mean"] = one.mean
        return json.dumps(content, indent=1, allow_nan=False) + "\n"


def verdict_of(lower: Sequence[float], higher: Sequence[float]) -> Verdict:
    """Return whether the figures of one row are above those of another.

    "holds" if every seed of ``higher`` is above every seed of ``lower``, "does not hold" if every
    one is below, else "within the spread". With three seeds each, equal methods would be ordered
    by chance in one case of ten, half of them each way.
    """
    if min(higher) > max(lower):
        return "holds"
    return "does not hold" if max(higher) < min(lower) else "within the spread"


def summarize_ablation(
    config: AblationConfig,
    figures_of: Callable[[AblationRow, str, str], Sequence[float]],
    *,
    command: str,
    date: str,
) -> AblationResult:
    """Make the tables.

    Args:
        config: What was run.
        figures_of: Returns the figure of each seed for a row, an evaluation and a figure's name.
        command: The command, for the page.
        date: Today's date.
    """
    return AblationResult(
        title=config.title,
        notes=tuple(config.notes),
        command=command,
        date=date,
        seeds=tuple(config.seeds),
        tables=tuple(
            _table_result(name, table, figures_of) for name, table in config.tables.items()
        ),
    )


def _table_result(
    name: str,
    table: AblationTable,
    figures_of: Callable[[AblationRow, str, str], Sequence[float]],
) -> TableResult:
    rows = tuple(
        RowResult(
            name=row.name,
            values=tuple(
                figures_of(row, row.evaluation or table.evaluation, row.figure or table.figure)
            ),
            paper=row.paper,
        )
        for row in table.rows
    )
    return TableResult(
        name=name,
        title=table.title,
        figure=table.figure,
        note=table.note,
        rows=rows,
        comparisons=tuple(_comparisons(rows)),
    )


def _comparisons(rows: Sequence[RowResult]) -> list[Comparison]:
    found = []
    for one, other in combinations(rows, 2):
        paper = None
        if one.paper is not None and other.paper is not None:
            if one.paper == other.paper:
                continue
            lower, higher = (one, other) if one.paper < other.paper else (other, one)
            paper = abs(one.paper - other.paper)
        elif one is rows[0]:
            lower, higher = one, other
        else:
            continue
        found.append(
            Comparison(
                lower=lower.name,
                higher=higher.name,
                paper_difference=paper,
                difference=higher.mean - lower.mean,
                verdict=verdict_of(lower.values, higher.values),
            )
        )
    return found
