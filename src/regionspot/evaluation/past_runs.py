"""Reads the output of earlier evaluations, for a comparison: metrics.json and per_category.csv."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from regionspot.core.errors import ConfigError, MissingFileError
from regionspot.core.json_text import load_json
from regionspot.scoring.results import METRICS_VERSION

METRICS_NAME = "metrics.json"
CATEGORIES_NAME = "per_category.csv"
_FIRST_METHOD_COLUMN = 4  # of per_category.csv, after id, name, frequency, number
_DECISIVE = ("metric", "iou_type", "protocol", "score_rule")
"""Settings at the top of metrics.json without which figures are not comparable."""
_DECISIVE_OF_DATA = ("annotation_sha256", "num_images", "num_regions", "proposals", "num_classes")
"""The same for what was scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRun:
    """An evaluation, as its output folder tells."""

    name: str
    """The name to show."""
    figures: Mapping[str, Mapping[str, float | None]]
    """The figures in percent by name, for each method in order."""
    class_groups: Mapping[str, frozenset[str]]
    """The classes of each group."""
    group_figures: Mapping[str, Mapping[str, float | None]]
    """AP of each group in percent, for each method."""
    decisive: Mapping[str, str]
    """What has to agree for figures to be comparable."""
    provenance: Mapping[str, str]
    """What else is known of the run."""
    classes: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    """AP in percent by class name, for each method."""
    num_annotations: Mapping[str, int] = field(default_factory=dict)
    """Annotated regions by class name."""

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of its methods, in order."""
        return tuple(self.figures)

    def counterpart(self, method: str) -> str:
        """Return its method of the same name, or else its first."""
        return method if method in self.figures else self.methods[0]


def is_evaluation(folder: Path) -> bool:
    """Return whether a folder is the output of an evaluation."""
    return (folder / METRICS_NAME).is_file()


def names_of(folders: Sequence[Path]) -> list[str]:
    """Return names to show: those of the folders, or their paths if two have the same name.

    Raises:
        ConfigError: A folder is given twice.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError(f"a folder is given twice: {', '.join(map(str, folders))}.")
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def read_past_run(folder: Path, name: str) -> PastRun:
    """Read the output folder of an evaluation.

    Args:
        folder: The ``output_dir`` of ``evaluate.py``.
        name: The name to show.

    Raises:
        MissingFileError: It lacks metrics.json or per_category.csv.
        ConfigError: A file is damaged, or of another version.
    """
    path = folder / METRICS_NAME
    content = _read_metrics(path)
    try:
        methods = cast("dict[str, dict[str, Any]]", content["methods"])
        data = cast("dict[str, Any]", content["data"])
        settings = {key: content[key] for key in _DECISIVE if key in content}
        settings |= {f"data: {key}": data[key] for key in _DECISIVE_OF_DATA}
        others = {f"data: {key}": value for key, value in data.items()}
        others |= {key: content[key] for key in ("templates", "scorer")} | content["provenance"]
        classes, num_annotations = _read_classes(folder / CATEGORIES_NAME)
        return PastRun(
            name=name,
            figures={method: _numbers(figures) for method, figures in methods.items()},
            class_groups={
                group: frozenset(members)
                for group, members in content.get("class_groups", {}).items()
            },
            group_figures={
                method: _numbers(figures.get("class_groups", {}))
                for method, figures in methods.items()
            },
            decisive=_texts(settings),
            provenance={k: v for k, v in _texts(others).items() if k not in settings},
            classes=classes,
            num_annotations=num_annotations,
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{folder} holds no complete evaluation ({type(error).__name__}: {error}). Run"
            " evaluate.py again with this --output_dir."
        ) from error


def _read_metrics(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MissingFileError(f"no evaluation at {path.parent}: it has no {path.name}.")
    try:
        content = load_json(path.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}). Run evaluate.py again.") from error
    metrics = cast("dict[str, Any]", content if isinstance(content, dict) else {})
    version = metrics.get("schema_version")
    if version != METRICS_VERSION or not metrics.get("methods"):
        raise ConfigError(
            f"{path} has schema_version {version!r} or no methods; wanted version"
            f" {METRICS_VERSION} with at least one method. Run evaluate.py again."
        )
    return metrics


def _read_classes(
    path: Path,
) -> tuple[dict[str, dict[str, float | None]], dict[str, int]]:
    if not path.is_file():
        raise MissingFileError(f"{path.parent} has no {path.name}. Run evaluate.py again.")
    with path.open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    columns = enumerate(head[_FIRST_METHOD_COLUMN:], start=_FIRST_METHOD_COLUMN)
    classes = {
        method: {row[1]: float(row[column]) if row[column] else None for row in rows}
        for column, method in columns
    }
    return classes, {row[1]: int(row[3]) for row in rows}


def _numbers(figures: Mapping[str, Any]) -> dict[str, float | None]:
    return {
        name: None if value is None else float(value)
        for name, value in figures.items()
        if value is None or isinstance(value, int | float)
    }


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: "-" if value is None else str(value) for key, value in values.items()}
