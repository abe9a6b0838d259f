"""Recognizes the format of a file, to name it if another format was given."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from regionspot.core.errors import AnnotationError, MissingFileError

WANTED_LISTS = ("images", "annotations", "categories")

_DESCRIPTIONS = {
    "lvis": "an LVIS ground-truth file",
    "objects365": "an Objects365 ground-truth file",
    "v3det": "a V3Det ground-truth file",
    "coco": "a COCO ground-truth file",
}
_OBJECTS365_NAME = re.compile(r"(images/v[12]/patch\d+/)?objects365_v[12]_\d+\.jpg")

FORMAT_OF_SUFFIX: Final[Mapping[str, str]] = MappingProxyType(
    {".json": "coco", ".csv": "csv", ".yaml": "yolo", ".yml": "yolo", ".names": "yolo"}
)
"""The format that the name of an annotation file suggests."""

_IMAGE_ID = re.compile(r"-?[0-9]+")


@dataclass(slots=True, kw_only=True)
class ListSummary:
    """A list of the file: how many entries it has, and the first."""

    count: int = 0
    first: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """A JSON file without the contents of its lists."""

    skeleton: object
    """Its value, with every list and object in it emptied."""
    lists: Mapping[str | None, ListSummary] = field(default_factory=dict)
    """Its lists, by key; None for the outermost one."""

    def has_list(self, name: str) -> bool:
        """Return whether the file is an object with such a list."""
        return isinstance(self.skeleton, dict) and isinstance(self.skeleton.get(name), list)

    def first(self, name: str | None) -> Mapping[str, object]:
        """Return the first entry of a list, if it is an object."""
        first = self.lists[name].first if name in self.lists else None
        return first if isinstance(first, dict) else {}


def format_hint(path: Path) -> str | None:
    """Return the format that the name of a file, or the content of a folder, suggests, if any."""
    if path.is_dir():
        return "voc" if any(path.glob("*.xml")) or (path / "Annotations").is_dir() else None
    return "voc" if path.suffix.lower() == ".xml" else FORMAT_OF_SUFFIX.get(path.suffix.lower())


def wrong_file(path: Path, format_name: str, wanted: str) -> AnnotationError | MissingFileError:
    """Return the error for a path whose name does not fit its format.

    Args:
        path: The file or folder.
        format_name: The format that was asked for.
        wanted: What the format needs, as a noun.
    """
    if not path.exists():
        return MissingFileError(f"{path} does not exist. Set --annotations.path to {wanted}.")
    hint = format_hint(path)
    is_other = hint is not None and hint != format_name
    advice = f" It may be in the format {hint}: set --annotations.format." if is_other else ""
    kind = "folder" if path.is_dir() else "file"
    return AnnotationError(
        f"{path} is a {kind}, but --annotations.format is {format_name}, which wants {wanted}."
        f"{advice}"
    )


def recognize_format(outline: Outline) -> str | None:
    """Return the format that a file's keys indicate: ``coco`` if no other, None if not even that.

    Only LVIS says which categories were looked for in an image and how frequent each is; only
    Objects365 whether an object is fake or a reflection; only V3Det describes its categories.
    """
    if not all(outline.has_list(name) for name in WANTED_LISTS) or _foreign(outline) is not None:
        return None
    image, annotation, category = (outline.first(name) for name in WANTED_LISTS)
    if "neg_category_ids" in image or "frequency" in category:
        return "lvis"
    is_named_so = _OBJECTS365_NAME.fullmatch(str(image.get("file_name")))
    if is_named_so or {"isfake", "isreflected"} <= annotation.keys():
        return "objects365"
    if "cat_info" in category:
        return "v3det"
    return "coco"


def describe(outline: Outline) -> str:
    """Describe a file in a few words, for messages; starts with an article."""
    value = outline.skeleton
    if isinstance(value, list):
        return _describe_list(outline)
    if not isinstance(value, dict):
        return f"a JSON {type(value).__name__}"
    recognized = recognize_format(outline)
    if recognized is not None:
        return _DESCRIPTIONS[recognized]
    if value and all(_IMAGE_ID.fullmatch(key) for key in value):
        return "an object of boxes by image id (the layout of GLIP proposals)"
    return _foreign(outline) or f"a JSON object with {_keys(value)}"


def _describe_list(outline: Outline) -> str:
    summary = outline.lists.get(None, ListSummary())
    first = summary.first
    if not isinstance(first, dict):
        return f"a JSON list of {summary.count:,} entries"
    if "score" in first and "image_id" in first:
        return f"a list of {summary.count:,} detections with scores (the COCO results format)"
    if "frequency" in first and "synset" in first:
        return f"a list of {summary.count:,} LVIS categories without images"
    return f"a JSON list of {summary.count:,} objects with {_keys(first)}"


def _foreign(outline: Outline) -> str | None:
    first = outline.first("annotations")
    if "segments_info" in first:
        return "a COCO panoptic file (segments instead of boxes)"
    if "caption" in first:
        return "a COCO captions file (sentences instead of boxes)"
    return None


def _keys(value: Mapping[str, object]) -> str:
    shown = ", ".join(list(value)[:6])
    return f"the keys {shown}" if shown else "no keys"
