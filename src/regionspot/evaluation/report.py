"""The report of a run: one HTML file that holds everything and opens without a network."""

from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from regionspot.core.atomic import write_text_atomic
from regionspot.core.errors import ConfigError
from regionspot.evaluation.protocols import PROTOCOL_NOTES
from regionspot.evaluation.report_parts import (
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
from regionspot.evaluation.report_style import CSS
from regionspot.evaluation.results import EvaluationResult

REPORT_NAME = "report.html"

_FIGURES_NOTE = (
    "Average precision in percent over IoU thresholds 0.50 to 0.95, averaged over the classes that"
    " have ground truth. r, c, f: rare, common and frequent classes. top-1: share of annotated"
    " boxes whose most likely class is right. The best of each column is coloured."
)


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
    return "\n".join(
        part for part in (warning, table, paragraph(_FIGURES_NOTE, kind="note"), chart) if part
    )


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
