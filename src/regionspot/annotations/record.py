"""What every annotation format is read into: images with labelled boxes, and their vocabulary."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations.report import AnnotationReport
from regionspot.core.errors import AnnotationError, ShapeError
from regionspot.core.vocabulary import Vocabulary

_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """One image of a data set and its annotated regions; row ``i`` of the arrays is region ``i``.

    Raises:
        AnnotationError: The key, file name or size cannot be used.
        ShapeError: The arrays do not have one row a region.
    """

    key: str
    """Name of the image's sample in a WebDataset shard: letters, digits, ``_``, ``-``; unique."""
    image_id: int
    """The data set's own image id."""
    file_name: str
    """Path of the image below the data set's ``images_dir``, with ``/`` between folders."""
    size_hw: tuple[int, int]
    """Height and width in pixels, as the annotations say."""
    boxes_xyxy: NDArray[np.float32]
    """Boxes, (R, 4), pixels of the original image, inside it and of positive area."""
    labels: NDArray[np.int64]
    """Index of each region's class in the vocabulary, (R,)."""

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
        if min(self.size_hw) < 1:
            raise AnnotationError(
                f"image {self.image_id}: size {self.size_hw} (height, width) is not positive."
            )
        if self.boxes_xyxy.shape != (len(self.labels), 4) or self.labels.ndim != 1:
            raise ShapeError(
                f"image {self.image_id}: boxes {self.boxes_xyxy.shape} and labels"
                f" {self.labels.shape} must be (R, 4) and (R,)."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatedImages:
    """A data set: images with labelled regions, the classes, and where the pixels are."""

    name: str
    """Name of the data set, for people."""
    format: str
    """Format of the annotation file, as given to ``--annotations.format``."""
    images_dir: Path
    """Folder that the records' file names are relative to."""
    vocabulary: Vocabulary
    """Class names, in the order of the data set's own category ids."""
    category_ids: tuple[int, ...]
    """The data set's own id of each class: ``category_ids[i]`` belongs to ``vocabulary[i]``."""
    records: Sequence[ImageRecord]
    """The images, in the order of the file."""
    annotation_sha256: str
    """Identity of the annotation file: SHA-256 of its bytes, in hex."""
    report: AnnotationReport
    """What was kept, clipped and dropped."""
