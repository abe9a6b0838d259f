"""The content of an annotation file in columns, the same for all formats.

A reader knows only its format. What depends on an image or on other annotations is checked and
built into records in `regionspot.annotations.assembly`. Everything is in columns, since the largest
data sets have 25 million boxes; millions of short texts are held in two arrays. N images, A
annotations.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Self

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations.box_checks import BoxLayout
from regionspot.annotations.record import BoxUnit
from regionspot.annotations.report import Reason
from regionspot.core.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TextColumn:
    """A column of texts, held as UTF-8 one after the other. N texts."""

    data: bytes
    """All texts."""
    ends: NDArray[np.int64]
    """Where each text ends in ``data``, (N,)."""

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> Self:
        """Pack texts; `json` may have left lone surrogates in them, which come back as they are."""
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        ends = np.fromiter(accumulate(map(len, encoded)), np.int64, len(encoded))
        return cls(data=b"".join(encoded), ends=ends)

    @classmethod
    def of_equal_length(cls, codes: NDArray[np.uint8]) -> Self:
        """Pack texts of equal length, given as ASCII codes, (N, length)."""
        ends = codes.shape[1] * np.arange(1, len(codes) + 1, dtype=np.int64)
        return cls(data=codes.tobytes(), ends=ends)

    @classmethod
    def joined(cls, columns: Iterable["TextColumn"]) -> Self:
        """Put columns one below the other."""
        parts = list(columns)
        starts = accumulate((len(part.data) for part in parts), initial=0)
        shifted = [part.ends + start for part, start in zip(parts, starts, strict=False)]
        ends = np.concatenate([np.zeros(0, np.int64), *shifted])
        return cls(data=b"".join(part.data for part in parts), ends=ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> str:
        if not 0 <= row < len(self.ends):
            raise IndexError(f"row {row} of a column of {len(self.ends)} texts.")
        start = int(self.ends[row - 1]) if row else 0
        return self.data[start : int(self.ends[row])].decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        start = 0
        for end in self.ends.tolist():
            yield self.data[start:end].decode("utf-8", "surrogatepass")
            start = end

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each text starts in ``data``, (N,)."""
        return np.concatenate([[0], self.ends])[:-1]

    def take(self, rows: NDArray[np.int64]) -> "TextColumn":
        """Return the column of some rows."""
        return TextColumn.from_texts(self[row] for row in rows.tolist())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageColumns:
    """The images; row ``i`` of each column is image ``i``."""

    ids: NDArray[np.int64]
    """The data set's own ids, (N,)."""
    keys: TextColumn
    """Names of the samples in shards."""
    file_names: TextColumn
    """Paths below the images folder, with ``/`` between folders."""
    sizes_hw: NDArray[np.int64] | None
    """Heights and widths in pixels, (N, 2); None if the file does not say."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RawAnnotations:
    """A file's content; row ``i`` of the columns of length A is annotation ``i``."""

    images: ImageColumns
    """Each image once, in the order of the file."""
    vocabulary: Vocabulary
    """The class names."""
    category_ids: tuple[int, ...]
    """The data set's own id of each class."""
    image_rows: NDArray[np.int32]
    """Row of each annotation's image, (A,); -1 if the file does not list it."""
    labels: NDArray[np.int32]
    """Index of each annotation's class in the vocabulary, (A,); -1 if it is not there."""
    boxes_xyxy: NDArray[np.float32]
    """Boxes, (A, 4), in ``box_unit``."""
    faults: NDArray[np.int8]
    """What is wrong with each box alone, (A,); see `box_checks`. A bad box is 0."""
    marks: Mapping[Reason, NDArray[np.bool_]]
    """Annotations that are of a special kind and may be dropped for it, (A,) each."""
    sha256s: tuple[str, ...]
    """SHA-256 of each file that has a say in the regions, in hex; the annotation file first."""
    box_unit: BoxUnit = "pixel"
    """What box coordinates count."""
    box_layout: BoxLayout = "xywh"
    """How the file writes boxes."""
    scores: NDArray[np.float32] | None = None
    """Score of each box, (A,), if they are proposals, whose label is -1; of each image the best
    first. None for annotations."""
    positions: NDArray[np.int64] | None = None
    """Where in the file each row stands, (A,); None if row ``i`` is annotation ``i``."""
    num_repeated_images: int = 0
    """Further entries of images that the file lists more than once, identically."""
    num_rotated_images: int = 0
    """Images that are known to be stored on their side or upside down."""
    entries: str = "annotations"
    """What the file calls its annotations, for messages."""
    show: Callable[[int], str] = lambda _: ""
    """Gives the text of an annotation in the file, by its position there, for messages."""
    prompts: TextColumn | None = None
    """What SAM is shown of each annotation in place of its box; see `region_prompts`."""
    synonyms: tuple[tuple[str, ...], ...] | None = None
    """All names of each class, its own first; None if the file lists none."""
    notes: tuple[str, ...] = ()
    """What else a person should know, one sentence each."""
