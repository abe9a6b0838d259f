"""What a run on a card has measured: rows of a table, section by section, and its JSON."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Status = Literal["done", "failed", "skipped"]
COLUMNS = ("what", "figure", "unit", "peer or limit", "ratio")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure."""

    what: str
    """What was measured."""
    figure: float
    """How much."""
    unit: str
    """Of what."""
    peer: str = ""
    """What it is compared with: another way, or a limit."""
    ratio: float | None = None
    """To a peer: how many times as fast (or as little); to a limit: the share of it."""

    def __post_init__(self) -> None:
        for number in (self.figure, self.ratio):
            if number is not None and not math.isfinite(number):
                raise ValueError(f"{self.what} is {self.figure}, ratio {self.ratio}; not finite.")


@dataclass(kw_only=True)
class SectionResult:
    """What became of a section."""

    letter: str
    """Which question it answers, a to g."""
    name: str
    """What it is called."""
    status: Status
    """How it ended."""
    seconds: float = 0.0
    """How long it took."""
    rows: list[Row] = field(default_factory=list)
    """Its figures; of a section that failed those that it had until then."""
    reason: str = ""
    """Why it failed or was skipped."""


@dataclass(kw_only=True)
class Results:
    """A whole run."""

    machine: Mapping[str, str | int | None]
    """Device, versions, driver, clocks, commit."""
    options: Mapping[str, str | float]
    """What the command was told."""
    sections: list[SectionResult] = field(default_factory=list)
    """Those that have ended, in order."""

    @property
    def failed(self) -> list[str]:
        """Names of the sections that failed."""
        return [section.name for section in self.sections if section.status == "failed"]

    def figures(self) -> dict[str, float]:
        """Return all figures by what they are."""
        return {row.what: row.figure for section in self.sections for row in section.rows}

    def to_json(self) -> str:
        """Return JSON that `from_json` reads."""
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Results":
        """Read what `to_json` wrote."""
        raw: dict[str, Any] = json.loads(text)
        sections = [
            SectionResult(**{**section, "rows": [Row(**row) for row in section["rows"]]})
            for section in raw["sections"]
        ]
        return cls(machine=raw["machine"], options=raw["options"], sections=sections)

    def to_markdown(self) -> str:
        """Return the machine and one table of all sections."""
        facts = _described({**self.machine, **self.options})
        return "\n".join([*facts, "", *self._table()]) + "\n"

    def _table(self) -> Iterator[str]:
        yield _line(COLUMNS)
        yield _line(["---"] * len(COLUMNS))
        for section in self.sections:
            title = f"**({section.letter}) {section.name}**, {section.seconds:.0f} s"
            if section.status != "done":
                title += f": {section.status}, {' '.join(section.reason.split())}"
            yield _line([title, "", "", "", ""])
            for row in section.rows:
                ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
                yield _line([row.what, _figure(row.figure), row.unit, row.peer, ratio])


def _described(facts: Mapping[str, object]) -> Iterator[str]:
    for name, value in facts.items():
        yield f"- {name}: {'unknown' if value is None else value}"


def _figure(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def _line(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
