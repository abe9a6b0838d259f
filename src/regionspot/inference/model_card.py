"""The model card of a head: the README.md that says what it is, on the Hugging Face Hub."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from regionspot.core.errors import ConfigError, MissingFileError
from regionspot.core.files import is_file
from regionspot.model import HeadCard

METRICS_NAME: Final = "metrics.json"
"""The file of figures that evaluate.py writes."""

_TAGS = ["region-recognition", "open-vocabulary", "segment-anything", "clip"]
_FIGURES = ("AP", "APr", "APc", "APf", "AP50", "top1_accuracy", "top5_accuracy")
_NUM_NAMES_SHOWN = 10
_ABOUT = (
    "Names regions of images, given by boxes, points or masks, from an open vocabulary. The SAM and"
    " CLIP below are frozen; this is the small fusion head trained on their outputs."
)
_USE = """```python
from regionspot import RegionSpot
model = RegionSpot.from_pretrained("{location}")
print(model.recognize("image.jpg", [[10, 20, 200, 300]], vocabulary=["cat", "dog"]))
```"""
_HEADER = "---\n{yaml}---\n\n"


def write_model_card(
    card: HeadCard,
    *,
    location: str,
    checksums: Mapping[str, str],
    metrics: Mapping[str, Any] | None,
    weights_license: str | None,
) -> str:
    """Return the Markdown of a model card.

    Args:
        card: The head's card.
        location: What to type for `RegionSpot.from_pretrained`.
        checksums: SHA-256 by name of file.
        metrics: The content of metrics.json; None if the head was not evaluated.
        weights_license: Identifier of the licence of the head's weights, such as "apache-2.0".
    """
    header: dict[str, Any] = {"library_name": "regionspot", "tags": _TAGS}
    if weights_license:
        header["license"] = weights_license
    datasets = card.training.get("caches")
    names = [str(name) for name in datasets] if isinstance(datasets, list) else []
    sections = [
        _title(card),
        _ABOUT,
        _USE.format(location=location),
        _training(card, names),
        _figures(metrics),
        _frozen_models(card),
        "## Configuration\n\n" + _table(("option", "value"), dataclasses.asdict(card.head).items()),
        "## Files\n\n" + _table(("file", "SHA-256"), checksums.items()),
    ]
    text = yaml.safe_dump(header, sort_keys=False)
    return _HEADER.format(yaml=text) + "\n\n".join(sections) + "\n"


def read_metrics(path: Path | str) -> dict[str, Any]:
    """Read the figures of an evaluation.

    Args:
        path: The metrics.json of evaluate.py, or the folder that holds it.

    Raises:
        MissingFileError: There is no such file.
        ConfigError: It holds no figures of methods.
    """
    path = Path(path)
    path = path / METRICS_NAME if path.is_dir() else path
    if not is_file(path):
        raise MissingFileError(
            f"no figures at {path}: give the {METRICS_NAME} or the output folder of evaluate.py."
        )
    try:
        metrics = json.loads(path.read_bytes())
        if not all(isinstance(row, dict) for row in metrics["methods"].values()):
            raise TypeError("methods hold no figures")  # noqa: TRY301 - one message for all
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} holds no figures of an evaluation ({type(error).__name__}: {error}). Give the"
            f" {METRICS_NAME} of evaluate.py."
        ) from error
    return dict(metrics)


def _title(card: HeadCard) -> str:
    sam, clip = (card.fingerprint.get(key, "unknown") for key in ("sam_model", "clip_model"))
    return f"# RegionSpot head for SAM {sam} and CLIP {clip}"


def _training(card: HeadCard, datasets: Sequence[str]) -> str:
    names = ", ".join(card.vocabulary[:_NUM_NAMES_SHOWN])
    more = "" if len(card.vocabulary) <= _NUM_NAMES_SHOWN else ", ..."
    rows = {
        "data sets": ", ".join(datasets) or "unknown",
        "names of training": f"{len(card.vocabulary):,}: {names}{more}",
        "templates": card.templates or "unknown",
        "prompts": ", ".join(card.prompts),
        "steps": card.training.get("steps", "unknown"),
        "classifier": f"scale {card.scale:.6g}, bias {card.bias:.6g}",
        "regionspot": card.library_version or "unknown",
    }
    return "## Training\n\n" + _table(("", ""), rows.items())


def _figures(metrics: Mapping[str, Any] | None) -> str:
    if metrics is None:
        return "## Figures\n\nNot evaluated."
    methods: Mapping[str, Mapping[str, Any]] = metrics["methods"]
    known = [key for key in _FIGURES if any(row.get(key) is not None for row in methods.values())]
    rows = [(name, *(_number(row.get(key)) for key in known)) for name, row in methods.items()]
    data = metrics.get("data") or {}
    about = (
        f"Data set {data.get('name', 'unknown')}: {data.get('num_images', '?')} images,"
        f" {data.get('num_regions', '?')} regions, {data.get('num_classes', '?')} classes, regions"
        f" from {data.get('proposals') or 'the annotations'}. Metric {metrics.get('metric', '?')}"
        f" by {metrics.get('scorer', '?')}, protocol {metrics.get('protocol', '?')}, templates"
        f" {metrics.get('templates', '?')}. In percent."
    )
    return f"## Figures\n\n{about}\n\n" + _rows(("method", *known), rows)


def _frozen_models(card: HeadCard) -> str:
    found = card.fingerprint
    if not found:
        return "## Frozen models\n\nUnknown."
    rows = [
        (
            f"{kind} {found.get(f'{key}_model')}",
            f"{found.get(f'{key}_image_size')} px",
            f"`{found.get(f'{key}_weights_sha256')}`",
            _license_of(key, str(found.get(f"{key}_model"))),
        )
        for kind, key in (("SAM", "sam"), ("CLIP", "clip"))
    ]
    table = _rows(("model", "input", "SHA-256 of the weights", "licence"), rows)
    return f"## Frozen models\n\nNot part of these files; others are refused.\n\n{table}"


def _license_of(kind: str, model: str) -> str:
    if model == "tiny":
        return "Apache-2.0, part of regionspot"
    if kind == "sam":
        return "Apache-2.0, as released by Meta"
    return "MIT for OpenAI's weights; for others see their publisher"


def _table(head: tuple[str, str], items: Any) -> str:
    return _rows(head, [(key, str(value)) for key, value in items])


def _rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines
    )


def _number(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, int | float) else ""
