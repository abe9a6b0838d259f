"""The report of an evaluation: one HTML file with all its pictures, readable without a network.

`build_report` collects the content, ``report.html.jinja`` says how the page looks.
"""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from regionspot.backbones import resolve_device
from regionspot.core.errors import ConfigError, MissingFileError
from regionspot.core.files import write_bytes_atomic, write_text_atomic
from regionspot.core.json_text import load_json
from regionspot.core.text import human_duration
from regionspot.evaluation.config import EvalConfig
from regionspot.evaluation.data import EvaluationData, missing_reasons
from regionspot.evaluation.methods import MethodRun
from regionspot.evaluation.pages import render_page
from regionspot.evaluation.pictures import draw_region_pictures
from regionspot.evaluation.report_parts import (
    ImageAttention,
    RegionPicture,
    ReportPicture,
    cards,
    category_tables,
    method_table,
    timing_rows,
)
from regionspot.scoring import (
    IOU_TYPE_NOTES,
    METRIC_NOTES,
    PROTOCOL_NOTES,
    SCORE_RULE_NOTES,
    Confusion,
    CrowdAccuracy,
    NamedRegions,
    WordAccuracy,
    accuracy_by_crowd,
    confusions,
    reliability,
    word_accuracies,
)
from regionspot.scoring.results import EvaluationResult, group_rows
from regionspot.viz import draw_ap_bars, draw_precision_recall, draw_reliability

REPORT_NAME = "report.html"
NAMED_REGIONS_NAME = "named_regions.jpg"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportContent:
    """Everything that the report shows. A section without content is left out."""

    title: str
    """Heading of the page."""
    result: EvaluationResult
    """The figures of at least one method; the report is mainly about the first."""
    notes: tuple[str, ...] = ()
    """What readers need to know to compare the figures fairly."""
    ap_bars: ReportPicture | None = None
    """Bar chart of AP by method."""
    training_curves: tuple[ReportPicture, ...] = ()
    """Loss and AP over the course of training."""
    sampled: tuple[RegionPicture, ...] = ()
    """Images chosen without looking at the results."""
    sampled_note: str = ""
    """How they were chosen."""
    mistakes: tuple[RegionPicture, ...] = ()
    """Images with the most confident mistakes."""
    attention: tuple[ImageAttention, ...] = ()
    """Attention maps of regions."""
    commands: tuple[str, ...] = ()
    """The commands that give the same figures."""
    quality: tuple[ReportPicture, ...] = ()
    """Precision by recall, and reliability of probabilities."""
    confusions: tuple[Confusion, ...] = ()
    """The classes that the first method confuses most often."""
    words: tuple[WordAccuracy, ...] = ()
    """Which word of a name it gets wrong."""
    crowds: tuple[CrowdAccuracy, ...] = ()
    """Its accuracy by number of regions in the image."""
    named_regions: bytes | None = None
    """A JPEG of the first sampled images, written beside the report."""


def write_report(output_dir: Path, content: ReportContent) -> Path:
    """Write ``report.html``, and ``named_regions.jpg`` if images were drawn.

    Args:
        output_dir: Folder of the run; created if necessary.
        content: What to show.

    Returns:
        The path of the report.

    Raises:
        ConfigError: There is no method, or a picture is neither PNG nor JPEG.
    """
    path = output_dir / REPORT_NAME
    write_text_atomic(path, render_report(content))
    if content.named_regions is not None:
        write_bytes_atomic(output_dir / NAMED_REGIONS_NAME, content.named_regions)
    return path


def render_report(content: ReportContent) -> str:
    """Return the report as HTML; see `write_report`."""
    methods = content.result.methods
    if not methods:
        raise ConfigError("no method to report on: evaluate at least one.")
    timings_s = content.result.timings_s
    return render_page(
        "report.html.jinja",
        content=content,
        cards=cards(methods, content.result.iou_type),
        methods=method_table(methods, content.result.iou_type),
        groups=group_rows(methods, content.result.class_groups),
        categories=category_tables(methods),
        timings=timing_rows(timings_s),
        total_time=human_duration(sum(timings_s.values())),
        protocol_note=PROTOCOL_NOTES[content.result.protocol],
        score_rule_note=SCORE_RULE_NOTES[content.result.score_rule],
        metric_note=METRIC_NOTES[content.result.metric],
        iou_type_note=IOU_TYPE_NOTES[content.result.iou_type],
    )


_PACKAGES = ("regionspot", "torch", "numpy", "hotcoco", "open_clip_torch", "segment_anything")
_SHORT = 16
_BOXES_NOTE = (
    "Boxes are the annotated ones and have no score, so AP measures naming alone, not detection."
)
_MASKS_NOTE = (
    "Boxes are the annotated ones and have no score. Masks are those that SAM predicts for them, so"
    " mask AP measures naming and SAM's masks together."
)
_PROPOSALS_NOTE = (
    "Boxes are proposals ({proposals}), so AP measures finding and naming together. Figures are not"
    " comparable with those for annotated boxes."
)
_PIXELS_NOTE = (
    "The crops are the paper's baselines. The controls show what the frozen models give without"
    " training: a head that does not beat them has learned little. Methods on pixels run SAM or"
    " CLIP for each region or image; the head reads cached features."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierStep:
    """A step of the run before the evaluation."""

    name: str
    """Name of the step in the table of times."""
    command: str
    """The command, as typed."""
    seconds: float
    """Its duration."""


def read_steps(path: Path) -> list[EarlierStep]:
    """Read the earlier steps of a run from quickstart's ``steps.json``, except evaluations.

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
    """Draw the pictures and collect the content of the report.

    Args:
        config: The options of the evaluation.
        data: The images and their annotations.
        run: The predictions of the methods.
        result: The figures of the methods.
        curves: Loss and AP during training.
        commands: The commands that give the same figures.
    """
    first = run.outputs[0]
    pictures = draw_region_pictures(data, run.outputs, run.heads, num_pictures=config.num_pictures)
    vocabulary = data.cache.manifest.vocabulary.names
    named = NamedRegions.concatenate(first.named.values())
    names = ("AP", *(f"AP{group}" for group in ("rcf" if result.metric == "lvis" else "sml")))
    bars = draw_ap_bars({method.name: method.figures for method in result.methods}, names)
    return ReportContent(
        title=config.title,
        result=result,
        notes=(*_notes(config, data), *config.notes),
        ap_bars=ReportPicture(data=bars, alt=f"Bar chart of {', '.join(names)} of every method"),
        training_curves=curves,
        sampled=pictures.sampled,
        sampled_note=pictures.sampled_note,
        mistakes=pictures.mistakes,
        attention=pictures.attention,
        commands=commands,
        quality=_quality_charts(run, result),
        confusions=confusions(named, vocabulary),
        words=word_accuracies(named, vocabulary),
        crowds=accuracy_by_crowd(list(first.named.values())),
        named_regions=pictures.named_regions,
    )


def _quality_charts(run: MethodRun, result: EvaluationResult) -> tuple[ReportPicture, ...]:
    """Draw precision by recall of all methods, and reliability of those that name regions."""
    curves = {one.name: one.scores.precision50 for one in result.methods if one.scores.precision50}
    bins = {
        output.name: [
            (one.confidence, one.accuracy, one.count)
            for one in reliability(NamedRegions.concatenate(output.named.values()))
        ]
        for output in run.outputs
    }
    found = []
    if curves:
        alt = "Precision by recall at IoU 0.50 of every method"
        found.append(ReportPicture(data=draw_precision_recall(curves), alt=alt))
    if any(bins.values()):
        alt = "How often a name is right, by its probability, for every method"
        drawn = draw_reliability({name: points for name, points in bins.items() if points})
        found.append(ReportPicture(data=drawn, alt=alt))
    return tuple(found)


def describe_run(config: EvalConfig, data: EvaluationData, run: MethodRun) -> Mapping[str, str]:
    """Describe what was run, precisely enough to run it again."""
    found = data.cache.manifest.fingerprint
    told = {
        "localizer": f"{found.sam_model} at {found.sam_image_size} px, weights sha256"
        f" {found.sam_weights_sha256[:_SHORT]}, tokens from the {found.token_site}",
        "encoder": f"{found.clip_model} at {found.clip_image_size} px ({found.clip_activation}),"
        f" weights sha256 {found.clip_weights_sha256[:_SHORT]}",
        "text bank": f"templates {config.templates}, {len(data.cache.manifest.vocabulary):,} names",
        "feature cache": f"{data.cache.location} ({data.cache.manifest.codec})",
        "annotations": f"{data.annotations_path or 'the regions in the cache'}, sha256"
        f" {data.summary.annotation_sha256[:_SHORT]}",
        "scorer": f"{config.scorer}, {data.metric} metric, {config.iou_type}",
    }
    for name, head in run.heads.items():
        shape = head.card.head
        told[f"head {name}"] = (
            f"{config.heads[name]}: {shape.num_blocks} blocks, {shape.feature_dim} wide, guidance"
            f" {shape.guidance}, scale {head.card.scale:g}, bias {head.card.bias:g}"
        )
    device = resolve_device(config.device)
    told["machine"] = f"{platform.machine()} {platform.system()}, device {device}"
    told["versions"] = ", ".join([f"python {platform.python_version()}", *_versions()])
    told["evaluated"] = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return told


def _notes(config: EvalConfig, data: EvaluationData) -> list[str]:
    summary = data.summary
    proposals = summary.proposals
    annotated_note = _BOXES_NOTE if config.iou_type == "bbox" else _MASKS_NOTE
    notes = [_PROPOSALS_NOTE.format(proposals=proposals) if proposals else annotated_note]
    if config.methods:
        notes.append(_PIXELS_NOTE)
    if config.results:
        notes.append(
            f"{', '.join(config.results_files)}: from files of results, with boxes of their own. AP"
            " then measures finding and naming together, and is not comparable with the figures of"
            " methods that are given boxes."
        )
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
    unknown = data.num_unknown_classes
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
