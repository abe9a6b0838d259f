"""Runs an evaluation: scores every method and writes all of its files."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from regionspot.core.files import folder_lock
from regionspot.evaluation.config import EvalConfig
from regionspot.evaluation.data import EvaluationData, open_evaluation_data
from regionspot.evaluation.methods import MethodOutput, MethodRun, check_methods, run_methods
from regionspot.evaluation.pictures import draw_curves
from regionspot.evaluation.report import (
    EarlierStep,
    build_report,
    describe_run,
    read_steps,
    write_report,
)
from regionspot.evaluation.report_parts import ReportPicture
from regionspot.scoring import (
    CocoScorer,
    LvisScorer,
    NamedRegions,
    bootstrap_spread,
    region_figures,
    retrieval_figures,
    scorer_of,
)
from regionspot.scoring.results import (
    EvaluationResult,
    MethodResult,
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
        None if config.annotations is None else local_input(config.annotations),
        None if config.images_dir is None else Path(config.images_dir),
        metric=config.metric,
        image_ids_path=None if config.image_ids is None else Path(config.image_ids),
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
    scorer = scorer_of(data.truth, scorer=config.scorer, protocol=config.protocol)
    run = run_methods(config, data)
    output_dir = Path(config.output_dir)
    start = time.perf_counter()
    methods = tuple(_score(output, scorer, config) for output in run.outputs)
    if config.bootstrap:
        methods = _with_spread(methods, run, data, config)
    _write_predictions(output_dir, config, run)
    scoring = {"evaluate: AP and predictions files": time.perf_counter() - start}
    result = EvaluationResult(
        methods=methods,
        protocol=config.protocol,
        metric=data.metric,
        scorer=config.scorer,
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


def _score(
    output: MethodOutput, scorer: LvisScorer | CocoScorer, config: EvalConfig
) -> MethodResult:
    figures = region_figures(NamedRegions.concatenate(output.named.values()))
    if config.retrieval:
        labels = [named.labels for named in output.named.values()]
        figures |= retrieval_figures(output.scores, labels[: len(output.scores)])
    return MethodResult(
        name=output.name,
        description=output.description,
        scores=scorer.score(output.predictions(config.protocol)),
        region_figures=figures,
    )


def _with_spread(
    methods: tuple[MethodResult, ...], run: MethodRun, data: EvaluationData, config: EvalConfig
) -> tuple[MethodResult, ...]:
    spread = bootstrap_spread(
        data.truth,
        [output.predictions(config.protocol) for output in run.outputs],
        num_draws=config.bootstrap,
        protocol=config.protocol,
    )
    rows = zip(methods, spread.of_methods, spread.of_differences, strict=True)
    return tuple(
        replace(method, intervals=intervals, lead=lead if number else {})
        for number, (method, intervals, lead) in enumerate(rows)
    )


def _write_predictions(output_dir: Path, config: EvalConfig, run: MethodRun) -> None:
    computed = [output for output in run.outputs if output.name not in config.results_files]
    computed = computed[: {"none": 0, "first": 1, "all": None}[config.predictions]]
    for number, output in enumerate(computed):
        name = f"predictions_{output.name}.json" if number else "predictions.json"
        output.predictions(config.protocol).write_lvis_json(output_dir / name)


def _timings(steps: Sequence[EarlierStep], evaluation: Mapping[str, float]) -> Mapping[str, float]:
    return {step.name: step.seconds for step in steps} | dict(evaluation)
