"""Puts the report of an evaluation together."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from regionspot.backbones import resolve_device
from regionspot.cli.evaluate_config import EvalConfig
from regionspot.cli.evaluate_data import EvaluationData, missing_reasons
from regionspot.cli.evaluate_methods import MethodRun
from regionspot.cli.evaluate_pictures import draw_region_pictures
from regionspot.core.errors import ConfigError, MissingFileError
from regionspot.core.json_text import load_json
from regionspot.evaluation.report import ReportContent
from regionspot.evaluation.report_parts import ReportPicture
from regionspot.evaluation.results import EvaluationResult
from regionspot.viz import draw_ap_bars

_PACKAGES = ("regionspot", "torch", "numpy", "hotcoco", "open_clip_torch", "segment_anything")
_SHORT = 16
_BOXES_NOTE = (
    "Boxes are the annotated ones and carry no score, so AP measures naming alone, not detection."
)
_PROPOSALS_NOTE = (
    "Boxes are proposals ({proposals}), so AP measures finding and naming together. The score of a"
    " box is multiplied into its class probabilities before the pairs are ranked. Figures are not"
    " comparable with those for annotated boxes."
)
_PIXELS_NOTE = (
    "The crops are the paper's baselines. The controls show what the frozen models give without"
    " training: a head that does not beat them has learned little. Methods from pixels run SAM or"
    " CLIP once a region or image; the head reads what was cached."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierStep:
    """A step of the run before the evaluation."""

    name: str
    """What the step is called in the table of times."""
    command: str
    """What was typed."""
    seconds: float
    """How long it took."""


def read_steps(path: Path) -> list[EarlierStep]:
    """Read the earlier steps of a run (quickstart's ``steps.json``), without evaluations.

    Raises:
        MissingFileError: There is no such file.
        ConfigError: It is not a list of steps.
    """
    if not path.is_file():
        raise MissingFileError(f"no file of steps at {path}; leave --steps out, or correct it.")
    try:
        rows = cast("list[dict[str, Any]]", load_json(path.read_bytes()))
        steps = [
            EarlierStep(
                name=str(row["name"]), command=str(row["command"]), seconds=float(row["seconds"])
            )
            for row in rows
        ]
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ConfigError(
            f"{path} is not a file of steps ({type(error).__name__}: {error}); wanted a JSON list"
            ' of {"name": "train", "command": "...", "seconds": 1.0}.'
        ) from error
    return [step for step in steps if "evaluate" not in step.command.split()[:2]]


def build_report(
    config: EvalConfig,
    data: EvaluationData,
    run: MethodRun,
    result: EvaluationResult,
    *,
    curves: tuple[ReportPicture, ...],
    commands: tuple[str, ...],
) -> ReportContent:
    """Draw the pictures and collect what the report says.

    Args:
        config: What was asked for.
        data: What was scored.
        run: What the methods said.
        result: How they did.
        curves: The course of training.
        commands: What to type to get the same figures.
    """
    first = run.outputs[0]
    pictures = draw_region_pictures(
        data, first, run.heads.get(first.name), num_pictures=config.num_pictures
    )
    bars = draw_ap_bars({method.name: method.scores.figures() for method in result.methods})
    return ReportContent(
        title=config.title,
        result=result,
        notes=(*_notes(config, data, run), *config.notes),
        ap_bars=ReportPicture(data=bars, alt="Bar chart of AP, APr, APc and APf of every method"),
        training_curves=curves,
        sampled=pictures.sampled,
        sampled_note=pictures.sampled_note,
        mistakes=pictures.mistakes,
        attention=pictures.attention,
        commands=commands,
    )


def describe_run(config: EvalConfig, data: EvaluationData, run: MethodRun) -> Mapping[str, str]:
    """Say what was run, precisely enough to run it again."""
    found = data.cache.manifest.fingerprint
    told = {
        "localizer": f"{found.sam_model} at {found.sam_image_size} px, weights sha256"
        f" {found.sam_weights_sha256[:_SHORT]}, tokens from the {found.token_site}",
        "encoder": f"{found.clip_model} at {found.clip_image_size} px ({found.clip_activation}),"
        f" weights sha256 {found.clip_weights_sha256[:_SHORT]}",
        "text bank": f"templates {config.templates}, {len(data.cache.manifest.vocabulary):,} names",
        "feature cache": f"{data.cache.location} ({data.cache.manifest.codec})",
        "annotations": f"{data.annotations_path}, sha256 {data.truth.sha256[:_SHORT]}",
    }
    for name, head in run.heads.items():
        shape = head.card.head
        told[f"head {name}"] = (
            f"{config.heads[name]}: {shape.num_blocks} blocks, {shape.feature_dim} wide, scale"
            f" {head.card.scale:g}, bias {head.card.bias:g}"
        )
    device = resolve_device(config.device)
    told["machine"] = f"{platform.machine()} {platform.system()}, device {device}"
    told["versions"] = ", ".join([f"python {platform.python_version()}", *_versions()])
    told["evaluated"] = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return told


def _notes(config: EvalConfig, data: EvaluationData, run: MethodRun) -> list[str]:
    summary = data.summary
    proposals = summary.proposals
    notes = [_PROPOSALS_NOTE.format(proposals=proposals) if proposals else _BOXES_NOTE]
    if len(run.heads) < len(run.outputs):
        notes.append(_PIXELS_NOTE)
    lost = summary.num_regions - summary.num_cached_regions
    if lost and not proposals:
        notes.append(
            f"{lost:,} annotated regions are not in the cache (unusable boxes, dropped crowds, or"
            " images left out) and are missed by every method."
        )
    reasons = missing_reasons(data.cache)
    if reasons:
        told = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(5))
        notes.append(f"Why images are missing: {told}.")
    notes += [f"{note[0].upper()}{note[1:]}." for note in data.truth.notes]
    unknown = len(data.truth.categories) - summary.num_classes
    if unknown:
        notes.append(f"{unknown:,} annotated classes are not in the vocabulary: never predicted.")
    if config.images_dir is None and config.num_pictures:
        notes.append("No pictures: the folder of the images was not given (--images_dir).")
    return notes


def _versions() -> list[str]:
    told = []
    for package in _PACKAGES:
        try:
            told.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return told
