"""A data set's image records: an image and its regions, whatever format they were read from.

`RecordTable` holds columns, which take a tenth of the memory of records, and makes a record when it
is indexed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from regionspot.annotations.box_checks import BoxLayout, BoxUnit
from regionspot.annotations.columns import ImageColumns, TextColumn
from regionspot.annotations.report import AnnotationReport
from regionspot.core.errors import AnnotationError, ShapeError
from regionspot.core.files import is_below
from regionspot.core.geometry import box_area, clip_boxes_xyxy, relative_to_pixels
from regionspot.core.vocabulary import Vocabulary

_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """One image of a data set and its regions; row ``i`` of the arrays is region ``i``.

    Regions are annotated boxes, which have a class, or proposals, which have a score. If the
    annotations do not give the size of the image, `resolved` adds it after decoding.

    Raises:
        AnnotationError: The key, file name or size is invalid, or an annotated box has no class.
        ShapeError: The arrays do not have one row per region, or boxes are relative although the
            size is known.
    """

    key: str
    """Name of the image's sample in a WebDataset shard: letters, digits, ``_``, ``-``; unique."""
    image_id: int
    """The data set's own image id."""
    file_name: str
    """Path of the image relative to the data set's ``images_dir``, with ``/`` between folders."""
    annotated_size_hw: tuple[int, int] | None
    """Height and width in pixels according to the annotations; None if they do not say."""
    boxes_xyxy: NDArray[np.float32]
    """Boxes, (R, 4), in ``box_unit``, of positive area and inside the image; if the size is not
    known, boxes in pixels may extend beyond its right and lower edge."""
    labels: NDArray[np.int64]
    """Index of each region's class in the vocabulary, (R,); -1 (class unknown) for proposals."""
    box_unit: BoxUnit = "pixel"
    """Unit of the boxes; always pixels where the size is known."""
    prompts: tuple[str, ...] | None = None
    """SAM's prompt for each region (see `region_prompts`); None if it is the box."""
    box_scores: NDArray[np.float32] | None = None
    """The detector's score of each box, 0 to 1, (R,), in descending order; None for annotated
    boxes."""

    def __post_init__(self) -> None:
        image = f"image {self.image_id}"
        if not _KEY.fullmatch(self.key):
            raise AnnotationError(
                f"{image}: {self.key!r} cannot name a sample of a tar shard; keys are made of"
                " letters, digits, '_' and '-'."
            )
        if not is_below(self.file_name):
            raise AnnotationError(
                f"{image}: the file name {self.file_name!r} is not a path below the images folder."
                " Make it relative to --annotations.images_dir, without '..'."
            )
        if "\0" in self.file_name or any("\ud800" <= c <= "\udfff" for c in self.file_name):
            raise AnnotationError(
                f"{image}: no file can be named {self.file_name!r}: the name contains a NUL or an"
                " unpaired surrogate."
            )
        if self.annotated_size_hw is not None and min(self.annotated_size_hw) < 1:
            raise AnnotationError(
                f"{image}: size {self.annotated_size_hw} (height, width) is not positive."
            )
        if self.boxes_xyxy.shape != (len(self.labels), 4) or self.labels.ndim != 1:
            raise ShapeError(
                f"{image}: boxes {self.boxes_xyxy.shape} and labels {self.labels.shape} must be"
                " (R, 4) and (R,)."
            )
        if self.prompts is not None and len(self.prompts) != len(self.labels):
            raise ShapeError(
                f"{image}: {len(self.prompts)} prompts for {len(self.labels)} regions; wanted one"
                " per region."
            )
        if self.box_scores is not None and self.box_scores.shape != self.labels.shape:
            raise ShapeError(
                f"{image}: box_scores {self.box_scores.shape} and labels {self.labels.shape} must"
                " both be (R,)."
            )
        if self.box_scores is None and (self.labels < 0).any():
            raise AnnotationError(
                f"{image}: an annotated box has the label {self.labels.min()}; wanted the index of"
                " its class. Only proposals, which have box_scores, may have no class (-1)."
            )
        if self.box_unit == "relative" and self.annotated_size_hw is not None:
            raise ShapeError(
                f"{image}: boxes are relative, but the size {self.annotated_size_hw} is known. Use"
                " `relative_to_pixels` first."
            )

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels.

        Raises:
            AnnotationError: The annotations do not say, and the image was not decoded yet.
        """
        if self.annotated_size_hw is None:
            raise AnnotationError(
                f"image {self.image_id} ({self.file_name}): its annotations give no size. Decode"
                " it, and use record.resolved(size_hw)."
            )
        return self.annotated_size_hw

    def resolved(self, size_hw: tuple[int, int]) -> "ResolvedRecord":
        """Return the record with boxes in pixels of the decoded image, clipped to it.

        Args:
            size_hw: Height and width in pixels of the decoded image.

        Raises:
            ShapeError: The annotations give another size.
        """
        if self.annotated_size_hw is not None:
            if self.annotated_size_hw != size_hw:
                raise ShapeError(
                    f"image {self.image_id} ({self.file_name}) is annotated as"
                    f" {self.annotated_size_hw}, but decoded to {size_hw} (height, width)."
                )
            return ResolvedRecord(record=self, num_clipped=0, num_dropped=0)
        boxes_xyxy = self.boxes_xyxy
        if self.box_unit == "relative":
            boxes_xyxy = relative_to_pixels(boxes_xyxy, size_hw)
        clipped_xyxy = clip_boxes_xyxy(boxes_xyxy, size_hw)
        kept = np.flatnonzero(box_area(clipped_xyxy) > 0)
        rows = np.concatenate([clipped_xyxy[kept], self.labels[kept, None]], axis=1)
        kept = kept[np.sort(np.unique(rows, axis=0, return_index=True)[1])]
        record = replace(
            self,
            annotated_size_hw=size_hw,
            boxes_xyxy=clipped_xyxy[kept],
            labels=self.labels[kept],
            box_scores=None if self.box_scores is None else self.box_scores[kept],
            box_unit="pixel",
            prompts=self.prompts and tuple(self.prompts[region] for region in kept),
        )
        return ResolvedRecord(
            record=record,
            num_clipped=int((clipped_xyxy != boxes_xyxy)[kept].any(axis=1).sum()),
            num_dropped=len(self.labels) - len(kept),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedRecord:
    """A record whose image size is known, and how its regions changed."""

    record: ImageRecord
    """The record, its boxes in pixels and inside the image."""
    num_clipped: int
    """Regions whose box extended beyond the image."""
    num_dropped: int
    """Regions wholly outside the image, or that clipping made equal to an earlier one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RegionColumns:
    """The regions of all images, grouped by image. N images, R regions."""

    boxes_xyxy: NDArray[np.float32]
    """Boxes, (R, 4), in ``box_unit``."""
    labels: NDArray[np.int32]
    """Index of each region's class, (R,); -1 for proposals."""
    starts: NDArray[np.int64]
    """Where each image's regions start, and R at the end, (N + 1,)."""
    box_unit: BoxUnit
    """Unit of the boxes."""
    box_layout: BoxLayout
    """Layout of boxes in the file, for messages."""
    prompts: TextColumn | None = None
    """SAM's prompt for each region (see `region_prompts`), (R,); None if it is the box."""
    box_scores: NDArray[np.float32] | None = None
    """Score of each box, (R,), descending within an image; None for annotated boxes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordTable(Sequence[ImageRecord]):
    """A sequence of image records, held as columns; its slices are tables, too.

    Every access makes a new record, with arrays of its own.
    """

    images: ImageColumns
    """All images of the data set."""
    regions: RegionColumns
    """All their regions."""
    rows: range
    """Rows of the columns that are in the sequence."""

    @override
    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> ImageRecord: ...

    @overload
    def __getitem__(self, index: slice) -> "RecordTable": ...

    @override
    def __getitem__(self, index: int | slice) -> "ImageRecord | RecordTable":
        if isinstance(index, slice):
            return replace(self, rows=self.rows[index])
        row = self.rows[index]
        images, regions = self.images, self.regions
        own = slice(regions.starts[row], regions.starts[row + 1])
        height_width = None if images.sizes_hw is None else images.sizes_hw[row].tolist()
        return ImageRecord(
            key=images.keys[row],
            image_id=int(images.ids[row]),
            file_name=images.file_names[row],
            annotated_size_hw=None if height_width is None else (height_width[0], height_width[1]),
            boxes_xyxy=regions.boxes_xyxy[own].copy(),
            labels=regions.labels[own].astype(np.int64),
            box_unit=regions.box_unit,
            prompts=None
            if regions.prompts is None
            else tuple(regions.prompts[region] for region in range(own.start, own.stop)),
            box_scores=None if regions.box_scores is None else regions.box_scores[own].copy(),
        )

    def num_regions(self) -> NDArray[np.int64]:
        """Return how many regions each record has, (N,), without making any."""
        counts: NDArray[np.int64] = np.diff(self.regions.starts)
        return counts[self.rows.start : self.rows.stop : self.rows.step]

    def keys(self) -> list[str]:
        """Return the keys of all records, without making any."""
        return [self.images.keys[row] for row in self.rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatedImages:
    """A data set: images with annotated or proposed regions, their classes and their folder."""

    name: str
    """Name of the data set, for people."""
    format: str
    """Format of the annotation file, as given to ``--annotations.format``."""
    images_dir: Path | None
    """Folder that the records' file names are relative to; None if it is not on this machine."""
    vocabulary: Vocabulary
    """Class names, in the order of the data set's own category ids."""
    category_ids: tuple[int, ...]
    """The data set's own id of each class: ``category_ids[i]`` belongs to ``vocabulary[i]``.
    Formats without class ids (OpenImages, CSV) count from 0."""
    records: RecordTable
    """The images, in the order of the file; a sequence of `ImageRecord`."""
    annotation_sha256: str
    """Identity of the annotations, in hex: SHA-256 of the file's bytes; if other files or options
    (see `ReadOptions`) affect the regions, SHA-256 over all of them."""
    report: AnnotationReport
    """What was kept, clipped and dropped."""
    synonyms: tuple[tuple[str, ...], ...] | None = None
    """All names of each class, its own first (LVIS); None where the annotations list none."""
    proposals_sha256: str | None = None
    """Identity of the proposals, in hex: a hash of their file and of how they were filtered; None
    where regions are annotated boxes."""


# Every file name and size that `ImageRecord` refuses is among these, and hardly any other.
_SUSPECT_TEXT = re.compile(rb"\.\.|\0|\xed[\xa0-\xbf]")
_SUSPECT_STARTS, _SUSPECT_ENDS = b"/", b"/."


def check_names(records: RecordTable) -> None:
    """Make the records whose file name or size looks invalid, so that `ImageRecord` checks them.

    This finds invalid images without making millions of records.
    """
    images, column = records.images, records.images.file_names
    codes = np.frombuffer(column.data, np.uint8)
    filled = np.flatnonzero(column.ends - column.starts)
    is_suspect = column.ends == column.starts
    is_suspect[filled] |= np.isin(codes[column.starts[filled]], list(_SUSPECT_STARTS))
    is_suspect[filled] |= np.isin(codes[column.ends[filled] - 1], list(_SUSPECT_ENDS))
    places = [found.start() for found in _SUSPECT_TEXT.finditer(column.data)]
    is_suspect[np.searchsorted(column.ends, places, side="right")] = True
    if images.sizes_hw is not None:
        is_suspect |= (images.sizes_hw < 1).any(axis=1)
    for row in np.flatnonzero(is_suspect).tolist():
        records[row]
