"""What a run left behind, in numbers and in English."""

from dataclasses import dataclass

from regionspot.annotations import AnnotationReport
from regionspot.core.text import human_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSummary:
    """What a run left behind."""

    location: str
    """The cache's folder or URL."""
    annotations: AnnotationReport
    """What became of the annotations."""
    name_notes: tuple[str, ...] = ()
    """What CLIP's tokenizer makes of the class names, one sentence each, where it matters."""
    num_images: int
    """Images in the cache."""
    num_regions: int
    """Their regions."""
    num_clipped_regions: int
    """Regions among them that were clipped when their image was decoded."""
    num_dropped_regions: int
    """Regions that were dropped then: outside the image, equal once clipped, or not to be shown to
    SAM (a mask without a pixel, a point outside)."""
    num_quarantined: int
    """Images left out, with reasons in ``quarantine.jsonl``."""
    num_shards: int
    """Shards in the cache."""
    num_bytes: int
    """Bytes of all files of the cache."""
    num_new_images: int
    """Images that this run cached; 0 if there was nothing to do."""
    num_reused_maps: int = 0
    """Feature maps that this run took over from another cache."""
    num_reused_tokens: int = 0
    """Position tokens that it took over."""
    num_ignored_orientations: int = 0
    """Images that this run cached whose EXIF orientation was ignored."""
    seconds: float
    """Duration of this run from the first image to the last."""

    def lines(self) -> list[str]:
        """Say it in English, one fact a line."""
        size = f"{self.num_shards:,} shards, {human_bytes(self.num_bytes)}"
        lines = [
            f"{self.location}: {self.num_images:,} images, {self.num_regions:,} regions, {size}"
        ]
        if self.num_clipped_regions:
            lines.append(f"{self.num_clipped_regions:,} boxes clipped to the decoded image")
        if self.num_dropped_regions:
            lines.append(
                f"dropped {self.num_dropped_regions:,} boxes of decoded images: outside, equal once"
                " clipped, or with nothing in the image to show to SAM"
            )
        if self.num_quarantined:
            lines.append(
                f"left out: {self.num_quarantined:,} images; {self.location}/quarantine.jsonl says"
                " why. To try mended ones again: regionspot cache repair --retry_quarantined true,"
                " and the same options"
            )
        if self.num_new_images:
            rate = self.num_new_images / max(self.seconds, 1e-9)
            lines.append(
                f"{self.num_new_images:,} images in {self.seconds:,.1f} s, {rate:,.1f} images/s"
            )
            lines += _reused_lines(self.num_reused_maps, self.num_reused_tokens)
            lines += _orientation_lines(self.num_ignored_orientations)
        else:
            lines.append("already complete, nothing to do")
        return [*self.annotations.lines(), *lines, *self.name_notes]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSummary:
    """What a part of a run left behind, while other parts are not done yet."""

    part: str
    """Which part of how many: 2/8."""
    num_shards: int
    """Shards of the whole cache."""
    num_shards_done: int
    """Shards among them that are there now, whoever wrote them."""
    num_own_missing: int
    """Shards of this part that another process is still at."""
    num_new_images: int
    """Images that this run cached."""
    num_reused_maps: int = 0
    """Feature maps that this run took over from another cache."""
    num_reused_tokens: int = 0
    """Position tokens that it took over."""
    num_ignored_orientations: int = 0
    """Images that this run cached whose EXIF orientation was ignored."""
    seconds: float
    """Duration of this run from the first image to the last."""

    def lines(self) -> list[str]:
        """Say it in English, one fact a line."""
        rate = self.num_new_images / max(self.seconds, 1e-9)
        speed = f"{self.num_new_images:,} images in {self.seconds:,.1f} s, {rate:,.1f} images/s"
        there = f"{self.num_shards_done:,} of the cache's {self.num_shards:,} shards are there"
        lines = [
            f"part {self.part}: {speed}",
            f"{there}; the part that ends last finishes the cache",
        ]
        lines += _reused_lines(self.num_reused_maps, self.num_reused_tokens)
        lines += _orientation_lines(self.num_ignored_orientations)
        if self.num_own_missing:
            lines.append(f"another process is at {self.num_own_missing:,} shards of this part")
        return lines


def _reused_lines(num_maps: int, num_tokens: int) -> list[str]:
    if not num_maps:
        return []
    return [f"taken over: {num_maps:,} feature maps, {num_tokens:,} position tokens"]


def _orientation_lines(num_images: int) -> list[str]:
    if not num_images:
        return []
    what = (
        "whose EXIF orientation was ignored: if their boxes are those of the photo as viewers show"
    )
    return [f"{num_images:,} images {what} it, give --exif_policy apply"]
