"""Says where a JSON file is wrong, in lines and characters of the whole file.

Reading only keeps track of bytes; on an error the file is read a second time up to the place.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from regionspot.annotations.opening import ANNOTATIONS, FileRole
from regionspot.core.errors import AnnotationError

UTF8_MARK = b"\xef\xbb\xbf"
"""What some editors put in front of UTF-8 text; it is no part of the JSON."""

_BLOCK_BYTES = 1 << 20
_HEAD_BYTES = 16
_NEAR_CHARACTERS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    line: int
    column: int
    character: int

    @override
    def __str__(self) -> str:
        return f"line {self.line}, column {self.column} (character {self.character:,})"


def is_cut_off(error: json.JSONDecodeError) -> bool:
    """Say whether an error of text that goes to the end of its file is that the text ends."""
    # A cut inside a string is reported where the string starts, not where the file ends.
    return not error.doc[error.pos :].strip() or error.msg.startswith("Unterminated string")


def cut_off_error(path: Path, message: str, offset: int, role: FileRole) -> AnnotationError:
    """Describe a file that ends too early.

    Args:
        path: The file.
        message: What ``json`` said.
        offset: The byte that it spoke of.
        role: What the file is for.
    """
    length = _place_of(path, path.stat().st_size).character
    return AnnotationError(
        f"{path} is cut off: it ends after {length:,} characters in the middle of the JSON"
        f" ({message} at {_place_of(path, offset)}). Download or copy the {role.noun} again."
    )


def syntax_error(path: Path, message: str, offset: int, role: FileRole) -> AnnotationError:
    """Describe a file that is not JSON; the arguments are those of `cut_off_error`."""
    with path.open("rb") as file:
        file.seek(offset)
        near = file.read(4 * _NEAR_CHARACTERS).decode("utf-8", "replace")[:_NEAR_CHARACTERS]
    return AnnotationError(
        f"{path} is not JSON: {message} at {_place_of(path, offset)}, near {near!r}. Give a JSON"
        f" {role.noun} with {role.option}{_csv_hint(path, role)}."
    )


def encoding_error(path: Path, offset: int, role: FileRole) -> AnnotationError:
    """Describe a file whose byte ``offset`` is no UTF-8 text."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    return AnnotationError(
        f"{path} is not JSON: byte {offset} is not UTF-8 text. It starts with {head!r}. Give the"
        f" {role.noun} with {role.option}."
    )


def undecodable_error(path: Path, what: str, error: Exception, role: FileRole) -> AnnotationError:
    """Describe JSON with a longer number or a deeper nest than Python takes."""
    return AnnotationError(
        f"{path}: {what} cannot be decoded ({error}). Give a JSON {role.noun} with {role.option}."
    )


def repeated_key_error(
    path: Path, key: str, offsets: tuple[int, int], role: FileRole
) -> AnnotationError:
    """Describe a file whose outermost object has a key twice, of which all but one would be lost.

    Args:
        path: The file.
        key: The key.
        offsets: The bytes of the file at which it stands.
        role: What the file is for.
    """
    first, second = (_place_of(path, offset) for offset in offsets)
    return AnnotationError(
        f"{path} has the key {key!r:.80} twice, at {first} and at {second}; wanted it once. Put"
        f" what both hold under one key, or give another {role.noun} with {role.option}."
    )


def _place_of(path: Path, offset: int) -> _Place:
    num_lines, num_characters, line_start = 0, 0, 0
    with path.open("rb") as file:
        mark = len(UTF8_MARK) if file.read(len(UTF8_MARK)) == UTF8_MARK else 0
        file.seek(mark)
        left = max(offset - mark, 0)
        while left and (block := file.read(min(left, _BLOCK_BYTES))):
            left -= len(block)
            last_break = block.rfind(b"\n")
            if last_break >= 0:
                num_lines += block.count(b"\n")
                line_start = num_characters + _count_characters(block[: last_break + 1])
            num_characters += _count_characters(block)
    return _Place(
        line=num_lines + 1, column=num_characters - line_start + 1, character=num_characters
    )


def _count_characters(data: bytes) -> int:
    """Count UTF-8 characters by their first bytes, so that a block may cut one in two."""
    if data.isascii():
        return len(data)
    return len(data) - sum(data.count(bytes([code])) for code in range(0x80, 0xC0))


def _csv_hint(path: Path, role: FileRole) -> str:
    if role is not ANNOTATIONS:
        return ""
    with path.open("rb") as file:
        is_openimages = file.read(_HEAD_BYTES).removeprefix(UTF8_MARK).startswith(b"ImageID,")
    return ", or type --annotations.format openimages" if is_openimages else ""
