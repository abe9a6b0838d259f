"""Score trained heads and baselines on a cached data set, and write the report."""

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from regionspot.cli.options import parse_options
from regionspot.cli.run import run_cli, show_progress
from regionspot.core.files import folder_lock
from regionspot.evaluation.config import EvalConfig
from regionspot.evaluation.data import EvaluationData, open_evaluation_data
from regionspot.evaluation.methods import MethodOutput, MethodRun, check_methods, run_methods
from regionspot.evaluation.pictures import draw_curves
from regionspot.evaluation.report import (
    REPORT_NAME,
    EarlierStep,
    build_report,
    describe_run,
    read_steps,
    write_report,
)
from regionspot.evaluation.report_parts import ReportPicture
from regionspot.scoring import LvisScorer
from regionspot.scoring.protocols import PROTOCOL_NOTES
from regionspot.scoring.results import (
    EvaluationResult,
    MethodResult,
    format_table,
    write_metrics,
    write_per_category,
)
from regionspot.storage import local_input

_SECOND_EVALUATION = "Wait for it to end, or give another --output_dir."


def run_evaluation(config: EvalConfig, *, command: str = "") -> EvaluationResult:
    """Score every method, and write all files of an evaluation.

    Args:
        config: What to evaluate, and how.
        command: What was typed, for the report's section on how to reproduce.

    Returns:
        The figures, as written to ``metrics.json``.

    Raises:
        RegionSpotError: A file is missing, things do not belong together, or another process writes
            to the same folder.
    """
    # What can be wrong is read before anything is computed.
    steps = read_steps(Path(config.steps)) if config.steps else []
    curves = draw_curves(config.training_dirs)
    check_methods(config.methods)
    data = open_evaluation_data(
        config.cache,
        local_input(config.annotations),
        None if config.images_dir is None else Path(config.images_dir),
    )
    with folder_lock(Path(config.output_dir), advice=_SECOND_EVALUATION):
        return _evaluate_alone(config, data, steps=steps, curves=curves, command=command)


def _evaluate_alone(
    config: EvalConfig,
    data: EvaluationData,
    *,
    steps: Sequence[EarlierStep],
    curves: tuple[ReportPicture, ...],
    command: str,
) -> EvaluationResult:
    scorer = LvisScorer(data.truth)
    run = run_methods(config, data)
    output_dir = Path(config.output_dir)
    start = time.perf_counter()
    methods = tuple(_score(output, scorer) for output in run.outputs)
    _write_predictions(output_dir, run)
    scoring = {"evaluate: LVIS AP and predictions files": time.perf_counter() - start}
    result = EvaluationResult(
        methods=methods,
        protocol=config.protocol,
        templates=config.templates,
        data=data.summary,
        timings_s=_timings(steps, {**run.timings_s, **scoring}),
        provenance=describe_run(config, data, run),
    )
    write_metrics(output_dir / "metrics.json", result)
    write_per_category(output_dir / "per_category.csv", methods)
    commands = (*(step.command for step in steps), *([command] if command else []))
    report = build_report(config, data, run, result, curves=curves, commands=commands)
    write_report(output_dir, report)
    return result


def evaluate(words: Sequence[str]) -> None:
    """Score trained heads and baselines on a cached data set, and write the report.

    ``python evaluate.py --config configs/eval/lvis_gt.yaml``, or the same as ``regionspot
    evaluate``. Writes ``metrics.json``, ``per_category.csv``, ``predictions.json`` (LVIS results
    format, of the first method; those of the others are ``predictions_<method>.json``) and
    ``report.html``.
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
    print(f"\n{PROTOCOL_NOTES[result.protocol]}\n\n{format_table(result.methods)}\n")
    print(f"report: {Path(config.output_dir) / REPORT_NAME}")


def _score(output: MethodOutput, scorer: LvisScorer) -> MethodResult:
    return MethodResult(
        name=output.name,
        description=output.description,
        scores=scorer.score(output.predictions()),
        region_figures=output.means.figures(),
    )


def _write_predictions(output_dir: Path, run: MethodRun) -> None:
    for number, output in enumerate(run.outputs):
        name = f"predictions_{output.name}.json" if number else "predictions.json"
        output.predictions().write_lvis_json(output_dir / name)


def _timings(steps: Sequence[EarlierStep], evaluation: Mapping[str, float]) -> Mapping[str, float]:
    return {step.name: step.seconds for step in steps} | dict(evaluation)
