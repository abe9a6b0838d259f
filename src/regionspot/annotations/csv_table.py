"""Reads CSV files of any size in blocks of rows.

Blocks of plain rows are cut at their commas all at once. Blocks with quotes, white space, blank
lines or rows of another length than the header go through the ``csv`` module, which is what
complains about them.
"""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from regionspot.annotations.csv_block import MAX_PADDED, CsvBlock, CsvColumn
from regionspot.annotations.files import ANNOTATIONS, HashedFile, empty_file_error, open_hashed
from regionspot.annotations.json_errors import UTF8_MARK
from regionspot.core.errors import AnnotationError

BLOCK_BYTES = 1 << 20
"""Bytes that are read at once; what is made of them stays in the processor's cache."""
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
        wanted: Names of the columns that are wanted; others are skipped.
        option: The option of ``--annotations`` that named the file, for messages.
        describe: Says what a file with another header is; None where it is unknown.
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
        """Yield all rows; `header` is known with the first block, `sha256` after the last.

        Raises:
            MissingFileError: There is no such file.
            AnnotationError: The file is empty, packed or not UTF-8, it lacks a column, or a row is
                longer or shorter than the header; names the line.
        """
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
        """Read on to the end of the row."""
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
        """Split rows at their commas; None where that would not do, or rows are not alike."""
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
                " on that line: a value that holds a quote is put in quotes, and doubles it."
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
    """Return a row of a file as it stands there, counted from 0 below the header."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = (row for row in csv.reader(file) if row)
        return ",".join(next(islice(rows, index + 1, None), ()))[:_MAX_SHOWN]


def _shown(header: Sequence[str]) -> str:
    text = ",".join(header)
    return repr(text if len(text) <= 120 else text[:117] + "...")
