"""The report of what was kept, changed and dropped; everything dropped is counted."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Reason(StrEnum):
    """Why an annotation or a proposal did not become a region."""

    UNKNOWN_IMAGE = "of an image that the annotations do not list"
    UNKNOWN_CATEGORY = "of a category that the file does not list"
    CROWD = "around a crowd (iscrowd)"
    GROUP = "around a group (IsGroupOf)"
    DEPICTION = "around a depiction (IsDepiction)"
    OTHER_CLASS = "of a class that was not asked for (classes)"
    BLANK = "left blank, in rows that only name an image (it stays)"
    LOW_SCORE = "with a score below the minimum (min_score)"
    NO_BOX = "without four numbers in bbox"
    NOT_FINITE = "with NaN or infinity in bbox"
    NEGATIVE_SIZE = "of negative width or height"
    ZERO_AREA = "of zero area"
    ODD_CROWD = "with an iscrowd that is neither 0 nor 1"
    NO_MASK = "without a segmentation (polygons or RLE)"
    BAD_MASK = "with a mask that does not fit its image (RLE counts or size, polygon corners)"
    NO_POINTS = "without points in them (point_coords or keypoints)"
    OUTSIDE = "wholly outside the image"
    DUPLICATE = "that repeat a box of the same image (and category, unless proposals)"
    TOO_MANY = "after the best of their image (max_per_image)"


PROPOSALS = "proposals"
"""What a report calls its entries where regions are proposals."""

NUM_EXAMPLES: Final = 3
"""Examples that a message or a report gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """Annotations that were dropped for one reason."""

    reason: Reason
    count: int
    first: tuple[int, ...]
    """Positions of the first few among the file's annotations or proposals, counted from 0; none
    for those that only became repeats of each other when classes were merged."""


def add_up(*dropped: Dropped) -> tuple[Dropped, ...]:
    """Add up what was dropped for the same reason, in the order of `Reason`."""
    total = []
    for reason in Reason:
        same = [entry for entry in dropped if entry.reason is reason and entry.count]
        if same:
            first = sorted(place for entry in same for place in entry.first)[:NUM_EXAMPLES]
            count = sum(entry.count for entry in same)
            total.append(Dropped(reason=reason, count=count, first=tuple(first)))
    return tuple(total)


def few(values: Sequence[object], limit: int = NUM_EXAMPLES, *, end: str = "") -> str:
    """List the first values, for messages; ``end`` follows if these are all."""
    return ", ".join(map(str, values[:limit])) + (", ..." if len(values) > limit else end)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotationReport:
    """Counts of everything that was read, kept, changed and dropped.

    ``num_annotations == num_regions + num_dropped`` always holds: each dropped annotation counts
    under one reason, the first that applies in the order of `Reason`; a proposal first under what
    its file alone shows (a faulty box, a repeat). Where regions are proposals, read "proposals" for
    "annotations".
    """

    num_images: int
    """Images, each once."""
    num_images_without_regions: int = 0
    """Images among them without a region; they stay in the data set."""
    num_images_without_size: int = 0
    """Images among them whose size is only known when they are decoded."""
    num_repeated_images: int = 0
    """Further entries of images that the file lists more than once, identically."""
    num_rotated_images: int = 0
    """Images known to be stored on their side or upside down (OpenImages)."""
    num_annotations: int = 0
    """Annotations in the file."""
    num_regions: int = 0
    """Annotations that became regions."""
    num_crowds: int = 0
    """Regions among them that cover a crowd (``iscrowd``); 0 when crowds are dropped."""
    num_groups: int = 0
    """Regions among them that cover a group (``IsGroupOf``); 0 when groups are dropped."""
    num_depictions: int = 0
    """Regions among them that show a depiction (``IsDepiction``); 0 when these are dropped."""
    num_clipped: int = 0
    """Regions whose box extended beyond the image and was clipped to it."""
    dropped: tuple[Dropped, ...] = ()
    """What was dropped and why; only reasons that occurred."""
    entries: str
    """What the file calls its annotations: ``annotations``, ``rows`` below a header, or
    ``proposals``."""
    notes: tuple[str, ...] = ()
    """What else users should know, one sentence each."""

    @property
    def num_dropped(self) -> int:
        """Annotations that did not become regions."""
        return sum(entry.count for entry in self.dropped)

    def dropped_for(self, reason: Reason) -> int:
        """Return how many annotations were dropped for ``reason``."""
        return sum(entry.count for entry in self.dropped if entry.reason == reason)

    def lines(self) -> list[str]:
        """Format the report, one fact a line."""
        noun = PROPOSALS if self.entries == PROPOSALS else "annotations"
        kept = f"{self.num_regions:,} regions of {self.num_annotations:,} {noun}"
        lines = [f"{self.num_images:,} images, {kept}"]
        if noun == PROPOSALS and not self.num_annotations:  # SAM will find them
            lines = [f"{self.num_images:,} images"]
        told = (
            (self.num_images_without_regions, "images have no region (kept)"),
            (self.num_images_without_size, "images have no annotated size (clipped when decoded)"),
            (self.num_repeated_images, "repeated image entries (ignored)"),
            (self.num_rotated_images, "images are stored rotated (as are their boxes; kept)"),
            (self.num_crowds, "regions are crowds (kept; see crowds)"),
            (self.num_groups, "regions are groups (kept; see groups)"),
            (self.num_depictions, "regions are depictions (kept; see depictions)"),
            (self.num_clipped, "boxes clipped to their image"),
        )
        lines += [f"{count:,} {what}" for count, what in told if count]
        for entry in self.dropped:
            places = ", ".join(str(position) for position in entry.first)
            more = ", ..." if entry.count > len(entry.first) else ""
            where = f" ({self.entries}[{places}{more}])" if entry.first else ""
            lines.append(f"dropped {entry.count:,} boxes {entry.reason}{where}")
        return [*lines, *self.notes]
