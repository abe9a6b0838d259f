"""``regionspot evaluate``: from options to a report."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from regionspot.cli.options import parse_options
from regionspot.cli.run import reported_errors, show_progress
from regionspot.evaluation import REPORT_NAME, EvalConfig, run_evaluation
from regionspot.scoring import IOU_TYPE_NOTES, METRIC_NOTES, PROTOCOL_NOTES, SCORE_RULE_NOTES
from regionspot.scoring.results import format_groups, format_table


@reported_errors()
def evaluate(words: Sequence[str]) -> None:
    """Evaluate trained heads and baselines on a cached data set, and write a report.

    ``python evaluate.py --config configs/eval/lvis_gt.yaml``, or equivalently ``regionspot
    evaluate``. Writes ``metrics.json``, ``per_category.csv``, ``report.html``, and, with
    ``--images_dir``, ``named_regions.jpg``. The predictions of the first method are written to
    ``predictions.json``, in the LVIS results format.
    """
    show_progress()
    config = parse_config(words)
    result = run_evaluation(config, command=shlex.join(["python", "evaluate.py", *words]))
    notes = (
        METRIC_NOTES[result.metric],
        IOU_TYPE_NOTES[result.iou_type],
        PROTOCOL_NOTES[result.protocol],
        SCORE_RULE_NOTES[result.score_rule],
    )
    print("", *notes, sep="\n")
    print(f"\n{format_table(result.methods, result.iou_type)}\n")
    if result.class_groups:
        print(f"AP of groups of classes\n{format_groups(result.methods, result.class_groups)}\n")
    print(f"report: {Path(config.output_dir) / REPORT_NAME}")


def parse_config(words: Sequence[str]) -> EvalConfig:
    """Read the options of ``regionspot evaluate`` from a command line.

    Raises:
        ConfigError: An option is invalid.
    """
    return parse_options(EvalConfig, words, prog="evaluate.py", about=evaluate.__doc__)
