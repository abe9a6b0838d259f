"""The GPU benchmark as it is typed, at its tiny size on a CPU."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from card.table import Results

ROOT = Path(__file__).parents[2]
COMPILED = ("head compiled", "attention", "caching compiled")


def run(output_dir: Path, *words: str) -> Results:
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "benchmarks" / "on_gpu.py"), "--size", "tiny"),
            *("--device", "cpu", "--output_dir", str(output_dir), *words),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    text = (output_dir / "results.json").read_text(encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr + (output_dir / "log.txt").read_text()
    results = Results.from_json(text)
    assert results.to_json() == text
    assert (output_dir / "table.md").read_text(encoding="utf-8") in done.stdout
    return results


def check(results: Results) -> None:
    for section in results.sections:
        assert section.status == "done"
        assert section.rows
        for row in section.rows:
            assert math.isfinite(row.figure)
            assert row.figure > 0, row
            assert row.ratio is None or (math.isfinite(row.ratio) and row.ratio > 0), row


@pytest.mark.slow
def test_every_question_is_answered_by_positive_figures(tmp_path: Path) -> None:
    names = "[caching, head, data, loss, online, hours, toy]"
    results = run(tmp_path, "--sections", names)
    check(results)
    assert {section.letter for section in results.sections} == set("abcdefg")
    assert results.machine["torch device"] == "cpu"
    figures = results.figures()
    # By hand: two stages of 450,000 steps of 16 images, at the rate that training had.
    rate = figures["training, 2 images a step, bfloat16"]
    hours = figures["both stages, 2 images a step: as fast as training was"]
    assert hours == pytest.approx(2 * 450_000 * 16 / rate / 3600)
    rate = figures["the caching job, bfloat16, eager"]
    assert figures["3 million images, eager"] == pytest.approx(3_000_000 / rate / 3600)


@pytest.mark.slow
def test_what_is_compiled_is_measured_too(tmp_path: Path) -> None:
    results = run(tmp_path, "--sections", f"[{', '.join(COMPILED)}]", "--budget_s", "1000")
    check(results)
    assert [section.name for section in results.sections] == list(COMPILED)
