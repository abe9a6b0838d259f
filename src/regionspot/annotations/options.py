"""What a reader is asked to read, and which options belong to which format."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from regionspot.annotations.box_checks import Implausible
from regionspot.annotations.classes import Classes
from regionspot.annotations.region_prompts import Prompt
from regionspot.annotations.report import Reason
from regionspot.core.errors import ConfigError

AnnotationFormat = Literal["coco", "lvis", "objects365", "openimages", "v3det", "csv"]
"""What ``--annotations.format`` accepts; a test holds it equal to the keys of `READERS`."""

KeepOrDrop = Literal["keep", "drop"]
"""What to do with annotations of a special kind."""

OPTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "coco": ("crowds", "prompt"),
        "lvis": ("crowds", "prompt"),
        "objects365": ("crowds",),
        "v3det": ("crowds", "tree_path"),
        "openimages": ("classes_path", "rotations_path", "groups", "depictions"),
        "csv": ("classes_path",),
    }
)
"""Names of the options that each format takes, beside those that all take."""
_OF_ALL_FORMATS = ("classes", "implausible")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How to read a data set; None is the format's default, and all that others may be given."""

    crowds: KeepOrDrop | None = None
    """Whether an annotation around a crowd (iscrowd) is a region like any other; keep if None."""
    classes_path: Path | None = None
    """OpenImages: the class descriptions (MID,name). CSV: a list of class names, one a line."""
    rotations_path: Path | None = None
    """OpenImages: the list of images with a column Rotation; only used to count."""
    groups: KeepOrDrop | None = None
    """OpenImages: whether a box around a group (IsGroupOf) is a region; drop if None."""
    depictions: KeepOrDrop | None = None
    """OpenImages: whether a box around a depiction (IsDepiction) is a region; keep if None."""

    tree_path: Path | None = None
    """V3Det: the category tree, to be kept beside the cache; no region depends on it."""
    prompt: Prompt | None = None
    """What of a region SAM is to be shown, and so has to be read; its box if None."""
    classes: Classes | None = None
    """Which of the file's classes make the vocabulary: those that have a region, or those of these
    names; all of them if None."""
    implausible: Implausible | None = None
    """What to do with a file whose annotations look wrong as a whole; refuse if None."""

    def check(self, format_name: str) -> None:
        """Refuse what does not belong to a format, and miss what it needs.

        Raises:
            ConfigError: An option was given that the format has no use for, or OpenImages is to be
                read without its class descriptions.
        """
        allowed = (*OPTIONS[format_name], *_OF_ALL_FORMATS)
        for field in fields(self):
            if getattr(self, field.name) is not None and field.name not in allowed:
                takers = [name for name, options in OPTIONS.items() if field.name in options]
                raise ConfigError(
                    f"--annotations.{field.name} means nothing to the format {format_name}; it"
                    f" belongs to {', '.join(takers)}. Leave it out."
                )
        if format_name == "openimages" and self.classes_path is None:
            raise ConfigError(
                "the format openimages names its classes in a file of its own. Set"
                " --annotations.classes_path to it, for instance class-descriptions-boxable.csv."
            )

    @property
    def dropped(self) -> frozenset[Reason]:
        """Kinds of annotations that are dropped."""
        choices = {
            Reason.CROWD: self.crowds or "keep",
            Reason.GROUP: self.groups or "drop",
            Reason.DEPICTION: self.depictions or "keep",
        }
        dropped = {reason for reason, choice in choices.items() if choice == "drop"}
        if isinstance(self.classes, tuple):
            dropped.add(Reason.OTHER_CLASS)
        return frozenset(dropped)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """All that a reader is told."""

    path: Path
    """The annotation file."""
    images_dir: Path | None
    """Folder of the images; it exists. None for one that cannot be looked into."""
    options: ReadOptions
    """Options that belong to the format."""
