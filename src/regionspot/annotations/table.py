"""A data set's records, made when they are asked for.

Columns take a tenth of the memory of records. Images that no record can be made of are found
without making millions of records.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from regionspot.annotations.box_checks import BoxLayout
from regionspot.annotations.columns import ImageColumns, TextColumn
from regionspot.annotations.record import BoxUnit, ImageRecord
from regionspot.annotations.report import AnnotationReport
from regionspot.core.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RegionColumns:
    """The regions of all images, those of one image next to each other. N images, R regions."""

    boxes_xyxy: NDArray[np.float32]
    """Boxes, (R, 4), in ``box_unit``."""
    labels: NDArray[np.int32]
    """Index of each region's class, (R,); -1 for proposals."""
    starts: NDArray[np.int64]
    """Where each image's regions start, and R at the end, (N + 1,)."""
    box_unit: BoxUnit
    """What box coordinates count."""
    box_layout: BoxLayout
    """How the file writes boxes, for messages."""
    prompts: TextColumn | None = None
    """What SAM is shown of each region in place of its box (see `region_prompts`), (R,)."""
    box_scores: NDArray[np.float32] | None = None
    """Score of each box, (R,), of each image the best first; None for annotated boxes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordTable(Sequence[ImageRecord]):
    """A sequence of image records that holds columns; slices of it are such sequences, too.

    Every access makes a new record, with arrays of its own.
    """

    images: ImageColumns
    """All images of the data set."""
    regions: RegionColumns
    """All their regions."""
    rows: range
    """Which images the sequence has, as rows of the columns."""

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
            return RecordTable(images=self.images, regions=self.regions, rows=self.rows[index])
        row = self.rows[index]
        images, regions = self.images, self.regions
        own = slice(regions.starts[row], regions.starts[row + 1])
        scores = None if regions.box_scores is None else regions.box_scores[own].copy()
        size_hw = None if images.sizes_hw is None else images.sizes_hw[row].tolist()
        return ImageRecord(
            key=images.keys[row],
            image_id=int(images.ids[row]),
            file_name=images.file_names[row],
            annotated_size_hw=None if size_hw is None else (size_hw[0], size_hw[1]),
            boxes_xyxy=regions.boxes_xyxy[own].copy(),
            labels=regions.labels[own].astype(np.int64),
            box_unit=regions.box_unit,
            prompts=None
            if regions.prompts is None
            else tuple(regions.prompts[region] for region in range(own.start, own.stop)),
            box_scores=scores,
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
    """A data set: images with annotated or proposed regions, the classes, where the pixels are."""

    name: str
    """Name of the data set, for people."""
    format: str
    """Format of the annotation file, as given to ``--annotations.format``."""
    images_dir: Path | None
    """Folder that the records' file names are relative to; None if it is not on this machine."""
    vocabulary: Vocabulary
    """Class names, in the order of the data set's own category ids."""
    category_ids: tuple[int, ...]
    """The data set's own id of each class: ``category_ids[i]`` belongs to ``vocabulary[i]``. Where
    classes have no numbers of their own (OpenImages, CSV), they are counted from 0."""
    records: RecordTable
    """The images, in the order of the file; a sequence of `ImageRecord`."""
    annotation_sha256: str
    """Identity of the annotations, in hex: SHA-256 of the file's bytes; if another file or an
    option (see `ReadOptions`) has a say in the regions, SHA-256 over all of them."""
    report: AnnotationReport
    """What was kept, clipped and dropped."""
    synonyms: tuple[tuple[str, ...], ...] | None = None
    """All names of each class, its own first (LVIS); None where the annotations list none."""
    proposals_sha256: str | None = None
    """Identity of the proposals, in hex: a hash of their file and of which of them were asked for;
    None where regions are annotated boxes."""


# Every file name and size that `ImageRecord` refuses is among these, and hardly any other.
_SUSPECT_TEXT = re.compile(rb"\.\.|\0|\xed[\xa0-\xbf]")
_SUSPECT_STARTS, _SUSPECT_ENDS = b"/", b"/."


def check_names(records: RecordTable) -> None:
    """Make the records that may be refused.

    Raises:
        AnnotationError: One is.
    """
    images = records.images
    column = images.file_names
    codes = np.frombuffer(column.data, np.uint8)
    lengths = column.ends - column.starts
    filled = np.flatnonzero(lengths)
    is_suspect = lengths == 0
    is_suspect[filled] |= np.isin(codes[column.starts[filled]], list(_SUSPECT_STARTS))
    is_suspect[filled] |= np.isin(codes[column.ends[filled] - 1], list(_SUSPECT_ENDS))
    places = [found.start() for found in _SUSPECT_TEXT.finditer(column.data)]
    is_suspect[np.searchsorted(column.ends, places, side="right")] = True
    if images.sizes_hw is not None:
        is_suspect |= (images.sizes_hw < 1).any(axis=1)
    for row in np.flatnonzero(is_suspect).tolist():
        records[row]
