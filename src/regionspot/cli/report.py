"""``regionspot report``: compare earlier evaluations and trainings."""

import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from regionspot.cli.run import reported_errors


@reported_errors()
def report(words: Sequence[str]) -> None:
    """Compare evaluations and trainings on one page, which needs no other file.

    Figures of evaluations are listed side by side, with differences to the first one and the
    classes that changed most. Evaluations by another metric or protocol, or of other data, are
    listed without differences, and the page starts with what differs. Trainings are compared by
    their curves.
    """
    parser = ArgumentParser(prog="regionspot report", description=report.__doc__)
    parser.add_argument(
        "runs",
        type=str,
        nargs="+",
        help="Output folders of evaluate.py (with metrics.json), folders of training runs (with"
        " csv/), or folders that hold training runs.",
    )
    parser.add_argument("--output", type=str, required=True, help="HTML file to write.")
    parser.add_argument(
        "--title", type=str, default="Comparison of runs", help="Heading of the page."
    )
    options = parser.parse_args(list(words))
    from regionspot.evaluation import write_comparison

    output = Path(options.output)
    folders = [Path(run) for run in options.runs]
    for warning in write_comparison(folders, output, title=options.title):
        print(f"not comparable: {warning}", file=sys.stderr)
    print(f"report: {output}")
