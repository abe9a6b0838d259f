"""What is left of a JSON file when the contents of its containers are cut out."""

import json
import re
from bisect import bisect_right
from collections.abc import Sequence

from regionspot.annotations.json_piece import decoded, num_bytes
from regionspot.core.json_text import load_json

STAND_INS = {b"[": b"0", b"{": b'"":0'}
"""Stands for what was cut out after an opening bracket, so that the syntax stays as it was."""
WHITE_SPACE = b" \t\n\r"
"""What JSON allows between its parts; a vertical tab, for instance, is an error."""
CLOSINGS = {b"[": b"]", b"{": b"}"}
"""Closing bracket of each opening one."""

_LAST_KEY = re.compile(rb'("(?:[^"\\]|\\.)*")[ \t\n\r]*:[ \t\n\r]*[\[{]\Z', re.DOTALL)
_STRING = re.compile(rb'("(?:[^"\\]|\\.)*")([ \t\n\r]*:)?', re.DOTALL)
_TRAILING_BYTES = 1 << 20


class Skeleton:
    """The text outside the containers, and where each stretch of it stands in the file."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._starts: list[int] = []
        self._offsets: list[int] = []
        self._after_last_container = 0
        self._has_trailing_text = False
        self._has_repeated_key = False

    def add(self, data: bytes, offset: int) -> None:
        """Append a stretch of the file that starts at the byte ``offset``."""
        if data:
            self._starts.append(len(self._text))
            self._offsets.append(offset)
            self._text += data

    def add_stand_in(self, opening: bytes, offset: int) -> None:
        """Append what stands for the entries of the container that was opened last."""
        self.add(STAND_INS[opening], offset)
        self._after_last_container = len(self._text)

    def add_after_end(self, data: bytes, offset: int) -> None:
        """Append the first of what stands after the document, unless it is white space."""
        if data.strip(WHITE_SPACE) and not self._has_trailing_text:
            self._has_trailing_text = True
            self.add(data[:_TRAILING_BYTES], offset)

    def last_key(self) -> str | None:
        """Return the key before the opening bracket that the text ends with."""
        found = _LAST_KEY.search(self._text, self._after_last_container)
        try:
            return str(load_json(bytes(found.group(1)))) if found else None
        except ValueError:  # not JSON, which `load` will say
            return None

    def load(self) -> object:
        """Decode the text; may raise ``JSONDecodeError``, ``UnicodeDecodeError``, ``ValueError``.

        Of a key that is there twice the last value counts; see `repeated_key`.
        """
        return load_json(decoded(bytes(self._text)), object_pairs_hook=self._unique)

    def repeated_key(self) -> tuple[str, int, int] | None:
        """Return a key that the outermost object has twice, and where; to be asked after `load`.

        Returns:
            The key and the bytes of the file at which it stands first and second; None if every key
            is there once.
        """
        if not self._has_repeated_key:
            return None
        seen: dict[str, int] = {}
        for found in _STRING.finditer(self._text):
            key = json.loads(found.group(1)) if found.group(2) else ""  # as in stand-ins
            if key and key in seen:
                first, second = seen[key], found.start()
                return key, self.offset_of_byte(first), self.offset_of_byte(second)
            seen[key] = found.start()
        return None

    def _unique(self, pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
        values = dict(pairs)
        self._has_repeated_key |= len(values) < len(pairs)
        return values

    def offset_of_character(self, error: json.JSONDecodeError) -> int:
        """Return the byte of the file that an error of `load` speaks of."""
        return self.offset_of_byte(num_bytes(error.doc[: error.pos]))

    def offset_of_byte(self, place: int) -> int:
        """Return the byte of the file where byte ``place`` of the text stands."""
        stretch = bisect_right(self._starts, place) - 1
        return self._offsets[stretch] + place - self._starts[stretch]
