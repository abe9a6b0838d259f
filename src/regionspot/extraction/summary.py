"""Summaries of a run, as numbers and as lines of text."""

from dataclasses import dataclass, fields

from regionspot.annotations import AnnotationReport
from regionspot.core.text import human_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteCounts:
    """Counts of the shards written by a run."""

    num_new_images: int = 0
    """Images cached by this run, including unusable ones; 0 if there was nothing to do."""
    num_reused_maps: int = 0
    """Feature maps taken from another cache."""
    num_reused_tokens: int = 0
    """Position tokens taken from it."""
    num_ignored_orientations: int = 0
    """Newly cached images whose EXIF orientation was ignored."""

    def __add__(self, other: "WriteCounts") -> "WriteCounts":
        names = [field.name for field in fields(WriteCounts)]
        return WriteCounts(**{name: getattr(self, name) + getattr(other, name) for name in names})

    def _notes(self) -> list[str]:
        lines = []
        if self.num_reused_maps:
            maps, tokens = self.num_reused_maps, self.num_reused_tokens
            lines.append(f"reused: {maps:,} feature maps, {tokens:,} position tokens")
        if self.num_ignored_orientations:
            lines.append(
                f"{self.num_ignored_orientations:,} images whose EXIF orientation was ignored: if"
                " their boxes refer to the photo as viewers show it, give --exif_policy apply"
            )
        return lines

    def _speed(self, seconds: float) -> str:
        rate = self.num_new_images / max(seconds, 1e-9)
        return f"{self.num_new_images:,} images in {seconds:,.1f} s, {rate:,.1f} images/s"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSummary(WriteCounts):
    """A finished cache, and what this run added to it."""

    location: str
    """Folder or URL of the cache."""
    annotations: AnnotationReport
    """How the annotations were read."""
    name_notes: tuple[str, ...] = ()
    """Class names that CLIP's tokenizer changes, one sentence each."""
    num_images: int
    """Images in the cache."""
    num_regions: int
    """Their regions."""
    num_clipped_regions: int
    """Regions among them that were clipped when their image was decoded."""
    num_dropped_regions: int
    """Regions dropped when their image was decoded: outside of it, equal once clipped, or without a
    prompt for SAM (a mask without a pixel, a point outside)."""
    num_quarantined: int
    """Images left out, with reasons in ``quarantine.jsonl``."""
    num_shards: int
    """Shards in the cache."""
    num_bytes: int
    """Bytes of all files of the cache."""
    seconds: float
    """Duration of this run from the first image to the last."""

    def lines(self) -> list[str]:
        """Return one line of text for each fact."""
        size = f"{self.num_shards:,} shards, {human_bytes(self.num_bytes)}"
        lines = [
            f"{self.location}: {self.num_images:,} images, {self.num_regions:,} regions, {size}"
        ]
        if self.num_clipped_regions:
            lines.append(f"{self.num_clipped_regions:,} boxes clipped to the decoded image")
        if self.num_dropped_regions:
            lines.append(
                f"dropped {self.num_dropped_regions:,} boxes of decoded images: outside, equal once"
                " clipped, or without a prompt inside the image"
            )
        if self.num_quarantined:
            lines.append(
                f"left out: {self.num_quarantined:,} images; {self.location}/quarantine.jsonl says"
                " why. To try them again: regionspot cache repair --retry_quarantined true, and the"
                " same options"
            )
        if self.num_new_images:
            lines += [self._speed(self.seconds), *self._notes()]
        else:
            lines.append("already complete, nothing to do")
        return [*self.annotations.lines(), *lines, *self.name_notes]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSummary(WriteCounts):
    """The state of a cache when one part is done and others are not."""

    part: str
    """The part, such as 2/8."""
    num_shards: int
    """Shards of the whole cache."""
    num_shards_done: int
    """Finished shards of all parts."""
    num_own_missing: int
    """Shards of this part that another process is still writing."""
    seconds: float
    """Duration of this run from the first image to the last."""

    def lines(self) -> list[str]:
        """Return one line of text for each fact."""
        done = f"{self.num_shards_done:,} of the cache's {self.num_shards:,} shards are done"
        lines = [
            f"part {self.part}: {self._speed(self.seconds)}",
            f"{done}; the part that ends last finishes the cache",
        ]
        lines += self._notes()
        if self.num_own_missing:
            lines.append(f"another process is writing {self.num_own_missing:,} of its shards")
        return lines
