"""Runs an evaluation: scores every method and writes all of its files."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from regionspot.core.files import folder_lock
from regionspot.evaluation.class_groups import read_class_groups, unseen_classes
from regionspot.evaluation.config import EvalConfig
from regionspot.evaluation.data import EvaluationData, open_evaluation_data
from regionspot.evaluation.methods import MethodOutput, check_methods, run_methods
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
    ClassGroup,
    NamedRegions,
    Predictions,
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
        iou_type=config.iou_type,
    )
    vocabulary = data.cache.manifest.vocabulary
    path = config.class_groups
    groups = () if path is None else read_class_groups(Path(path), vocabulary)
    with folder_lock(Path(config.output_dir), advice=_SECOND_EVALUATION):
        return _evaluate_alone(
            config, data, groups=groups, steps=steps, curves=curves, command=command
        )


def _evaluate_alone(
    config: EvalConfig,
    data: EvaluationData,
    *,
    groups: tuple[ClassGroup, ...],
    steps: Sequence[EarlierStep],
    curves: tuple[ReportPicture, ...],
    command: str,
) -> EvaluationResult:
    scorer = scorer_of(
        data.truth, iou_type=config.iou_type, scorer=config.scorer, protocol=config.protocol
    )
    run = run_methods(config, data)
    cards = [head.card for head in run.heads.values()]
    unseen = unseen_classes(cards, data.cache.manifest.vocabulary)
    shown_groups = groups if unseen is None else (unseen, *groups)
    output_dir = Path(config.output_dir)
    start = time.perf_counter()
    predictions = {out.name: out.predictions(config.protocol) for out in run.outputs}
    methods = tuple(
        MethodResult(
            name=output.name,
            description=output.description,
            scores=scorer.score(predictions[output.name]),
            region_figures=_region_figures(output, config),
        )
        for output in run.outputs
    )
    if config.bootstrap:
        methods = _with_spread(methods, run.outputs, predictions, shown_groups, data, config)
    _write_predictions(output_dir, predictions, config)
    scoring = {"evaluate: AP and predictions files": time.perf_counter() - start}
    result = EvaluationResult(
        methods=methods,
        protocol=config.protocol,
        score_rule=config.score_rule,
        metric=data.metric,
        iou_type=config.iou_type,
        scorer=config.scorer,
        templates=config.templates,
        data=data.summary,
        class_groups=shown_groups,
        timings_s=_timings(steps, {**run.timings_s, **scoring}),
        provenance=describe_run(config, data, run),
    )
    write_metrics(output_dir / "metrics.json", result)
    write_per_category(output_dir / "per_category.csv", methods)
    commands = (*(step.command for step in steps), *([command] if command else []))
    report = build_report(config, data, run, result, curves=curves, commands=commands)
    write_report(output_dir, report)
    return result


def _region_figures(output: MethodOutput, config: EvalConfig) -> Mapping[str, float | None]:
    found = region_figures(NamedRegions.concatenate(output.named.values()))
    if config.retrieval:
        found |= retrieval_figures(output.scores, [one.labels for one in output.named.values()])
    return found


def _with_spread(
    methods: tuple[MethodResult, ...],
    outputs: Sequence[MethodOutput],
    predictions: Mapping[str, Predictions],
    groups: Sequence[ClassGroup],
    data: EvaluationData,
    config: EvalConfig,
) -> tuple[MethodResult, ...]:
    spread = bootstrap_spread(
        data.truth,
        list(predictions.values()),
        named=[output.named for output in outputs],
        class_groups=groups,
        num_draws=config.bootstrap,
        protocol=config.protocol,
        iou_type=config.iou_type,
    )
    rows = zip(methods, spread.of_methods, spread.of_differences, strict=True)
    return tuple(
        replace(method, intervals=intervals, lead=lead if number else {})
        for number, (method, intervals, lead) in enumerate(rows)
    )


def _write_predictions(
    output_dir: Path, predictions: Mapping[str, Predictions], config: EvalConfig
) -> None:
    computed = [name for name in predictions if name not in config.results_files]
    limit = {"none": 0, "first": 1, "all": None}[config.predictions]
    for number, name in enumerate(computed[:limit]):
        file_name = f"predictions_{name}.json" if number else "predictions.json"
        predictions[name].write_lvis_json(output_dir / file_name)


def _timings(steps: Sequence[EarlierStep], evaluation: Mapping[str, float]) -> Mapping[str, float]:
    return {step.name: step.seconds for step in steps} | dict(evaluation)
