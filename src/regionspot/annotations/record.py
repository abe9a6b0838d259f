"""The record that every annotation format is read into: an image and its regions."""

import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from regionspot.core.errors import AnnotationError, ShapeError
from regionspot.core.geometry import box_area, clip_boxes_xyxy, relative_to_pixels

BoxUnit = Literal["pixel", "relative"]
"""What box coordinates count: pixels of the original image, or its width and height as 1."""

_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """One image of a data set and its regions; row ``i`` of the arrays is region ``i``.

    Regions are annotated boxes, which have a class, or proposals, which have a score.

    Some annotation files do not say how large an image is. Its record becomes an ordinary one by
    `resolved`, once the image is decoded.

    Raises:
        AnnotationError: The key, file name or size cannot be used, or an annotated box has no
            class.
        ShapeError: The arrays do not have one row a region, or boxes are relative although the
            size is known.
    """

    key: str
    """Name of the image's sample in a WebDataset shard: letters, digits, ``_``, ``-``; unique."""
    image_id: int
    """The data set's own image id."""
    file_name: str
    """Path of the image below the data set's ``images_dir``, with ``/`` between folders."""
    annotated_size_hw: tuple[int, int] | None
    """Height and width in pixels, as the annotations say; None if they do not."""
    boxes_xyxy: NDArray[np.float32]
    """Boxes, (R, 4), in ``box_unit``, of positive area and inside the image; if the size is not
    known, boxes in pixels may reach over its right and lower edge."""
    labels: NDArray[np.int64]
    """Index of each region's class in the vocabulary, (R,); -1, no class known, for proposals."""
    box_unit: BoxUnit = "pixel"
    """What the boxes count; always pixels where the size is known."""
    prompts: tuple[str, ...] | None = None
    """What SAM is shown of each region in place of its box (see `region_prompts`); None if it is
    the box."""
    box_scores: NDArray[np.float32] | None = None
    """How sure the detector was of each box, 0 to 1, (R,), the best first; None for annotated
    boxes."""

    def __post_init__(self) -> None:
        if not _KEY.fullmatch(self.key):
            raise AnnotationError(
                f"image {self.image_id}: {self.key!r} cannot name a sample of a tar shard; keys are"
                " made of letters, digits, '_' and '-'."
            )
        path = PurePosixPath(self.file_name)
        if not path.name or path.is_absolute() or ".." in path.parts:
            raise AnnotationError(
                f"image {self.image_id}: the file name {self.file_name!r} is not a path below the"
                " images folder. Make it relative to --annotations.images_dir, without '..'."
            )
        if "\0" in self.file_name or not _is_text(self.file_name):
            raise AnnotationError(
                f"image {self.image_id}: no file can be named {self.file_name!r}: it has a NUL or"
                " half of a character pair (surrogate)."
            )
        if self.annotated_size_hw is not None and min(self.annotated_size_hw) < 1:
            raise AnnotationError(
                f"image {self.image_id}: size {self.annotated_size_hw} (height, width) is not"
                " positive."
            )
        if self.boxes_xyxy.shape != (len(self.labels), 4) or self.labels.ndim != 1:
            raise ShapeError(
                f"image {self.image_id}: boxes {self.boxes_xyxy.shape} and labels"
                f" {self.labels.shape} must be (R, 4) and (R,)."
            )
        if self.prompts is not None and len(self.prompts) != len(self.labels):
            raise ShapeError(
                f"image {self.image_id}: {len(self.prompts)} prompts for {len(self.labels)}"
                " regions; wanted one a region."
            )
        self._check_scores()
        if self.box_unit == "relative" and self.annotated_size_hw is not None:
            raise ShapeError(
                f"image {self.image_id}: boxes are relative, but the size"
                f" {self.annotated_size_hw} is known. Use `relative_to_pixels` first."
            )

    def _check_scores(self) -> None:
        if self.box_scores is None:
            if (self.labels < 0).any():
                raise AnnotationError(
                    f"image {self.image_id}: an annotated box has the label {self.labels.min()};"
                    " wanted the index of its class. Only proposals, which have box_scores, may"
                    " have no known class (-1)."
                )
        elif self.box_scores.shape != self.labels.shape:
            raise ShapeError(
                f"image {self.image_id}: box_scores {self.box_scores.shape} and labels"
                f" {self.labels.shape} must both be (R,)."
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
        """Give the record boxes in pixels of the decoded image, clipped to it.

        Args:
            size_hw: Height and width in pixels of the image as decoded.

        Raises:
            ShapeError: The annotations say another size.
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
            prompts=None
            if self.prompts is None
            else tuple(self.prompts[region] for region in kept),
        )
        return ResolvedRecord(
            record=record,
            num_clipped=int((clipped_xyxy != boxes_xyxy)[kept].any(axis=1).sum()),
            num_dropped=len(self.labels) - len(kept),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedRecord:
    """A record that knows the size of its image, and what became of its regions on the way."""

    record: ImageRecord
    """The record, its boxes in pixels and inside the image."""
    num_clipped: int
    """Regions whose box reached over the image's edge."""
    num_dropped: int
    """Regions that lie wholly outside, or that clipping made equal to an earlier one."""


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
