"""Score trained heads and baselines on a cached data set, and write the report."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from regionspot.cli.options import parse_options
from regionspot.cli.run import run_cli, show_progress
from regionspot.evaluation import REPORT_NAME, EvalConfig, run_evaluation
from regionspot.scoring import METRIC_NOTES, PROTOCOL_NOTES
from regionspot.scoring.results import format_table


def evaluate(words: Sequence[str]) -> None:
    """Score trained heads and baselines on a cached data set, and write the report.

    ``python evaluate.py --config configs/eval/lvis_gt.yaml``, or the same as ``regionspot
    evaluate``. Writes ``metrics.json``, ``per_category.csv``, ``predictions.json`` (LVIS results
    format, of the first method; those of the others are ``predictions_<method>.json``),
    ``report.html``, and with ``--images_dir`` ``named_regions.jpg``.
    """
    show_progress()
    # The parser builds the configuration, whose own checks raise errors for the user, too.
    run_cli(lambda: _evaluate(words))


def parse_config(words: Sequence[str]) -> EvalConfig:
    """Read the options of the command line and of the file that they name.

    Raises:
        ConfigError: The options contradict each other.
    """
    return parse_options(EvalConfig, words, prog="evaluate.py", about=evaluate.__doc__)


def _evaluate(words: Sequence[str]) -> None:
    config = parse_config(words)
    result = run_evaluation(config, command=shlex.join(["python", "evaluate.py", *words]))
    notes = f"{METRIC_NOTES[result.metric]}\n{PROTOCOL_NOTES[result.protocol]}"
    print(f"\n{notes}\n\n{format_table(result.methods)}\n")
    print(f"report: {Path(config.output_dir) / REPORT_NAME}")
