"""The options and inputs of a reader."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from regionspot.annotations.box_checks import Implausible
from regionspot.annotations.classes import Classes
from regionspot.annotations.region_prompts import Prompt
from regionspot.annotations.report import Reason

KeepOrDrop = Literal["keep", "drop"]
"""What to do with annotations of a special kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How to read a data set; None is the format's default, and required where it has none."""

    crowds: KeepOrDrop | None = None
    """Whether an annotation around a crowd (iscrowd) is a region like any other; keep if None."""
    classes_path: Path | None = None
    """OpenImages: the class descriptions (MID,name). CSV and VOC: a list of class names, one per
    line."""
    rotations_path: Path | None = None
    """OpenImages: the list of images with a column Rotation; only used to count."""
    groups: KeepOrDrop | None = None
    """OpenImages: whether a box around a group (IsGroupOf) is a region; drop if None."""
    depictions: KeepOrDrop | None = None
    """OpenImages: whether a box around a depiction (IsDepiction) is a region; keep if None."""

    tree_path: Path | None = None
    """V3Det: the category tree, to be kept beside the cache; no region depends on it."""
    prompt: Prompt | None = None
    """SAM's prompt for a region, which has to be read; its box if None."""
    classes: Classes | None = None
    """The classes in the vocabulary: those that have a region, or those named; all if None."""
    split: str | None = None
    """YOLO and VOC: the split to read; all images if None."""
    image_list: Path | None = None
    """A text file of the images to read, one file name per line; all images if None."""
    implausible: Implausible | None = None
    """What to do with a file whose annotations look wrong as a whole; refuse if None."""

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
    """The input of a reader."""

    path: Path
    """The annotation file."""
    images_dir: Path | None
    """Folder of the images; it exists. None if it is not on this machine."""
    options: ReadOptions
    """Options that belong to the format."""
