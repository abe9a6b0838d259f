"""What a format's reader hands over: the file's content in one shape, not yet judged.

A reader only knows its format. Judging boxes, counting what is dropped and building records is done
once for all formats, in `regionspot.annotations.assembly`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class RawImage:
    """One entry of a file's list of images."""

    image_id: int
    """The data set's own id."""
    file_name: str
    """Path below the images folder, with ``/`` between folders."""
    size_hw: tuple[int, int]
    """Height and width in pixels."""

    @property
    def key(self) -> str:
        """Name of the sample in a shard; as long as COCO's file names."""
        return f"{self.image_id:012d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawCategory:
    """One entry of a file's list of categories."""

    category_id: int
    """The data set's own id."""
    name: str
    """The class name, as the file spells it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawAnnotations:
    """A file's content. Row ``i`` of each array is annotation ``i``; values may be anything."""

    images: Sequence[RawImage]
    """In the order of the file; may repeat."""
    categories: Sequence[RawCategory]
    """In any order."""
    image_ids: NDArray[np.int64]
    """Image of each annotation, (N,)."""
    category_ids: NDArray[np.int64]
    """Category of each annotation, (N,)."""
    boxes_xywh: NDArray[np.float64]
    """(x, y, width, height) in pixels of the original image, (N, 4)."""
    has_box: NDArray[np.bool_]
    """False where the file gives no four numbers, (N,); that row of ``boxes_xywh`` is void."""
    is_crowd: NDArray[np.bool_]
    """True where the annotation covers a crowd, (N,)."""
    sha256: str
    """Identity of the file or files, in hex."""
