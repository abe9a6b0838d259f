"""The report of a run: one HTML file that holds everything and opens without a network.

Puts the report of an evaluation together.
"""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from regionspot.backbones import resolve_device
from regionspot.core.errors import ConfigError, MissingFileError
from regionspot.core.files import write_text_atomic
from regionspot.core.json_text import load_json
from regionspot.evaluation.config import EvalConfig
from regionspot.evaluation.data import EvaluationData, missing_reasons
from regionspot.evaluation.methods import MethodRun
from regionspot.evaluation.pictures import draw_region_pictures
from regionspot.evaluation.report_html import (
    CSS,
    ReportPicture,
    bullets,
    cards,
    category_tables,
    commands_block,
    figure,
    gallery,
    headline_table,
    key_value_table,
    paragraph,
    section,
    timings_table,
)
from regionspot.scoring.figures import shown_figures
from regionspot.scoring.protocols import PROTOCOL_NOTES
from regionspot.scoring.results import EvaluationResult
from regionspot.viz import draw_ap_bars

REPORT_NAME = "report.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportContent:
    """Everything that the report shows. What is empty leaves its section out."""

    title: str
    """Heading of the page."""
    result: EvaluationResult
    """The figures; there is at least one method, and the first is the one in the spotlight."""
    notes: tuple[str, ...] = ()
    """What a reader has to know to compare the figures fairly."""
    ap_bars: ReportPicture | None = None
    """Bar chart of AP by method."""
    training_curves: tuple[ReportPicture, ...] = ()
    """Loss and AP over the course of training."""
    sampled: tuple[ReportPicture, ...] = ()
    """Images chosen without looking at how they turned out."""
    sampled_note: str = ""
    """How they were chosen."""
    mistakes: tuple[ReportPicture, ...] = ()
    """Images with the most confident mistakes."""
    attention: tuple[ReportPicture, ...] = ()
    """Where regions looked."""
    commands: tuple[str, ...] = field(default=())
    """What to type to get the same figures."""


def write_report(output_dir: Path, content: ReportContent) -> Path:
    """Write ``report.html``.

    Args:
        output_dir: Folder of the run; created if need be.
        content: What to show.

    Returns:
        The path of the report.

    Raises:
        ConfigError: There is no method, or a picture is neither PNG nor JPEG.
    """
    path = output_dir / REPORT_NAME
    write_text_atomic(path, render_report(content))
    return path


def render_report(content: ReportContent) -> str:
    """Return the report as HTML; see `write_report`."""
    if not content.result.methods:
        raise ConfigError("no method to report on: evaluate at least one.")
    sections = [
        ("results", "Results", _results(content)),
        ("reading", "How to read the figures", _reading(content)),
        ("classes", "By class", _classes(content)),
        ("training", "Training", _training(content)),
        ("images", "Validation images", _images(content)),
        ("attention", "Where regions looked", _attention(content)),
        ("timings", "Time", timings_table(content.result.timings_s)),
        ("reproduce", "Reproduce", commands_block(content.commands)),
        ("run", "What was run", key_value_table(content.result.provenance)),
    ]
    shown = [(anchor, title, body) for anchor, title, body in sections if body]
    links = "".join(f'<a href="#{anchor}">{escape(title)}</a>' for anchor, title, _ in shown)
    body = "\n".join(section(*one) for one in shown)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(content.title)}</title>\n<style>\n{CSS}\n</style>\n</head>\n<body>\n"
        f"<header><div><h1>{escape(content.title)}</h1><p>{escape(_summary(content))}</p>"
        f"{cards(content.result.methods)}</div></header>\n"
        f"<nav><div>{links}</div></nav>\n<main>\n{body}\n"
        "<footer>Written by regionspot. Figures in full: metrics.json, per_category.csv;"
        " predictions in LVIS results format: predictions.json.</footer>\n"
        "</main>\n</body>\n</html>\n"
    )


def _summary(content: ReportContent) -> str:
    data = content.result.data
    return (
        f"{data.name}: {data.num_images:,} images with {data.num_regions:,} annotated regions,"
        f" named from a vocabulary of {data.num_classes:,} classes, scored by the LVIS protocol."
    )


def _results(content: ReportContent) -> str:
    data = content.result.data
    warning = ""
    if data.is_subset:
        warning = paragraph(
            f"A subset: the cache was planned for only {data.num_images:,} of the annotated images,"
            " and only these are scored. Do not compare with figures for the whole set.",
            kind="warning",
        )
    chart = figure(content.ap_bars, kind="scroll chart") if content.ap_bars else ""
    table = headline_table(content.result.methods)
    shown = shown_figures("report", [method.figures for method in content.result.methods])
    notes = [figure.note for figure in shown if figure.note]
    note = " ".join([*notes, "The best of each column is coloured."])
    return "\n".join(part for part in (warning, table, paragraph(note, kind="note"), chart) if part)


def _reading(content: ReportContent) -> str:
    data = content.result.data
    missing = (
        f"Images that could not be read when the cache was made: {data.num_missing_images:,}"
        " (quarantine.jsonl). They count: every region in them is missed, by every method."
        if data.num_missing_images
        else "Every image that counts is in the cache; none is missing."
    )
    federated = (
        "LVIS labels are federated: a prediction counts against a method only where its class was"
        " looked for in that image. So AP is far kinder than top-1 accuracy."
    )
    same = (
        "Every method sees the same images, the same boxes and the same text bank (templates:"
        f" {content.result.templates})."
    )
    protocol = PROTOCOL_NOTES[content.result.protocol]
    return bullets([protocol, federated, same, missing, *content.notes])


def _classes(content: ReportContent) -> str:
    tables = category_tables(content.result.methods)
    return (
        tables
        and paragraph(
            "AP of single classes, best and worst of the first method; all are in per_category.csv."
            " A class with few regions moves in large steps.",
            kind="note",
        )
        + tables
    )


def _training(content: ReportContent) -> str:
    return gallery(content.training_curves, kind="columns")


def _images(content: ReportContent) -> str:
    parts = []
    if content.sampled:
        parts += [paragraph(content.sampled_note), _LEGEND, gallery(content.sampled)]
    if content.mistakes:
        parts += [
            "<h3>Most confident mistakes</h3>",
            paragraph("The wrong names that the first method was surest of, one an image."),
            gallery(content.mistakes),
        ]
    return "\n".join(parts)


_LEGEND = (
    '<p><span class="key good">&#10003; name</span> right &nbsp; <span class="key bad">&#10007;'
    " name = true name</span> wrong; the percentage is the probability over the vocabulary.</p>"
)


def _attention(content: ReportContent) -> str:
    if not content.attention:
        return ""
    note = (
        "Cross-attention of the fusion head's last block, averaged over its heads. Patches from"
        " which the boxed region took more than the mean are coloured, the brighter the more. The"
        " first token stands for the whole image; its share of the attention is written above."
    )
    return paragraph(note) + gallery(content.attention, kind="wide")


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
    bars = draw_ap_bars({method.name: method.figures for method in result.methods})
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
