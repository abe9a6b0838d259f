"""Millions of short texts in two arrays instead of as many objects."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Self

import numpy as np
from numpy.typing import NDArray


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
