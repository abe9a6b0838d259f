"""Reads JSON files of any size in bounded memory: one list at a time, a megabyte at a time.

The file is memory mapped. `msgspec` checks all of it, and finds where each value of the outermost
object starts and ends without decoding it. A list is then cut between two objects, at ``},{``. The
same characters occur in strings and nested lists, so a cut is only made if the piece before it can
be decoded.

Files that `msgspec` rejects go to Python's `json`. It accepts NaN, infinity and unpaired
surrogates, and its error messages name the line and column of anything else.
"""

import codecs
import json
import mmap
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import msgspec
import numpy as np

from regionspot.annotations.detect_format import format_hint
from regionspot.annotations.opening import (
    ANNOTATIONS,
    FileRole,
    empty_file_error,
    open_hashed,
)
from regionspot.core.errors import AnnotationError

UTF8_MARK = b"\xef\xbb\xbf"
"""The byte order mark that some editors write before UTF-8 text; it is not part of the JSON."""
PIECE_BYTES = 1 << 20
"""Size of a piece. The objects decoded from one fit in the processor's cache."""
MSGSPEC_ERRORS = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
"""What `msgspec` raises for text that it cannot decode."""

_T = TypeVar("_T")
_RAW: msgspec.json.Decoder[Any] = msgspec.json.Decoder(msgspec.Raw)
_SPACE = r"[ \t\n\r]*"
_KEY = re.compile(rf'{_SPACE}([{{,]){_SPACE}("(?:[^"\\]|\\.)*"){_SPACE}:{_SPACE}', re.DOTALL)
_END = re.compile(rf"{_SPACE}}}{_SPACE}")
_KEY_BYTES = re.compile(_KEY.pattern.encode(), re.DOTALL)
_SPACE_BYTES = re.compile(_SPACE.encode())
_COMMA = re.compile(rf"{_SPACE},{_SPACE}(?={{)".encode())
_MAX_CUTS = 256
_HEAD_BYTES = 16
_NEAR_CHARACTERS = 40


@dataclass(slots=True, kw_only=True)
class JsonPiece:
    """Consecutive entries of a list, or a whole object, as a JSON document of its own."""

    path: Path
    """The file."""
    role: FileRole
    """What the file is for."""
    name: str | None
    """Key of the list or object; None if the list is the file's outermost value."""
    document: bytes
    """A JSON list or object, in UTF-8."""
    _decoded: tuple[msgspec.json.Decoder[Any], Any] | None = None

    def decode(self, decoder: msgspec.json.Decoder[_T]) -> _T:
        """Decode the piece with `msgspec`, or raise one of `MSGSPEC_ERRORS`; caches one result."""
        if self._decoded is None or self._decoded[0] is not decoder:
            self._decoded = decoder, decoder.decode(self.document)
        return cast("_T", self._decoded[1])

    def load(self) -> object:
        """Decode the piece with `json`, which also accepts NaN and infinity."""
        try:
            return json.loads(self.document)
        except (ValueError, RecursionError) as error:
            where = f"{self.path}: {self.name or 'the list'}"
            raise _undecodable_error(where, error, self.role) from error


class JsonContainer:
    """A list or an object that is a value of the outermost object, or the outermost list."""

    def __init__(self, file: "JsonFile", name: str | None, start: int, stop: int) -> None:
        self.name = name
        self._file = file
        self._start, self._stop = start, stop
        self.is_list = file.data[start : start + 1] == b"["

    def pieces(self, decoder: msgspec.json.Decoder[Any] = _RAW) -> Iterator[JsonPiece]:
        """Yield a list in pieces, an object whole; ``decoder`` decides where to cut."""
        if not self.is_list:
            yield self._piece(self._file.data[self._start : self._stop])
            return
        start, stop, num_bytes = self._start + 1, self._stop - 1, self._file.piece_bytes
        while stop - start > num_bytes:
            cut = self._cut_off(start, num_bytes, decoder)
            if cut is None:
                num_bytes *= 2
            else:
                piece, start = cut
                yield piece
                num_bytes = self._file.piece_bytes
        yield self._piece(b"[" + self._file.data[start:stop] + b"]")

    def first(self) -> object:
        """Decode only the first entry of a list; None if there is none."""
        if not self.is_list:
            return None
        piece = next(self.pieces())
        text = piece.document.decode("utf-8", "surrogatepass")
        start = len(text) - len(text[1:].lstrip())
        if text[start] == "]":
            return None
        try:
            return json.JSONDecoder().raw_decode(text, start)[0]
        except (ValueError, RecursionError):
            return piece.load()

    def _cut_off(
        self, start: int, num_bytes: int, decoder: msgspec.json.Decoder[Any]
    ) -> tuple[JsonPiece, int] | None:
        """Return a piece that starts at a byte, and where the next one starts."""
        data = self._file.data
        for end, following in islice(_cuts(data, start, start + num_bytes), _MAX_CUTS):
            piece = self._piece(b"[" + data[start:end] + b"]")
            if self._file.is_json(piece, decoder):
                return piece, following
            decoder = _RAW  # finds a wrong cut sooner
        return None

    def _piece(self, document: bytes) -> JsonPiece:
        file = self._file
        return JsonPiece(path=file.path, role=file.role, name=self.name, document=document)


class JsonFile:
    """A JSON file that is checked as a whole, and decoded piece by piece.

    Args:
        path: The file.
        piece_bytes: Size of a piece; a longer entry makes a longer piece.
        role: What the file is for, for messages.
    """

    def __init__(
        self, path: Path, *, piece_bytes: int = PIECE_BYTES, role: FileRole = ANNOTATIONS
    ) -> None:
        self.path = path
        self.role = role
        self.piece_bytes = piece_bytes
        self.sha256 = _sha256_of_text(path, role)
        """SHA-256 of the file in hex."""
        with path.open("rb") as file:
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        mark = len(UTF8_MARK) if self.data[: len(UTF8_MARK)] == UTF8_MARK else 0
        start = _end_of_space(self.data, mark)
        if start == len(self.data):
            raise empty_file_error(path, len(self.data), role)
        values = _values_by_msgspec(self.data, start)
        self._is_strict = values is not None
        if values is None:
            values = _values_by_json(path, self.data, mark, role)
        self.containers: Sequence[JsonContainer] = [
            JsonContainer(self, *value) for value in values if self.data[value[1]] in b"[{"
        ]
        """The lists and objects that are values of the outermost object; or the outermost list."""
        self.skeleton = self._skeleton(values, start)
        """The file's value, with every list and object in it emptied."""

    def is_json(self, piece: JsonPiece, decoder: msgspec.json.Decoder[Any]) -> bool:
        """Return whether a part of the file is JSON by itself; tries ``decoder`` first."""
        for attempt in (decoder, _RAW):
            try:
                piece.decode(attempt)
            except MSGSPEC_ERRORS:
                continue
            return True
        if self._is_strict:
            return False
        try:
            piece.load()
        except AnnotationError:
            return False
        return True

    def _skeleton(self, values: "Sequence[_Value]", start: int) -> object:
        if self.data[start] == ord("["):
            return []
        if self.data[start] != ord("{"):
            return self._scalar(start, len(self.data))
        empty: dict[bytes, type] = {b"[": list, b"{": dict}
        return {
            name: empty[opening]()
            if (opening := self.data[at : at + 1]) in empty
            else self._scalar(at, stop)
            for name, at, stop in values
        }

    def _scalar(self, start: int, stop: int) -> object:
        try:
            return json.loads(self.data[start:stop])
        except ValueError as error:
            raise _undecodable_error(f"{self.path}: a number", error, self.role) from error


_Value = tuple[str | None, int, int]
"""Key of a value of the outermost object, and the bytes of the file where it starts and ends; the
key is None for the outermost list."""


def _values_by_msgspec(data: mmap.mmap, start: int) -> list[_Value] | None:
    """Find the values of a file; None if it is not strictly JSON or has a key twice."""
    text = memoryview(data)[start:]
    try:
        if data[start] == ord("["):
            msgspec.json.decode(text, type=msgspec.Raw)
            return [(None, start, data.rfind(b"]") + 1)]
        raws = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except MSGSPEC_ERRORS:
        return None
    # A `Raw` is a view into the map.
    origin = _address(data)
    values: list[_Value] = []
    last = start
    for name, raw in raws.items():
        at = _address(raw) - origin
        if _KEY_BYTES.fullmatch(data, last, at) is None:  # the earlier value of a repeated key
            return None
        last = at + len(memoryview(raw))
        values.append((name, at, last))
    return values


def _values_by_json(path: Path, data: mmap.mmap, mark: int, role: FileRole) -> list[_Value]:
    """Find the values of a file, or raise an error; holds its text, but not the decoded values."""
    text = str(memoryview(data)[mark:], "utf-8", "surrogatepass")
    decoder = json.JSONDecoder(object_pairs_hook=_forget)
    members: list[tuple[str, int, int, int]] = []  # name, and where key and value are in the text
    stop = 0
    try:
        while (found := _KEY.match(text, stop)) and (found[1] == ",") == bool(members):
            name = decoder.raw_decode(text, found.start(2))[0]
            stop = decoder.raw_decode(text, found.end())[1]
            members.append((name, found.start(2), found.end(), stop))
        if not members or _END.fullmatch(text, stop) is None:
            decoder.decode(text)
    except json.JSONDecodeError as error:
        _raise_syntax_error(path, error, role)
    except (ValueError, RecursionError) as error:
        raise _undecodable_error(str(path), error, role) from error
    if text.lstrip().startswith("["):
        return [(None, _end_of_space(data, mark), data.rfind(b"]") + 1)]
    key_of: dict[str, int] = {}
    for name, key, _, _ in members:
        if name in key_of:
            first, again = (
                _place(json.JSONDecodeError("", text, at)) for at in (key_of[name], key)
            )
            raise AnnotationError(
                f"{path} has the key {name!r:.80} twice, at {first} and at {again}; wanted it once."
                f" Put what both hold under one key, or give another {role.noun} with"
                f" {role.option}."
            )
        key_of[name] = key
    offsets = _offsets(text, (at for member in members for at in member[2:]), mark)
    return [(name, next(offsets), next(offsets)) for name, *_ in members]


def _offsets(text: str, places: Iterable[int], offset: int) -> Iterator[int]:
    """Turn ascending places in a text, which starts at a byte, into bytes of the file."""
    is_ascii, last = text.isascii(), 0
    for place in places:
        if is_ascii:
            offset += place - last
        else:
            offset += len(text[last:place].encode("utf-8", "surrogatepass"))
        last = place
        yield offset


def _cuts(data: mmap.mmap, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield, from the back, where an object may end and the next one may start."""
    while (stop := data.rfind(b"}", start, stop)) >= 0:
        if comma := _COMMA.match(data, stop + 1):
            yield stop + 1, comma.end()


def _address(buffer: mmap.mmap | msgspec.Raw) -> int:
    return int(np.frombuffer(buffer, np.uint8).ctypes.data)


def _end_of_space(data: mmap.mmap, start: int) -> int:
    found = _SPACE_BYTES.match(data, start)
    return found.end() if found else start


def _forget(_pairs: object) -> None:
    """Discard a decoded object."""


def _sha256_of_text(path: Path, role: FileRole) -> str:
    """Hash a file, and check that it is UTF-8; unpaired surrogates are accepted, as by `json`."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogatepass")
    head = b""
    with open_hashed(path, "json", role=role) as file:
        block = b"first"
        while block:
            start = file.num_bytes - len(decoder.getstate()[0])
            block = file.read(PIECE_BYTES)
            head = head or block[:_HEAD_BYTES]
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                raise AnnotationError(
                    f"{path} is not JSON: byte {start + error.start} is not UTF-8 text. It starts"
                    f" with {head!r}. Give the {role.noun} with {role.option}."
                ) from error
        return file.sha256


def _raise_syntax_error(path: Path, error: json.JSONDecodeError, role: FileRole) -> NoReturn:
    text = error.doc
    place = _place(error)
    # A file cut inside a string has its error where the string starts, not at its end.
    is_at_end = not text[error.pos :].strip(" \t\n\r") or error.msg.startswith("Unterminated")
    if is_at_end and text.lstrip()[:1] in {"[", "{"}:
        raise AnnotationError(
            f"{path} is cut off: it ends after {len(text):,} characters in the middle of the JSON"
            f" ({error.msg} at {place}). Download or copy the {role.noun} again."
        ) from error
    other = "openimages" if text.startswith("ImageID,") else format_hint(path)
    is_other = role is ANNOTATIONS and other not in {None, "coco"}
    hint = f", or type --annotations.format {other}" if is_other else ""
    near = text[error.pos :][:_NEAR_CHARACTERS]
    raise AnnotationError(
        f"{path} is not JSON: {error.msg} at {place}, near {near!r}. Give a JSON {role.noun} with"
        f" {role.option}{hint}."
    ) from error


def _undecodable_error(where: str, error: Exception, role: FileRole) -> AnnotationError:
    """Describe JSON with a longer number or deeper nesting than Python accepts."""
    return AnnotationError(
        f"{where} cannot be decoded ({error}). Give a JSON {role.noun} with {role.option}."
    )


def _place(error: json.JSONDecodeError) -> str:
    return f"line {error.lineno}, column {error.colno} (character {error.pos:,})"
