"""``regionspot info``: say what a cache, head, checkpoint, run or evaluation is."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from regionspot.cli.options import CommandParser
from regionspot.cli.run import reported_errors
from regionspot.core.errors import MissingFileError, WeightsError
from regionspot.core.files import canonical_json, sha256_bytes
from regionspot.core.json_text import load_json
from regionspot.core.text import human_bytes

if TYPE_CHECKING:
    from regionspot.model import HeadCard

Kind = Literal["cache", "head", "checkpoint", "run", "evaluation"]

_METRICS, _SUMMARY, _CONFIG = "metrics.json", "summary.json", "config.yaml"
_CHECKPOINTS = "checkpoints"
_FIGURES = ("AP", "APr", "APc", "APf", "AP50", "top1_accuracy")
_GROUPS = ("figures", "training", "data", "provenance")
_NUM_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """What is at a path."""

    path: str
    """Path or URL."""
    kind: Kind
    """What it is."""
    facts: Mapping[str, Any]
    """Facts about it, JSON values by name."""

    def to_json(self) -> str:
        """Return everything as a JSON object."""
        fields = {"path": self.path, "kind": self.kind, **self.facts}
        return json.dumps(fields, indent=1, ensure_ascii=False)

    def lines(self) -> list[str]:
        """Format everything, one fact a line; large groups of facts below their name."""
        width = max(map(len, map(_label, self.facts)))
        lines = [f"{self.path}: {self.kind}"]
        for name, value in self.facts.items():
            if isinstance(value, Mapping) and name in _GROUPS:
                lines.append(f"  {_label(name)}")
                lines += [f"    {key}: {_shown('', one)}" for key, one in value.items()]
            else:
                lines.append(f"  {_label(name):<{width}}  {_shown(name, value)}")
        return lines


@reported_errors()
def show_info(words: Sequence[str]) -> None:
    """Describe feature caches, trained heads, checkpoints, runs and evaluations.

    Prints models, widths, training data, figures and sizes of whatever is at each path; of a run,
    also its head. With ``--json``, prints one JSON object for each. Exits with 2 if there is
    nothing to describe at a path; the others are still described. ``regionspot verify`` checks
    every byte instead.
    """
    # Imported here, since the help needs no torch.
    from regionspot.cli.verify import examine_each

    parser = CommandParser(prog="regionspot info", description=show_info.__doc__)
    parser.add_argument("paths", nargs="+", type=str, help="Folders, files, or URLs of caches.")
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    options = parser.parse_args(list(words))

    def describe_and_print(path: str) -> None:
        for info in describe(path):
            print(info.to_json() if options.json else "\n".join(info.lines()))

    _, has_failed = examine_each(options.paths, describe_and_print)
    if has_failed:
        raise SystemExit(2)


def describe(path: str) -> list[Info]:
    """Describe whatever is at a path; of a run or an evaluation, also the head in its folder.

    Raises:
        MissingFileError: There is nothing that can be described.
        RegionSpotError: It is damaged.
    """
    from regionspot.cache import manifest_path
    from regionspot.model import CHECKPOINT_SUFFIX, RUN_FOLDER, WEIGHTS_SUFFIX
    from regionspot.storage import is_url

    folder = Path(path)
    if is_url(path) or manifest_path(folder).is_file():
        return [_cache(path)]
    if folder.is_file() and folder.suffix in {CHECKPOINT_SUFFIX, WEIGHTS_SUFFIX}:
        return [_head(folder, "head" if folder.suffix == WEIGHTS_SUFFIX else "checkpoint")]
    found = []
    if (folder / _METRICS).is_file():
        found.append(_evaluation(folder))
    if (folder / _CONFIG).is_file() and (folder / _CHECKPOINTS).is_dir():
        found.append(_run(folder))
    for place in (folder, folder / RUN_FOLDER):
        weights = sorted(place.glob(f"*{WEIGHTS_SUFFIX}")) if place.is_dir() else []
        found += [_head(file, "head") for file in weights]
    if not found:
        raise MissingFileError(
            f"there is no cache, head, checkpoint, run or evaluation at {path}. Give the folder of"
            f" one, a {CHECKPOINT_SUFFIX} or {WEIGHTS_SUFFIX} file, or the URL of a cache."
        )
    return found


def _cache(location: str) -> Info:
    from regionspot.cache import FeatureCache, collect_stats

    stats, manifest = collect_stats(location), FeatureCache.open(location).manifest
    facts = {
        "data_set": f"{stats.name} ({stats.annotation_format})",
        **_models(manifest.fingerprint.to_dict()),
        "numbers": f"{stats.precision}, stored as {stats.codec}",
        "prompt": stats.prompt,
        "proposals": stats.proposals,
        "num_images": stats.num_images,
        "num_quarantined": stats.num_quarantined,
        "num_regions": stats.num_regions,
        "num_classes": stats.num_classes,
        "names": list(manifest.vocabulary.names),
        "text_banks": stats.text_banks,
        "num_bytes": stats.total_bytes,
        "format_version": manifest.schema_version,
    }
    return Info(path=location, kind="cache", facts=facts)


def _head(file: Path, kind: Kind) -> Info:
    from regionspot.model import CARD_VERSION, load_trained_head

    trained = load_trained_head(file)
    card = trained.card
    parts = (*trained.head.parameters(), *trained.classifier.parameters())
    facts = {
        **_models(card.fingerprint),
        **_shape(card),
        "num_parameters": sum(part.numel() for part in parts),
        "templates": card.templates,
        "prompts": list(card.prompts),
        "num_classes": len(card.vocabulary),
        "names": list(card.vocabulary),
        "training": dict(card.training),
        "library_version": card.library_version,
        "num_bytes": file.stat().st_size,
        "format_version": CARD_VERSION,
    }
    return Info(path=str(file), kind=kind, facts=facts)


def _shape(card: "HeadCard") -> dict[str, Any]:
    spec = card.head
    return {
        "widths": {
            "token": spec.token_dim,
            "feature": spec.feature_dim,
            "text": spec.text_dim,
            "ffn": spec.ffn_dim,
        },
        "num_blocks": spec.num_blocks,
        "num_heads": spec.num_heads,
        "guidance": spec.guidance,
        "scale": card.scale,
        "bias": card.bias,
    }


def _models(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the frozen models; ``fingerprint`` is equal for equal models and preprocessing."""
    if not fingerprint:
        return {"models": None, "fingerprint": None}
    models = (
        f"SAM {fingerprint['sam_model']} at {fingerprint['sam_image_size']} px,"
        f" CLIP {fingerprint['clip_model']} at {fingerprint['clip_image_size']} px"
    )
    identity = sha256_bytes(canonical_json(dict(fingerprint)).encode())
    return {"models": models, "fingerprint": identity[:16]}


def _run(folder: Path) -> Info:
    from regionspot.model import CHECKPOINT_SUFFIX

    files = sorted((folder / _CHECKPOINTS).glob(f"*{CHECKPOINT_SUFFIX}"))
    is_finished = (folder / _SUMMARY).is_file()
    facts = {
        "is_finished": is_finished,
        **(_read(folder / _SUMMARY) if is_finished else {}),
        "checkpoints": [file.name for file in files],
        "num_bytes": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
    }
    return Info(path=str(folder), kind="run", facts=facts)


def _evaluation(folder: Path) -> Info:
    metrics = _read(folder / _METRICS)
    methods = metrics.get("methods", {})
    figures = {
        name: {key: row[key] for key in _FIGURES if row.get(key) is not None}
        for name, row in methods.items()
    }
    names = ("metric", "protocol", "templates", "data", "provenance")
    facts = {
        "figures": figures,
        **{name: metrics.get(name) for name in names},
        "format_version": metrics.get("schema_version"),
    }
    return Info(path=str(folder), kind="evaluation", facts=facts)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = load_json(path.read_bytes())
    except ValueError as error:
        raise WeightsError(f"{path} is damaged: {error}. Make it again.") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} is not a JSON object. Make it again.")
    return content


def _label(name: str) -> str:
    return "size" if name == "num_bytes" else name.removeprefix("num_").replace("_", " ")


def _shown(name: str, value: Any) -> str:
    """Format a JSON value on one line, or a table of figures on several."""
    if name == "num_bytes":
        return human_bytes(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown('', one)}" for key, one in value.items())
    if isinstance(value, list):
        rest = f", ... ({len(value):,})" if len(value) > _NUM_SHOWN else ""
        return ", ".join(_shown("", one) for one in value[:_NUM_SHOWN]) + rest or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, int):
        return f"{value:,}"
    return "none" if value in {None, ""} else str(value)
