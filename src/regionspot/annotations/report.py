"""What became of the annotations of a file: nothing is dropped or changed without being counted."""

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why an annotation did not become a region."""

    UNKNOWN_IMAGE = "of an image that the file does not list"
    UNKNOWN_CATEGORY = "of a category that the file does not list"
    CROWD = "around a crowd (iscrowd)"
    NO_BOX = "without four numbers in bbox"
    NOT_FINITE = "with NaN or infinity in bbox"
    NEGATIVE_SIZE = "of negative width or height"
    ZERO_AREA = "of zero area"
    OUTSIDE = "wholly outside the image"
    DUPLICATE = "that repeat an earlier box of the same image and category"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """Annotations that were dropped for one reason."""

    reason: Reason
    """Why."""
    count: int
    """How many."""
    first: tuple[int, ...]
    """Positions of the first few in the file's list of annotations, counted from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotationReport:
    """Counts of everything that was read, kept, changed and dropped.

    ``num_annotations == num_regions + num_dropped`` always holds: each dropped annotation counts
    under one reason, the first that applies in the order of `Reason`.
    """

    num_images: int
    """Images, each once."""
    num_images_without_regions: int
    """Images among them that have no region left; they stay in the data set."""
    num_repeated_images: int
    """Further entries of images that the file lists more than once, identically."""
    num_annotations: int
    """Annotations in the file."""
    num_regions: int
    """Annotations that became regions."""
    num_crowds: int
    """Regions among them that cover a crowd (``iscrowd``); 0 when crowds are dropped."""
    num_clipped: int
    """Regions whose box reached over the image's edge and was clipped to it."""
    dropped: tuple[Dropped, ...]
    """What was dropped and why; only reasons that occurred."""

    @property
    def num_dropped(self) -> int:
        """Annotations that did not become regions."""
        return sum(entry.count for entry in self.dropped)

    def dropped_for(self, reason: Reason) -> int:
        """Return how many annotations were dropped for ``reason``."""
        return sum(entry.count for entry in self.dropped if entry.reason == reason)

    def lines(self) -> list[str]:
        """Say it in English, one fact a line."""
        kept = f"{self.num_regions:,} regions of {self.num_annotations:,} annotations"
        lines = [f"{self.num_images:,} images, {kept}"]
        if self.num_images_without_regions:
            lines.append(f"{self.num_images_without_regions:,} images have no region (kept)")
        if self.num_repeated_images:
            lines.append(f"{self.num_repeated_images:,} repeated image entries (ignored)")
        if self.num_crowds:
            lines.append(f"{self.num_crowds:,} regions are crowds (kept; see crowds)")
        if self.num_clipped:
            lines.append(f"{self.num_clipped:,} boxes clipped to their image")
        for entry in self.dropped:
            places = ", ".join(str(position) for position in entry.first)
            more = ", ..." if entry.count > len(entry.first) else ""
            lines.append(
                f"dropped {entry.count:,} boxes {entry.reason} (annotations[{places}{more}])"
            )
        return lines
