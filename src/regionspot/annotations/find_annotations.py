"""Finds the annotations in the folder of a data set, and the folder of its images."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from regionspot.annotations.csv_boxes import COLUMNS
from regionspot.annotations.detect_format import Outline, recognize_format
from regionspot.annotations.json_entries import read_outline
from regionspot.annotations.json_lists import JsonFile
from regionspot.annotations.voc import ANNOTATIONS_DIR, split_list
from regionspot.annotations.yolo_layout import NAMES_SUFFIXES, YAML_SUFFIXES
from regionspot.core.errors import AnnotationError, MissingFileError, RegionSpotError

_JSON_FORMATS = ("coco", "lvis")
_MAX_ENTRIES = 200_000
_MAX_DEPTH = 2
_NAMES_FILES = ("classes.txt", "obj.names", "names.txt")
_IMAGE_FOLDERS = ("", "JPEGImages", "images", "imgs", "data")
_VAL_WORDS = ("val", "valid", "validation")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundAnnotations:
    """Annotations that were found."""

    format: str
    """Their format."""
    path: Path
    """The file, or the folder of VOC's XML files."""
    split: str | None = None
    """The split of a format that has splits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundData:
    """The annotations of a data set."""

    train: FoundAnnotations
    """Those to train on."""
    val: FoundAnnotations | None = None
    """Those to validate on, if the data set has a split for that."""


def find_annotations(
    folder: Path, *, format_name: str | None = None, path: Path | None = None
) -> FoundData:
    """Find the annotations of a data set.

    Args:
        folder: Folder of the data set.
        format_name: Their format, if known.
        path: Their file, or VOC's folder, if known.

    Raises:
        MissingFileError: There is no such folder or file.
        AnnotationError: There are none, or several that may be meant.
    """
    for given in (folder, *([path] if path else [])):
        if not given.exists():
            raise MissingFileError(f"{given} does not exist. Give the folder of a data set.")
    if path is not None:
        found = _of_format(path) if path.is_file() else [("voc", path)]
    else:
        found = _all_below(folder)
    by_format: dict[str, list[Path]] = {}
    for name, place in found:
        by_format.setdefault(name, []).append(place)
    if format_name is not None:
        by_format = {name: by_format[name] for name in (format_name,) if name in by_format}
    if not by_format:
        raise _nothing_found(folder, format_name)
    if len(by_format) > 1:
        listed = "; ".join(f"{name}: {_shown(paths)}" for name, paths in by_format.items())
        raise AnnotationError(
            f"{folder} holds annotations in several formats ({listed}). Choose one with --format."
        )
    ((name, paths),) = by_format.items()
    return _with_splits(name, _pair_of(paths, folder))


def find_images_dir(folder: Path, annotations: Path, file_names: Sequence[str]) -> Path:
    """Find the folder that file names are relative to, in or above the folder of a data set.

    Raises:
        MissingFileError: There is no folder that has the first few files.
    """
    beside = annotations if annotations.is_dir() else annotations.parent
    near = [place / name for place in (beside, beside.parent, folder) for name in _IMAGE_FOLDERS]
    wanted = list(file_names[:3])
    for place in (*near, *_folders_below(folder)):
        if all((place / name).is_file() for name in wanted):
            return Path(os.path.normpath(place))
    raise MissingFileError(
        f"no folder in {folder} has the images of {annotations}, such as {wanted[0]}. Give"
        " --images_dir."
    )


def _all_below(folder: Path) -> list[tuple[str, Path]]:
    places = list(_folders_below(folder, depth=_MAX_DEPTH))
    files = [path for place in places for path in sorted(place.iterdir()) if path.is_file()]
    found = [one for path in files if path.suffix.lower() != ".txt" for one in _of_format(path)]
    if not any(name == "yolo" for name, _ in found):  # data.yaml has names, too
        names = [path for path in files if path.name in _NAMES_FILES or path.suffix == ".names"]
        found += [("yolo", path) for path in names[:1]]
    return found + [("voc", place) for place in places if _has_xml(place)]


def _of_format(path: Path) -> list[tuple[str, Path]]:
    """Return the format of a file of annotations, with the file; nothing for other files."""
    suffix = path.suffix.lower()
    try:
        if suffix == ".json":
            name = recognize_format(_outline(path))
            return [(name, path)] if name in _JSON_FORMATS else []
        if suffix == ".csv":
            with path.open(encoding="utf-8-sig") as file:
                header = {name.strip() for name in file.readline().split(",")}
            return [("csv", path)] if header.issuperset(COLUMNS) else []
        if suffix in YAML_SUFFIXES:
            return [("yolo", path)] if {"names", "train"} <= _yaml(path).keys() else []
    except (RegionSpotError, UnicodeDecodeError):
        return []
    return [("yolo", path)] if suffix in NAMES_SUFFIXES else []


def _outline(path: Path) -> Outline:
    return read_outline(JsonFile(path))


def _yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _has_xml(folder: Path) -> bool:
    return next(folder.glob("*.xml"), None) is not None


def _pair_of(paths: Sequence[Path], folder: Path) -> tuple[Path, Path | None]:
    """Return the annotations to train on and those to validate on, by their names."""
    if len(paths) == 1:
        return paths[0], None
    kinds: dict[str, list[Path]] = {"train": [], "val": [], "test": []}
    for path in paths:
        words = str(path.relative_to(folder) if path.is_relative_to(folder) else path).lower()
        kind = "val" if any(word in words for word in _VAL_WORDS) else None
        kind = kind or next((word for word in ("train", "test") if word in words), "train")
        kinds[kind].append(path)
    if len(kinds["train"]) == 1 and len(kinds["val"]) <= 1:
        return kinds["train"][0], next(iter(kinds["val"]), None)
    raise AnnotationError(
        f"{folder} holds several annotation files: {_shown(paths)}. Name the one to train on with"
        " --annotations; a validation split is then cut from it."
    )


def _with_splits(name: str, pair: tuple[Path, Path | None]) -> FoundData:
    path, val_path = pair
    train_split, val_split = None, None
    if val_path is None and name == "yolo":
        train_split, val_split = _yolo_splits(path)
    if val_path is None and name == "voc":
        folder = path / ANNOTATIONS_DIR if (path / ANNOTATIONS_DIR).is_dir() else path
        names = [one for one in ("train", "val") if split_list(folder, one).is_file()]
        train_split, val_split = names if len(names) == 2 else (None, None)
    train = FoundAnnotations(format=name, path=path, split=train_split)
    val = None
    if val_path is not None or val_split is not None:
        val = FoundAnnotations(format=name, path=val_path or path, split=val_split)
    return FoundData(train=train, val=val)


def _yolo_splits(path: Path) -> tuple[str | None, str | None]:
    if path.suffix.lower() in YAML_SUFFIXES:
        content = _yaml(path)
        val = next((name for name in _VAL_WORDS if content.get(name)), None)
        if val is None or content[val] == content.get("train"):
            return "train", None
        return "train", val
    base = path.parent / "images" if (path.parent / "images").is_dir() else path.parent
    names = [
        name
        for name in ("train", *_VAL_WORDS)
        if (base / name).is_dir() or (path.parent / f"{name}.txt").is_file()
    ]
    train, val, *_ = (*names, None, None)
    return (train, val) if train == "train" else (None, None)


def yolo_images_dir(path: Path) -> Path:
    """Return the folder of a YOLO data set: ``path`` in ``data.yaml``, or that of the file."""
    place = _yaml(path).get("path") if path.suffix.lower() in YAML_SUFFIXES else None
    below = path.parent / str(place or ".")
    return Path(os.path.normpath(below)) if below.is_dir() else path.parent


def _folders_below(folder: Path, *, depth: int | None = None) -> Iterator[Path]:
    """Yield a folder and those below it, upper ones first; a bounded number."""
    level = [folder]
    entries = iter(range(_MAX_ENTRIES))
    while level and (depth is None or depth >= 0):
        below: list[Path] = []
        for place in level:
            if next(entries, None) is None:
                return
            yield place
            with os.scandir(place) as found:
                below += sorted(
                    Path(entry)
                    for entry in islice(found, _MAX_ENTRIES)
                    if entry.is_dir() and not entry.name.startswith(".")
                )
        level = below
        depth = None if depth is None else depth - 1


def _nothing_found(folder: Path, format_name: str | None) -> AnnotationError:
    suffixes = Counter(
        path.suffix.lower() or "no suffix"
        for place in _folders_below(folder, depth=_MAX_DEPTH)
        for path in place.iterdir()
        if path.is_file()
    )
    found = ", ".join(f"{count:,} {name}" for name, count in _most(suffixes)) or "no files"
    wanted = format_name or "COCO, CSV, YOLO or Pascal VOC"
    return AnnotationError(
        f"{folder} holds no annotations that are known ({found}). Wanted {wanted}: a COCO JSON"
        f" file, a CSV file with the header {','.join(COLUMNS)}, a data.yaml or classes.txt, or a"
        " folder of XML files. Give the folder that contains them, or the file with --annotations."
    )


def _most(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:5]


def _shown(paths: Iterable[Path]) -> str:
    listed = list(map(str, paths))
    return ", ".join(listed[:4]) + (", ..." if len(listed) > 4 else "")
