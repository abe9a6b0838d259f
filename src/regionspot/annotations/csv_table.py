"""Reads CSV files of any size in blocks of rows.

A block of plain rows is split at all commas at once; its columns are positions in the text. Blocks
with quotes, white space, blank lines or rows of another length than the header go through the `csv`
module, which reports their errors.
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations.json_lists import UTF8_MARK
from regionspot.annotations.opening import ANNOTATIONS, HashedFile, empty_file_error, open_hashed
from regionspot.core.errors import AnnotationError

MAX_PADDED = 32
"""Length of the longest values that `CsvColumn.padded` supports."""

_DOT, _ZERO = b".0"
_MAX_DIGITS = 15  # numbers of so many digits are exact in float64, and so are powers of ten
_POWERS = 10.0 ** np.arange(_MAX_DIGITS + 1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CsvColumn:
    """The A values of one column."""

    text: bytes
    """A text that contains them, and at least `MAX_PADDED` more bytes."""
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

    def take(self, rows: NDArray[np.bool_]) -> "CsvColumn":
        """Return the column of some rows."""
        return CsvColumn(text=self.text, starts=self.starts[rows], ends=self.ends[rows])

    def values(self) -> list[bytes]:
        """Return all values."""
        text, places = self.text, zip(self.starts.tolist(), self.ends.tolist(), strict=True)
        return [text[start:end] for start, end in places]

    def padded(self, width: int) -> NDArray[np.uint8] | None:
        """Return the codes of all values, zero-padded to (A, width); None if one is longer."""
        lengths = self.ends - self.starts
        if (lengths > width).any():
            return None
        codes = np.frombuffer(self.text, np.uint8)
        padded = np.lib.stride_tricks.sliding_window_view(codes, width)[self.starts]
        if (lengths < width).any():
            padded *= np.arange(width) < lengths[:, None]
        return padded

    def short_values(self) -> list[bytes]:
        """Return all values, faster if they are short; they must not contain NUL."""
        padded = self.padded(self.width)
        return self.values() if padded is None else padded.view(f"S{self.width}")[:, 0].tolist()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CsvBlock:
    """A consecutive rows."""

    path: Path
    """The file."""
    columns: Mapping[str, CsvColumn]
    """The wanted columns, in UTF-8, without quotes and white space around the values."""
    lines: Sequence[int]
    """Line on which each row ends, counted from 1."""

    def __len__(self) -> int:
        return len(self.lines)

    def is_blank(self, names: Iterable[str]) -> NDArray[np.bool_]:
        """Whether a row leaves all of some columns blank, (A,)."""
        columns = [self.columns[name] for name in names]
        blank: NDArray[np.bool_] = np.all([c.starts == c.ends for c in columns], axis=0)
        return blank

    def take(self, rows: NDArray[np.bool_]) -> "CsvBlock":
        """Return some rows."""
        return CsvBlock(
            path=self.path,
            columns={name: column.take(rows) for name, column in self.columns.items()},
            lines=[line for line, is_taken in zip(self.lines, rows, strict=True) if is_taken],
        )

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column of numbers, as ``float`` reads them."""
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
        """Return an error about the first value of a column that is not right."""
        values = self.columns[name].values()
        row = next(row for row, value in enumerate(values) if not is_right(value))
        found = values[row].decode("utf-8", "replace")
        return AnnotationError(
            f"{self.path}, line {self.lines[row]}: {name} is {found!r}; wanted {wanted}."
        )


def _plain_numbers(padded: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    """Read values such as 0.012500 or 17, (A, width); None if any is spelled otherwise.

    A whole number of 15 digits divided by a power of ten is rounded once, so the result is that of
    ``float``, to the bit.
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


BLOCK_BYTES = 1 << 20
"""Bytes that are read at once; their arrays fit in the processor's cache."""
# No character above U+3000 is white space.
_WHITE_SPACE = [chr(code).encode() for code in range(0x3001) if chr(code).isspace()]
_NOT_PLAIN = (b'"', b"\0", *(code for code in _WHITE_SPACE if code.isascii() and code != b"\n"))
_WIDE_WHITE_SPACE = tuple(code for code in _WHITE_SPACE if not code.isascii())

_MAX_SHOWN = 200
_QUOTED_BYTES = 1 << 20
_COMMA, _LINE_BREAK = b",\n"


class CsvTable:
    """A CSV file with a header line.

    Args:
        path: The file.
        wanted: Names of the wanted columns; others are skipped.
        option: The option of ``--annotations`` that gave the file, for messages.
        describe: Describes a file with another header; None if it is unknown.
        block_bytes: Bytes that are read at once.
    """

    def __init__(
        self,
        path: Path,
        wanted: Sequence[str],
        *,
        option: str = "path",
        describe: Callable[[Sequence[str]], str | None] = lambda _: None,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self._path, self._wanted, self._option = path, wanted, option
        self._describe = describe
        self._block_bytes = block_bytes
        self._num_lines = 0
        self._places: Mapping[str, int] = {}
        self.header: Sequence[str] = ()
        self.sha256 = ""

    def blocks(self) -> Iterator[CsvBlock]:
        """Yield all rows; `header` is known with the first block, `sha256` after the last."""
        role = replace(ANNOTATIONS, option=f"--annotations.{self._option}")
        with open_hashed(self._path, "csv", role=role) as file:
            self._read_header(file)
            while data := file.read(self._block_bytes):
                yield self._block(self._completed(data, file))
            self.sha256 = file.sha256

    def _read_header(self, file: HashedFile) -> None:
        line = file.read_line()
        while line and not line.removeprefix(UTF8_MARK).strip():
            self._num_lines += 1
            line = file.read_line()
        if not line:
            raise empty_file_error(self._path, file.num_bytes, ANNOTATIONS)
        self._num_lines += 1
        try:
            rows = list(csv.reader([line.removeprefix(UTF8_MARK).decode()], strict=True))
        except (UnicodeDecodeError, csv.Error):
            rows = [[repr(line[:40])]]
        self.header = [name.strip() for name in rows[0]]
        missing = [name for name in self._wanted if name not in self.header]
        repeated = {name for name in self._wanted if self.header.count(name) > 1}
        if missing or repeated:
            problem = f"has no column {', '.join(missing)}" if missing else "repeats a column"
            found = self._describe(self.header)
            raise AnnotationError(
                f"{self._path} {problem}. Its first line is {_shown(self.header)}"
                f"{f': it is {found}' if found else ''}. Wanted a header with the columns"
                f" {','.join(self._wanted)}, in any order. Set --annotations.{self._option} to such"
                " a file."
            )
        self._places = {name: self.header.index(name) for name in self._wanted}

    def _completed(self, data: bytes, file: HashedFile) -> bytes:
        """Complete the last row."""
        data += file.read_line() if not data.endswith(b"\n") else b""
        num_quotes, start = data.count(b'"') if b'"' in data else 0, len(data)
        while num_quotes % 2 and len(data) - start < _QUOTED_BYTES:
            line = file.read_line()  # the line break was inside quotes
            if not line:
                break
            data += line
            num_quotes += line.count(b'"')
        return data if data.endswith(b"\n") else data + b"\n"

    def _block(self, data: bytes) -> CsvBlock:
        data = data.replace(b"\r\n", b"\n") if b"\r" in data else data
        if (block := self._split(data)) is not None:
            self._num_lines += len(block)
            return block
        block = self._parsed(data)
        self._num_lines += data.count(b"\n")
        return block

    def _split(self, data: bytes) -> CsvBlock | None:
        """Split rows at their commas; None unless all are plain and of equal length."""
        if any(code in data for code in _NOT_PLAIN):
            return None
        if not data.isascii() and any(code in data for code in _WIDE_WHITE_SPACE):
            return None
        width = len(self.header)
        codes = np.frombuffer(data, np.uint8)
        ends = np.flatnonzero((codes == _COMMA) | (codes == _LINE_BREAK))
        is_break = codes[ends] == _LINE_BREAK
        num_rows = int(is_break.sum())
        if len(ends) != num_rows * width or not is_break[width - 1 :: width].all():
            return None
        starts = np.concatenate([[0], ends[:-1] + 1])
        text = data + bytes(MAX_PADDED)
        first = self._num_lines + 1
        return CsvBlock(
            path=self._path,
            columns={
                name: CsvColumn(text=text, starts=starts[place::width], ends=ends[place::width])
                for name, place in self._places.items()
            },
            lines=range(first, first + num_rows),
        )

    def _parsed(self, data: bytes) -> CsvBlock:
        columns: dict[str, list[bytes]] = {name: [] for name in self._wanted}
        lines: list[int] = []
        reader = csv.reader(self._decoded_lines(data), strict=True)
        try:
            for row in reader:
                line = self._num_lines + reader.line_num
                if not row:
                    continue
                if len(row) != len(self.header):
                    raise AnnotationError(
                        f"{self._path}, line {line} has {len(row)} values; wanted"
                        f" {len(self.header)}, as in the header {_shown(self.header)}."
                    )
                lines.append(line)
                for name, place in self._places.items():
                    columns[name].append(row[place].strip().encode())
        except csv.Error as error:
            raise AnnotationError(
                f"{self._path}, line {self._num_lines + reader.line_num}: {error}. Check the quotes"
                " on that line: a value that contains quotes is quoted, and doubles them."
            ) from error
        return CsvBlock(
            path=self._path,
            columns={name: CsvColumn.from_values(column) for name, column in columns.items()},
            lines=lines,
        )

    def _decoded_lines(self, data: bytes) -> Iterator[str]:
        for number, line in enumerate(data.splitlines(keepends=True), start=1):
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                raise AnnotationError(
                    f"{self._path}, line {self._num_lines + number} is not UTF-8 text"
                    f" ({line[error.start : error.start + 8]!r}). Save the file as UTF-8."
                ) from error


def row_text(path: Path, index: int) -> str:
    """Return the text of a row, counted from 0 below the header."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = (row for row in csv.reader(file) if row)
        return ",".join(next(islice(rows, index + 1, None), ()))[:_MAX_SHOWN]


def _shown(header: Sequence[str]) -> str:
    text = ",".join(header)
    return repr(text if len(text) <= 120 else text[:117] + "...")
