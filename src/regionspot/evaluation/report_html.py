"""The parts of the report as HTML: pure functions from results to text.

The style sheet of the report: one column on a phone, at most 1120 px on a desk, printable.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from regionspot.core.errors import ConfigError
from regionspot.core.text import human_duration
from regionspot.scoring.figures import format_figure, shown_figures
from regionspot.scoring.lvis_ap import CategoryScore
from regionspot.scoring.results import MethodResult

_NUM_EXTREME_CATEGORIES = 8
_SIGNATURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPicture:
    """A picture that is embedded in the report."""

    data: bytes
    """The encoded picture, PNG or JPEG."""
    alt: str
    """What it shows, for readers who cannot see it."""
    caption: str = ""
    """The line below it."""


def section(anchor: str, title: str, *parts: str) -> str:
    """Wrap parts in a section with a heading; no parts, or only empty ones, give nothing."""
    body = "\n".join(part for part in parts if part)
    if not body:
        return ""
    return f'<section id="{anchor}">\n<h2>{escape(title)}</h2>\n{body}\n</section>'


def paragraph(text: str, *, kind: str = "") -> str:
    """Return a paragraph of plain text; ``kind`` is a class of the style sheet."""
    return f"<p{_class(kind, when=bool(kind))}>{escape(text)}</p>"


def bullets(items: Sequence[str]) -> str:
    """Return a list of plain texts; an empty one gives nothing."""
    if not items:
        return ""
    return "<ul>\n" + "\n".join(f"<li>{escape(item)}</li>" for item in items) + "\n</ul>"


def figure(picture: ReportPicture, *, kind: str = "") -> str:
    """Embed a picture with its caption.

    Raises:
        ConfigError: The picture is neither PNG nor JPEG.
    """
    media_type = next(
        (name for start, name in _SIGNATURES.items() if picture.data.startswith(start)), None
    )
    if media_type is None:
        raise ConfigError(f"the picture {picture.alt!r} is neither PNG nor JPEG.")
    encoded = base64.b64encode(picture.data).decode("ascii")
    caption = f"<figcaption>{escape(picture.caption)}</figcaption>" if picture.caption else ""
    return (
        f'<figure{_class(kind, when=bool(kind))}><img loading="lazy" alt="{escape(picture.alt)}"'
        f' src="data:{media_type};base64,{encoded}">{caption}</figure>'
    )


def gallery(pictures: Sequence[ReportPicture], *, kind: str = "grid") -> str:
    """Return pictures side by side ("grid") or one below the other ("wide"); none give nothing."""
    if not pictures:
        return ""
    return f'<div class="{kind}">\n' + "\n".join(map(figure, pictures)) + "\n</div>"


def cards(methods: Sequence[MethodResult]) -> str:
    """Return the figures of the first method, large, and how far it is from the others."""
    first = methods[0]
    texts = [
        (figure.text(first.figures), f"{figure.title} of {first.name}")
        for figure in shown_figures("cards", [first.figures])
    ]
    others = [method for method in methods[1:] if method.scores.AP is not None]
    if others and first.scores.AP is not None:
        best = max(others, key=lambda method: method.scores.AP or 0.0)
        gain = first.scores.AP - (best.scores.AP or 0.0)
        texts.append((f"{gain:+.1f}", f"AP against the best other method, {best.name}"))
    items = [
        f'<div class="card"><b>{escape(number)}</b><span>{escape(text)}</span></div>'
        for number, text in texts
    ]
    return '<div class="cards">' + "".join(items) + "</div>"


def headline_table(methods: Sequence[MethodResult]) -> str:
    """Return the table of all methods, the best of each column marked."""
    shown = shown_figures("report", [method.figures for method in methods])
    columns = [[method.figures[one.name] for method in methods] for one in shown]
    bests = [max((v for v in column if v is not None), default=None) for column in columns]
    rows = []
    for number, method in enumerate(methods):
        cells = "".join(
            f"<td{' class=' + chr(34) + 'best' + chr(34) if _same(column[number], best) else ''}>"
            f"{format_figure(column[number])}</td>"
            for column, best in zip(columns, bests, strict=True)
        )
        rows.append(
            f"<tr{_class('first', when=number == 0)}>"
            f"<td><b>{escape(method.name)}</b>"
            f'<span class="why">{escape(method.description)}</span></td>'
            f"{cells}</tr>"
        )
    return _table(["method", *(one.title for one in shown)], rows)


def category_tables(methods: Sequence[MethodResult]) -> str:
    """Return the best and the worst categories of the first method, beside the second's AP."""
    first = [one for one in methods[0].scores.per_category if one.AP is not None]
    if not first:
        return ""
    other = methods[1] if len(methods) > 1 else None
    ranked = sorted(first, key=lambda one: (-(one.AP or 0.0), one.category_id))
    count = min(_NUM_EXTREME_CATEGORIES, (len(ranked) + 1) // 2)
    best, worst = ranked[:count], ranked[-count:][::-1]
    return (
        '<div class="columns"><div>'
        f"<h3>Best</h3>{_category_table(best, methods[0].name, other)}</div><div>"
        f"<h3>Worst</h3>{_category_table(worst, methods[0].name, other)}</div></div>"
    )


def timings_table(timings_s: Mapping[str, float]) -> str:
    """Return seconds by step with a bar each, and their sum; no steps give nothing."""
    if not timings_s:
        return ""
    longest = max([*timings_s.values(), 1e-9])
    rows = [
        f"<tr><td>{escape(name)}</td><td>{human_duration(seconds)}</td>"
        f'<td class="bars"><span class="bar" style="width:{100 * seconds / longest:.1f}%"></span>'
        "</td></tr>"
        for name, seconds in timings_s.items()
    ]
    total = human_duration(sum(timings_s.values()))
    rows.append(f"<tr><td><b>all</b></td><td><b>{total}</b></td><td></td></tr>")
    return _table(["step", "time", ""], rows)


def commands_block(commands: Sequence[str]) -> str:
    """Return commands as they are typed; none give nothing."""
    lines = "\n".join(commands)
    return f"<pre>{escape(lines)}</pre>" if commands else ""


def key_value_table(rows: Mapping[str, str]) -> str:
    """Return a two-column table of plain texts; no rows give nothing."""
    if not rows:
        return ""
    cells = [
        f'<tr><td>{escape(key)}</td><td class="text mono">{escape(value)}</td></tr>'
        for key, value in rows.items()
    ]
    return _table([], cells)


def _category_table(
    rows: Sequence[CategoryScore], first_name: str, other: MethodResult | None
) -> str:
    others = {one.category_id: one.AP for one in other.scores.per_category} if other else {}
    lines = [
        f"<tr><td>{escape(row.name)}</td><td>{row.frequency}</td><td>{row.num_annotations}</td>"
        f"<td>{format_figure(row.AP)}</td>"
        + (f"<td>{format_figure(others[row.category_id])}</td>" if other else "")
        + "</tr>"
        for row in rows
    ]
    names = ["class", "freq.", "regions", first_name, *([other.name] if other else [])]
    return _table(names, lines)


def _table(head: Sequence[str], rows: Iterable[str]) -> str:
    heading = "".join(f"<th>{escape(name)}</th>" for name in head)
    top = f"<thead><tr>{heading}</tr></thead>" if head else ""
    return f'<div class="scroll"><table>{top}<tbody>{"".join(rows)}</tbody></table></div>'


def _class(name: str, *, when: bool) -> str:
    return f' class="{name}"' if when else ""


def _same(value: float | None, best: float | None) -> bool:
    return value is not None and best is not None and f"{value:.1f}" == f"{best:.1f}"


CSS = """
:root { --ink: #1d232b; --muted: #5f6b7a; --line: #e4e8ed; --soft: #f6f8fa; --accent: #1f5fbf;
  --good: #14804a; --bad: #c62828; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff; line-height: 1.55;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial,
    "DejaVu Sans", sans-serif; -webkit-text-size-adjust: 100%; }
main, header > div, nav > div { max-width: 1120px; margin: 0 auto; padding: 0 20px; }
header { background: linear-gradient(160deg, #14294a, #1f5fbf); color: #fff; padding: 34px 0 30px; }
header h1 { margin: 0 0 4px; font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; }
header p { margin: 0; opacity: .88; max-width: 62em; }
.cards { display: grid; gap: 12px; margin-top: 22px;
  grid-template-columns: repeat(auto-fit, minmax(128px, 1fr)); }
.card { background: rgba(255, 255, 255, .11); border: 1px solid rgba(255, 255, 255, .2);
  border-radius: 10px; padding: 10px 14px; }
.card b { display: block; font-size: 1.85rem; line-height: 1.2; font-weight: 650;
  font-variant-numeric: tabular-nums; }
.card span { font-size: .84rem; opacity: .88; }
nav { border-bottom: 1px solid var(--line); background: #fff; }
nav > div { display: flex; gap: 4px 20px; flex-wrap: wrap; padding-top: 10px;
  padding-bottom: 10px; }
nav a { color: var(--muted); text-decoration: none; font-size: .92rem; }
nav a:hover { color: var(--accent); }
section { margin: 38px 0; }
h2 { font-size: 1.3rem; margin: 0 0 6px; line-height: 1.3; }
h3 { font-size: 1.03rem; margin: 26px 0 6px; }
p { margin: 6px 0 12px; max-width: 75em; }
.muted, .note, figcaption { color: var(--muted); font-size: .92rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: 10px 0 6px; font-size: .95rem; }
th, td { padding: 8px 10px; text-align: right; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; vertical-align: top; }
th { font-weight: 600; color: var(--muted); font-size: .87rem; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
td.text, th.text { text-align: left; }
tr.first td { background: #eef4fd; }
td.best { font-weight: 700; color: var(--accent); }
td .why { display: block; color: var(--muted); font-size: .85rem; font-weight: 400;
  min-width: 15em; }
ul { padding-left: 1.2em; margin: 8px 0; }
li { margin: 5px 0; max-width: 75em; }
figure { margin: 0; }
figure img { width: 100%; height: auto; display: block; border-radius: 8px; }
figure.chart img, .columns img, .wide img { border-radius: 0; }
figure.chart img { min-width: 620px; }
.grid { columns: 430px; column-gap: 24px; margin-top: 12px; }
.grid figure { break-inside: avoid; padding-bottom: 22px; }
.wide { display: grid; gap: 30px; margin-top: 12px; }
.wide img { width: auto; max-width: 100%; }
figcaption { margin-top: 6px; overflow-wrap: anywhere; }
.columns { display: grid; gap: 10px 36px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.bar { display: block; height: 10px; border-radius: 5px; background: var(--accent);
  min-width: 2px; }
td.bars { width: 45%; vertical-align: middle; }
pre { background: var(--soft); border: 1px solid var(--line); border-radius: 8px;
  padding: 14px 16px; overflow-x: auto; font-size: .86rem; line-height: 1.6; white-space: pre-wrap;
  overflow-wrap: anywhere; }
code, pre, .mono { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono",
  monospace; }
.mono { font-size: .84rem; overflow-wrap: anywhere; }
.key { display: inline-block; padding: 0 7px; border-radius: 4px; color: #fff; font-size: .85rem; }
.key.good { background: var(--good); } .key.bad { background: var(--bad); }
.warning { border-left: 4px solid #e08a00; background: #fff7e8; padding: 10px 14px;
  border-radius: 0 8px 8px 0; margin: 14px 0; }
footer { border-top: 1px solid var(--line); color: var(--muted); font-size: .88rem;
  margin-top: 50px; padding: 18px 0 40px; }
@media (max-width: 600px) { th, td { padding: 7px 6px; font-size: .86rem; }
  section { margin: 30px 0; }
  main, header > div, nav > div { padding: 0 14px; } .card b { font-size: 1.5rem; } }
@media print { nav { display: none; } section { break-inside: avoid; } }
""".strip()
