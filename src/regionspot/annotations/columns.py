"""The content of an annotation file in columns, the same for all formats.

A reader knows only its format; `regionspot.annotations.assembly` checks what depends on an image or
on other annotations, and builds the records. Columns, since the largest data sets have 25 million
boxes; millions of short texts are held in two arrays. N images, A annotations.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from regionspot.annotations.box_checks import BoxLayout, BoxUnit
from regionspot.annotations.report import Reason
from regionspot.core.vocabulary import Vocabulary

_ESCAPED = re.compile(rb"[^A-Za-z0-9_]")
_HEX_BYTE = re.compile(rb"-([0-9a-f]{2})")
_MAX_KEY_LENGTH = 80


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TextColumn:
    """A column of N texts, stored as concatenated UTF-8."""

    data: bytes
    """All texts."""
    ends: NDArray[np.int64]
    """Where each text ends in ``data``, (N,)."""

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> Self:
        """Pack texts; unpaired surrogates, which `json` accepts, are kept."""
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
        """Concatenate columns."""
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


class GrowingColumns:
    """Named columns that grow piece by piece.

    Args:
        dtypes: Type of each column; ``(dtype, 4)`` for one of four values per row.
    """

    def __init__(self, **dtypes: DTypeLike) -> None:
        # The empty piece in front gives type and shape, also to a column that never grows.
        self._pieces = {name: [np.zeros(0, dtype)] for name, dtype in dtypes.items()}

    def add(self, **pieces: ArrayLike) -> None:
        """Append a piece to each of some columns."""
        for name, piece in pieces.items():
            column = self._pieces[name]
            values = np.asarray(piece, column[0].dtype)
            column.append(values.reshape(-1, *column[0].shape[1:]))

    def pop(self, name: str) -> NDArray[Any]:
        """Return a whole column, and free its pieces."""
        column = self._pieces[name]
        joined = np.concatenate(column)
        del column[1:]  # at 25 million boxes, holding both would take a gigabyte more
        return joined

    def pop_all(self, *names: str) -> dict[str, Any]:
        """Return whole columns by name, and free their pieces."""
        return {name: self.pop(name) for name in names}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageColumns:
    """The images; row ``i`` of each column is image ``i``."""

    ids: NDArray[np.int64]
    """The data set's own ids, (N,)."""
    keys: TextColumn
    """Names of the samples in shards."""
    file_names: TextColumn
    """Paths relative to the images folder, with ``/`` between folders."""
    sizes_hw: NDArray[np.int64] | None = None
    """Heights and widths in pixels, (N, 2); None if the file does not say."""

    @classmethod
    def from_file_names(
        cls, file_names: Iterable[str], sizes_hw: NDArray[np.int64] | None = None
    ) -> Self:
        """Number images without ids from 0, and derive their keys from their paths."""
        names = TextColumn.from_texts(file_names)
        keys = TextColumn.from_texts(map(image_key, names))
        ids = np.arange(len(names), dtype=np.int64)
        return cls(ids=ids, keys=keys, file_names=names, sizes_hw=sizes_hw)

    def __len__(self) -> int:
        return len(self.ids)


def image_key(file_name: str) -> str:
    """Return the key of an image: its path, spelled with ``A-Z a-z 0-9 _ -`` only.

    Any other byte of the UTF-8 path, the hyphen included, becomes a hyphen and its two hex digits:
    ``cats/tom-1.jpg`` gives ``cats-2ftom-2d1-2ejpg``. Different paths have different keys. A key
    above 80 characters becomes two hyphens, which start no other key, and the path's SHA-256.
    """
    path = file_name.encode("utf-8", "surrogatepass")
    key = _ESCAPED.sub(lambda found: b"-%02x" % found.group()[0], path).decode("ascii")
    return key if len(key) <= _MAX_KEY_LENGTH else f"--{sha256(path).hexdigest()}"


def image_file_name(key: str) -> str | None:
    """Return the path that `image_key` made a key of.

    Returns:
        The path; None if the key is another text, such as the number that COCO gives an image, or
        the hash of a long path.
    """
    path = _HEX_BYTE.sub(lambda found: bytes([int(found[1], 16)]), key.encode("ascii"))
    try:
        name = path.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None
    return name if "." in name and image_key(name) == key else None


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
    """Boxes, (A, 4), in ``box_unit``; 0 where ``faults`` has a reason."""
    faults: NDArray[np.int8]
    """What is wrong with each box by itself, (A,); see `box_checks.check_xywh`."""
    marks: Mapping[Reason, NDArray[np.bool_]]
    """Annotations of special kinds, which options may drop, (A,) each."""
    sha256s: tuple[str, ...]
    """SHA-256 of each file that affects the regions, in hex; the annotation file first."""
    box_unit: BoxUnit = "pixel"
    """Unit of the boxes."""
    box_layout: BoxLayout = "xywh"
    """Layout of boxes in the file."""
    scores: NDArray[np.float32] | None = None
    """Score of each box, (A,), descending within an image, if they are proposals, whose label is
    -1. None for annotations."""
    positions: NDArray[np.int64] | None = None
    """Position of each row in the file, (A,); None if row ``i`` is annotation ``i``."""
    num_repeated_images: int = 0
    """Further entries of images that the file lists more than once, identically."""
    num_rotated_images: int = 0
    """Images known to be stored on their side or upside down."""
    entries: str = "annotations"
    """What the file calls its annotations, for messages."""
    show: Callable[[int], str] = lambda _: ""
    """Returns the text of an annotation by its position in the file, for messages."""
    prompts: TextColumn | None = None
    """SAM's prompt for each annotation (see `region_prompts`); None if it is the box."""
    synonyms: tuple[tuple[str, ...], ...] | None = None
    """All names of each class, its own first; None if the file lists none."""
    notes: tuple[str, ...] = ()
    """What else users should know, one sentence each."""
