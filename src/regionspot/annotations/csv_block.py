"""Columns of a block of CSV rows, as places in the text: what is not asked for is never cut out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from regionspot.core.errors import AnnotationError

MAX_PADDED = 32
"""Longest values that `CsvColumn.padded` can give."""

_DOT, _ZERO = b".0"
_MAX_DIGITS = 15  # numbers of so many digits are exact in float64, and so are powers of ten
_POWERS = 10.0 ** np.arange(_MAX_DIGITS + 1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CsvColumn:
    """Values of one column. A rows."""

    text: bytes
    """Where the values stand, and at least `MAX_PADDED` more bytes."""
    starts: NDArray[np.int64]
    """Where each value starts, (A,)."""
    ends: NDArray[np.int64]
    """Where it ends, (A,)."""

    @classmethod
    def from_values(cls, values: Iterable[bytes]) -> Self:
        """Make a column of single values."""
        parts = list(values)
        ends = np.fromiter(accumulate(map(len, parts)), np.int64, len(parts))
        starts = np.concatenate([[0], ends])[:-1]
        return cls(text=b"".join(parts) + bytes(MAX_PADDED), starts=starts, ends=ends)

    @property
    def width(self) -> int:
        """Length of the longest value, from 1 to `MAX_PADDED`."""
        longest = int((self.ends - self.starts).max(initial=1))
        return min(max(longest, 1), MAX_PADDED)

    @property
    def is_blank(self) -> NDArray[np.bool_]:
        """Whether nothing stands where a value could, (A,)."""
        blank: NDArray[np.bool_] = self.starts == self.ends
        return blank

    def take(self, rows: NDArray[np.bool_]) -> "CsvColumn":
        """Return the column of some rows."""
        return CsvColumn(text=self.text, starts=self.starts[rows], ends=self.ends[rows])

    def values(self) -> list[bytes]:
        """Return all values."""
        text, places = self.text, zip(self.starts.tolist(), self.ends.tolist(), strict=True)
        return [text[start:end] for start, end in places]

    def padded(self, width: int) -> NDArray[np.uint8] | None:
        """Return the codes of all values, padded with zeros to (A, width); None if one is longer.

        Args:
            width: At most `MAX_PADDED`.
        """
        lengths = self.ends - self.starts
        if (lengths > width).any():
            return None
        codes = np.frombuffer(self.text, np.uint8)
        padded = np.lib.stride_tricks.sliding_window_view(codes, width)[self.starts]
        if (lengths < width).any():
            padded *= np.arange(width) < lengths[:, None]
        return padded

    def short_values(self) -> list[bytes]:
        """Return all values, faster if they are short; they must not hold NUL."""
        padded = self.padded(self.width)
        return self.values() if padded is None else padded.view(f"S{self.width}")[:, 0].tolist()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CsvBlock:
    """Some consecutive rows."""

    path: Path
    """The file."""
    columns: Mapping[str, CsvColumn]
    """The wanted columns, as UTF-8, without quotes and white space around the values."""
    lines: Sequence[int]
    """Line on which each row ends, counted from 1."""

    def __len__(self) -> int:
        return len(self.lines)

    def is_blank(self, names: Iterable[str]) -> NDArray[np.bool_]:
        """Whether a row leaves all of some columns blank, (A,)."""
        blank: NDArray[np.bool_] = np.all([self.columns[name].is_blank for name in names], axis=0)
        return blank

    def take(self, rows: NDArray[np.bool_]) -> "CsvBlock":
        """Return some rows."""
        return CsvBlock(
            path=self.path,
            columns={name: column.take(rows) for name, column in self.columns.items()},
            lines=[line for line, is_taken in zip(self.lines, rows, strict=True) if is_taken],
        )

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column of numbers, as ``float`` reads them.

        Raises:
            AnnotationError: A value is no number; names the line.
        """
        column = self.columns[name]
        padded = column.padded(column.width)
        plain = None if padded is None else _plain_numbers(padded)
        try:
            return np.array(list(map(float, column.values()))) if plain is None else plain
        except ValueError as error:
            raise self.wrong_value(name, _is_number, "a number") from error

    def wrong_value(
        self, name: str, is_right: Callable[[bytes], bool], wanted: str
    ) -> AnnotationError:
        """Describe the first value of a column that is not right."""
        values = self.columns[name].values()
        row = next(row for row, value in enumerate(values) if not is_right(value))
        found = values[row].decode("utf-8", "replace")
        return AnnotationError(
            f"{self.path}, line {self.lines[row]}: {name} is {found!r}; wanted {wanted}."
        )


def _plain_numbers(padded: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    """Read values such as 0.012500 or 17, (A, width); None if any is spelled otherwise.

    A whole number of 15 digits divided by a power of ten is rounded once, so the result is the one
    that ``float`` gives, to the bit.
    """
    codes = np.ascontiguousarray(padded.T)  # character by character, for all values at once
    digits = codes - np.uint8(_ZERO)
    is_digit, is_dot = digits <= 9, codes == _DOT
    num_digits, num_dots = is_digit.sum(axis=0), is_dot.sum(axis=0)
    is_plain = (num_digits > 0) & (num_digits <= _MAX_DIGITS) & (num_dots <= 1)
    lengths = (codes != 0).sum(axis=0)
    if not (is_plain & (num_digits + num_dots == lengths)).all():
        return None
    whole = np.zeros(len(padded), np.float64)
    for digit, applies in zip(digits, is_digit, strict=True):
        whole = np.where(applies, whole * 10 + digit, whole)
    num_decimals = np.where(num_dots == 1, lengths - 1 - is_dot.argmax(axis=0), 0)
    return whole / _POWERS[num_decimals]


def _is_number(value: bytes) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
