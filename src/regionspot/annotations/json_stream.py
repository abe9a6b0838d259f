"""Reads a JSON file of any size in pieces of bounded size.

The lists and objects that are values of the outermost object (``images``, ``annotations``, ...), or
the outermost list itself, are called containers. They are cut between two of their entries; each
piece can be decoded by itself. What is left of the file when the containers are emptied, its
skeleton, is small, and checked as a whole.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np

from regionspot.annotations.json_errors import (
    UTF8_MARK,
    cut_off_error,
    encoding_error,
    is_cut_off,
    repeated_key_error,
    syntax_error,
    undecodable_error,
)
from regionspot.annotations.json_piece import JsonPiece, decoded, num_bytes
from regionspot.annotations.json_scan import Structure, StructureScanner
from regionspot.annotations.json_skeleton import CLOSINGS, STAND_INS, WHITE_SPACE, Skeleton
from regionspot.annotations.opening import (
    ANNOTATIONS,
    FileRole,
    HashedFile,
    empty_file_error,
    open_hashed,
)

PIECE_BYTES = 1 << 20
"""Size of a piece: what is made of one stays in the processor's cache. With 8 MB reading takes half
as long again, with 128 KB a quarter."""

_SCALAR_BYTES = 1 << 20


class JsonStream:
    """Cuts one file into pieces; `skeleton` and `sha256` are known when all have been taken.

    Args:
        path: The file.
        piece_bytes: Bytes of a piece, unless a single entry is longer.
        role: What the file is for, for messages.
    """

    def __init__(
        self, path: Path, *, piece_bytes: int = PIECE_BYTES, role: FileRole = ANNOTATIONS
    ) -> None:
        self._path = path
        self._role = role
        self._piece_bytes = piece_bytes
        self._scanner = StructureScanner()
        self._skeleton = Skeleton()
        self._container: _Container | None = None
        self._level = 0
        self._is_closed = False
        self.skeleton: object = None
        self.sha256 = ""

    def pieces(self) -> Iterator[JsonPiece]:
        """Yield the pieces in the order of the file.

        Raises:
            MissingFileError: There is no such file.
            AnnotationError: The file is empty, packed, cut off, not JSON, or its outermost object
                has a key twice; the message says where.
        """
        with open_hashed(self._path, "json", role=self._role) as file:
            offset, chunk = self._first_chunk(file)
            if chunk[:1] not in STAND_INS:  # a number or text, but most likely not JSON at all
                self._skeleton.add(chunk + file.read(_SCALAR_BYTES), offset)
                chunk = b""
            self._level = 1 if chunk[:1] == b"[" else 2
            while chunk:
                if self._is_closed:
                    self._skeleton.add_after_end(chunk, offset)
                else:
                    yield from self._cut(chunk, offset)
                offset += len(chunk)
                chunk = file.read(self._piece_bytes)
            self._finish()
            self.sha256 = file.sha256

    def _first_chunk(self, file: HashedFile) -> tuple[int, bytes]:
        """Skip white space at the front; return where the rest starts, and some of it."""
        offset, chunk = 0, file.read(max(self._piece_bytes, len(UTF8_MARK)))
        if chunk.startswith(UTF8_MARK):
            offset, chunk = len(UTF8_MARK), chunk.removeprefix(UTF8_MARK)
        while not (stripped := chunk.lstrip(WHITE_SPACE)):
            offset += len(chunk)
            chunk = file.read(self._piece_bytes)
            if not chunk:
                raise empty_file_error(self._path, file.num_bytes, self._role)
        return offset + len(chunk) - len(stripped), stripped

    def _cut(self, chunk: bytes, offset: int) -> Iterator[JsonPiece]:
        structure = self._scanner.scan(chunk)
        end = self._end_of_document(structure)
        start = 0
        for place in self._edges(structure, end):
            if self._container is None:
                self._skeleton.add(chunk[start : place + 1], offset + start)
                start = place + 1
                self._container = _Container(
                    name=self._skeleton.last_key() if self._level > 1 else None,
                    opening=chunk[place:start],
                    offset=offset + start,
                )
            else:
                self._container.parts.append(chunk[start:place])
                yield self._piece(self._container, is_last=True)
                self._container, start = None, place
        if self._container is None:
            self._skeleton.add(chunk[start:end], offset + start)
            self._skeleton.add_after_end(chunk[end:], offset + end)
            return
        comma = structure.last_comma(start, self._level)
        if comma is not None:
            self._container.parts.append(chunk[start:comma])
            yield self._piece(self._container, is_last=False)
            start = comma + 1
            self._container.go_on(offset + start)
        self._container.parts.append(chunk[start:])

    def _end_of_document(self, structure: Structure) -> int:
        closing = np.flatnonzero(structure.depths == 0)
        self._is_closed = bool(len(closing))
        return int(structure.brackets[closing[0]]) + 1 if len(closing) else len(structure.data)

    def _edges(self, structure: Structure, end: int) -> list[int]:
        """Return where containers begin and end, in turn."""
        begins = structure.is_opening & (structure.depths == self._level)
        ends = ~structure.is_opening & (structure.depths == self._level - 1)
        places = structure.brackets[begins | ends]
        return places[places < end].tolist()

    def _piece(self, container: "_Container", *, is_last: bool) -> JsonPiece:
        data = b"".join(container.parts)
        is_blank = not data or data.isspace()
        self._check_utf8(data, container.offset)
        if is_blank and not (is_last and container.is_first):  # [,1] or [1,]
            self._raise_for(container, data, is_last=is_last)
        if is_last and not is_blank:
            self._skeleton.add_stand_in(container.opening, container.offset)
        return JsonPiece(
            name=container.name,
            is_list=container.opening == b"[",
            is_first=container.is_first,
            data=data,
            path=self._path,
            offset=container.offset,
            role=self._role,
        )

    def _check_utf8(self, data: bytes, offset: int) -> None:
        try:
            if not data.isascii():
                decoded(data)
        except UnicodeDecodeError as error:
            raise encoding_error(self._path, offset + error.start, self._role) from error

    def _finish(self) -> None:
        """Check the skeleton, and that the file ends where it should."""
        try:
            self.skeleton = self._skeleton.load()
        except UnicodeDecodeError as error:
            place = self._skeleton.offset_of_byte(error.start)
            raise encoding_error(self._path, place, self._role) from error
        except json.JSONDecodeError as error:
            is_cut = is_cut_off(error) and self._scanner.depth > 0
            if is_cut and self._container is not None:
                self._raise_for(self._container, b"".join(self._container.parts))
            place = self._skeleton.offset_of_character(error)
            make = cut_off_error if is_cut else syntax_error
            raise make(self._path, error.msg, place, self._role) from error
        except ValueError as error:
            raise undecodable_error(self._path, "a number", error, self._role) from error
        if repeated := self._skeleton.repeated_key():
            key, *offsets = repeated
            raise repeated_key_error(self._path, key, (offsets[0], offsets[1]), self._role)

    def _raise_for(
        self, container: "_Container", data: bytes, *, is_last: bool | None = None
    ) -> NoReturn:
        """Raise the error of a piece that is not JSON.

        Args:
            container: What it is a piece of.
            data: The piece.
            is_last: Whether the container ends after it; None if the file does.
        """
        opening, stand_in = container.opening, STAND_INS[container.opening]
        prefix = opening if container.is_first else opening + stand_in + b","
        suffix = {True: CLOSINGS[opening], False: b"," + stand_in + CLOSINGS[opening], None: b""}
        self._check_utf8(data, container.offset)
        text = decoded(prefix + data + suffix[is_last])
        try:
            json.loads(text)
        except json.JSONDecodeError as error:
            place = container.offset + num_bytes(text[: error.pos]) - len(prefix)
            make = cut_off_error if is_last is None and is_cut_off(error) else syntax_error
            raise make(self._path, error.msg, place, self._role) from error
        except (ValueError, RecursionError) as error:
            raise cut_off_error(self._path, str(error), container.offset, self._role) from error
        end = container.offset + len(data)
        raise cut_off_error(self._path, "Expecting more", end, self._role)


@dataclass(kw_only=True)
class _Container:
    """The container that is being read, and what has been read of its next piece."""

    name: str | None
    opening: bytes
    offset: int
    parts: list[bytes] = field(default_factory=list)
    is_first: bool = True

    def go_on(self, offset: int) -> None:
        """Start the next piece."""
        self.offset, self.parts, self.is_first = offset, [], False
