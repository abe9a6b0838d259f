"""Tables of ablations: which orders hold, what is compared, and what the files say."""

import json
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest

from regionspot.core.errors import ConfigError
from regionspot.evaluation.ablation import (
    AblationConfig,
    AblationResult,
    AblationRow,
    AblationRun,
    AblationTable,
    CommandOptions,
    summarize_ablation,
    verdict_of,
)
from regionspot.evaluation.ablation_page import to_markdown, write_ablation

FIGURES = {
    "one": (10.0, 11.0, 12.0),
    "three": (13.0, 14.0, 15.0),
    "six": (14.5, 12.5, 13.5),
}


def config(*rows: AblationRow) -> AblationConfig:
    return AblationConfig(
        output_dir="out",
        stages=[CommandOptions(config="stage.yaml")],
        evaluations={"val": CommandOptions(config="eval.yaml")},
        runs={name: AblationRun() for name in FIGURES},
        tables={"depth": AblationTable(title="Depth", rows=list(rows), evaluation="val")},
    )


def summarized(*rows: AblationRow) -> AblationResult:
    return summarize_ablation(
        config(*rows),
        lambda row, _evaluation, _figure: FIGURES[row.run],
        command="regionspot ablate --config mine.yaml",
        date="2026-01-02",
    )


def rows(**paper: float | None) -> list[AblationRow]:
    return [AblationRow(name=f"{run} blocks", run=run, paper=of) for run, of in paper.items()]


@pytest.mark.parametrize(
    ("lower", "higher", "verdict"),
    [
        ([1.0, 2.0, 3.0], [3.1, 5.0, 4.0], "holds"),
        ([1.0, 2.0, 3.0], [3.0, 5.0, 4.0], "within the spread"),
        ([1.0, 2.0, 3.0], [0.1, 0.9, 0.5], "does not hold"),
        ([1.0, 2.0, 3.0], [0.1, 1.5, 0.5], "within the spread"),
        ([1.0], [2.0], "holds"),
    ],
)
def test_an_order_holds_if_all_seeds_are_in_it(
    lower: list[float], higher: list[float], verdict: str
) -> None:
    assert verdict_of(lower, higher) == verdict


def test_equal_methods_are_ordered_by_chance_in_one_case_of_ten() -> None:
    found = [verdict_of(order[:3], order[3:]) for order in permutations(map(float, range(6)))]
    assert found.count("holds") / len(found) == 0.05
    assert found.count("does not hold") / len(found) == 0.05


def test_every_order_of_two_rows_in_the_paper_gets_a_verdict() -> None:
    (table,) = summarized(*rows(one=23.2, three=23.7, six=22.8)).tables
    found = [(one.lower, one.higher, one.verdict) for one in table.comparisons]
    assert found == [
        ("one blocks", "three blocks", "holds"),
        ("six blocks", "one blocks", "does not hold"),
        ("six blocks", "three blocks", "within the spread"),
    ]
    assert table.comparisons[0].paper_difference == pytest.approx(0.5)
    assert [one.difference for one in table.comparisons] == pytest.approx([3.0, -2.5, 0.5])


def test_rows_that_the_paper_lacks_are_compared_with_the_first() -> None:
    (table,) = summarized(*rows(one=None, three=None, six=None)).tables
    found = [(one.lower, one.higher, one.paper_difference) for one in table.comparisons]
    assert found == [("one blocks", "three blocks", None), ("one blocks", "six blocks", None)]


def test_files_have_means_spread_verdicts_command_and_date() -> None:
    result = summarized(*rows(one=23.2, three=23.7), AblationRow(name="<six>", run="six"))
    text = to_markdown(result)
    assert "| one blocks | 11.0 (10.0 to 12.0) | 23.2 |" in text
    assert "| <six> | 13.5 (12.5 to 14.5) |  |" in text
    assert "- three blocks above one blocks: **holds**, +3.0 (paper: +0.5)" in text
    assert "- <six> against one blocks: +2.5, higher" in text
    assert "regionspot ablate --config mine.yaml" in text
    assert "2026-01-02" in text


def test_tables_without_figures_of_the_paper_have_no_column_for_them() -> None:
    text = to_markdown(summarized(*rows(one=None, three=None)))
    assert "| | AP, mean (lowest to highest) |\n|---|---|\n| one blocks | 11.0" in text


def test_the_page_escapes_names_and_json_has_all_values(tmp_path: Path) -> None:
    write_ablation(tmp_path, summarized(*rows(one=None), AblationRow(name="<six>", run="six")))
    page = (tmp_path / "ablation.html").read_text(encoding="utf-8")
    assert "&lt;six&gt;" in page
    assert "<six>" not in page
    assert "http" not in page
    (table,) = json.loads((tmp_path / "ablation.json").read_text(encoding="utf-8"))["tables"]
    assert [(row["values"], row["mean"]) for row in table["rows"]] == [
        ([10.0, 11.0, 12.0], 11.0),
        ([14.5, 12.5, 13.5], 13.5),
    ]


def test_names_that_are_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match="run is 'two'; wanted one of one, three, six"):
        config(AblationRow(name="2", run="two"))
    with pytest.raises(ConfigError, match="evaluation is 'test'; wanted one of val"):
        config(AblationRow(name="1", run="one", evaluation="test"))
    good = config(AblationRow(name="1", run="one"))
    with pytest.raises(ConfigError, match="run one has options of 2 stages; there are 1"):
        replace(good, runs={**good.runs, "one": AblationRun(stages=[{}, {}])})
    with pytest.raises(ConfigError, match="found 0 tables"):
        replace(good, tables={})
    with pytest.raises(ConfigError, match="num_processes 0"):
        replace(good, num_processes=0)
