"""Writes the tables of an ablation: ``ablation.json``, ``ablation.html`` and ``ablation.md``."""

import textwrap
from dataclasses import dataclass
from pathlib import Path

from regionspot.core.files import write_text_atomic
from regionspot.evaluation.ablation import AblationResult, Comparison, RowResult, TableResult
from regionspot.evaluation.pages import render_page

ABLATION_NAME = "ablation"
_WIDTH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Dots:
    """Where the seeds of a row lie on the scale of its table, in percent of its width."""

    seeds: tuple[float, ...]
    """The seeds."""
    mean: float
    """Their mean."""


def write_ablation(output_dir: Path, result: AblationResult) -> None:
    """Write the three files; see `AblationResult`."""
    write_text_atomic(output_dir / f"{ABLATION_NAME}.json", result.to_json())
    write_text_atomic(output_dir / f"{ABLATION_NAME}.md", to_markdown(result))
    html = render_page(
        "ablation.html.jinja",
        result=result,
        dots=[dots(table) for table in result.tables],
        row_text=row_text,
        comparison_text=comparison_text,
    )
    write_text_atomic(output_dir / f"{ABLATION_NAME}.html", html)


def to_markdown(result: AblationResult) -> str:
    """Return the tables as Markdown, with prose wrapped at 100 columns."""
    seeds = ", ".join(map(str, result.seeds))
    intro = f"Made on {result.date} by the command below; seeds {seeds}."
    parts = [_wrapped(intro), f"```bash\n{result.command}\n```", *map(_wrapped, result.notes)]
    for table in result.tables:
        lines = [f"### {table.title}", ""]
        if table.note:
            lines += [_wrapped(table.note), ""]
        has_paper = any(row.paper is not None for row in table.rows)
        lines.append(f"| | {table.figure}, mean (lowest to highest) |" + " paper |" * has_paper)
        lines.append("|---|---|" + "---|" * has_paper)
        for row in table.rows:
            paper = "" if row.paper is None else f"{row.paper:.1f}"
            lines.append(f"| {row.name} | {row_text(row)} |" + f" {paper} |" * has_paper)
        verdicts = [_wrapped(f"- {comparison_text(one)}", "  ") for one in table.comparisons]
        parts.append("\n".join([*lines, "", *verdicts]))
    return "\n\n".join(parts) + "\n"


def row_text(row: RowResult) -> str:
    """Return a row's mean, with the lowest and the highest seed if there are several."""
    if len(row.values) == 1:
        return f"{row.mean:.1f}"
    return f"{row.mean:.1f} ({min(row.values):.1f} to {max(row.values):.1f})"


def comparison_text(one: Comparison) -> str:
    """Return a comparison in words."""
    difference = f"{round(one.difference, 1) + 0.0:+.1f}"  # without -0.0
    if one.paper_difference is None:
        verdict = {"holds": "higher", "does not hold": "lower"}.get(one.verdict, one.verdict)
        return f"{one.higher} against {one.lower}: {difference}, {verdict}"
    return (
        f"{one.higher} above {one.lower}: **{one.verdict}**, {difference} (paper:"
        f" {one.paper_difference:+.1f})"
    )


def dots(table: TableResult) -> list[Dots]:
    """Place the seeds of each row on one scale, from the lowest to the highest of the table."""
    values = [value for row in table.rows for value in row.values]
    low, span = min(values), max(max(values) - min(values), 1e-9)
    return [
        Dots(
            seeds=tuple(100 * (value - low) / span for value in row.values),
            mean=100 * (row.mean - low) / span,
        )
        for row in table.rows
    ]


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent=indent, break_on_hyphens=False)
