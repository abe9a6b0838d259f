"""Follows strings and nesting through JSON text, so that it can be cut without being decoded.

The scan is exact, not a guess by typical spelling: quotes that a backslash escapes open or close no
string, and brackets inside strings do not count. Whether the text is valid JSON is left to whoever
decodes the pieces.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]

_QUOTE, _COMMA, _BACKSLASH = b'",\\'
# ASCII has the closing brackets two places after the opening ones, and braces 32 after brackets.
_LOWER_CASE, _OPENING, _CLOSING = 0x20, ord("{"), ord("}")
_CLOSING_BIT = 0x04
_COMMA_NEXT = re.compile(rb"[ \t\n\r]*(,)")
_NUM_TRIES = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Structure:
    """Strings and brackets of a stretch of JSON text."""

    data: bytes
    """The text."""
    starts_in_string: bool
    """Whether its first byte is inside a string."""
    starts_at_depth: int
    """Brackets that are open where it starts."""
    quotes: Positions
    """Where strings open and close."""
    brackets: Positions
    """Where brackets and braces stand, those in strings left out."""
    is_opening: NDArray[np.bool_]
    """Which of ``brackets`` open something."""
    depths: Positions
    """How many are open after each of ``brackets``."""

    def last_comma(self, start: int, depth: int) -> int | None:
        """Return the place of the last comma from ``start`` on with ``depth`` brackets around it.

        Next to a bracket it is found at once; a comma between numbers or strings is only looked for
        where no other is.
        """
        after = int(np.searchsorted(self.brackets, start))
        candidates = self.brackets[after:][self.depths[after:] == depth]
        for place in candidates[: -_NUM_TRIES - 1 : -1].tolist():
            if found := _COMMA_NEXT.match(self.data, place + 1):
                return found.start(1)
        commas = start + np.flatnonzero(np.frombuffer(self.data, np.uint8)[start:] == _COMMA)
        depths = np.concatenate([[self.starts_at_depth], self.depths])
        at_depth = depths[np.searchsorted(self.brackets, commas)] == depth
        commas = commas[at_depth & ~_is_inside(commas, self.quotes, self.starts_in_string)]
        return int(commas[-1]) if len(commas) else None


class StructureScanner:
    """Scans a text that comes in consecutive chunks, cut anywhere."""

    def __init__(self) -> None:
        self.in_string = False
        self.depth = 0
        self._escapes_next = False

    def scan(self, data: bytes) -> Structure:
        """Return the structure of the next chunk."""
        codes = np.frombuffer(data, np.uint8)
        quotes = np.flatnonzero(codes == _QUOTE)
        escaped = self._escaped(data, codes)
        if len(escaped):
            quotes = np.setdiff1d(quotes, escaped, assume_unique=True)
        folded = codes | _LOWER_CASE
        brackets = np.flatnonzero((folded == _OPENING) | (folded == _CLOSING))
        brackets = brackets[~_is_inside(brackets, quotes, self.in_string)]
        is_opening = (codes[brackets] & _CLOSING_BIT) == 0
        depths = self.depth + np.cumsum(np.where(is_opening, 1, -1), dtype=np.int64)
        structure = Structure(
            data=data,
            starts_in_string=self.in_string,
            starts_at_depth=self.depth,
            quotes=quotes,
            brackets=brackets,
            is_opening=is_opening,
            depths=depths,
        )
        self.in_string ^= bool(len(quotes) % 2)
        self.depth = int(depths[-1]) if len(depths) else self.depth
        return structure

    def _escaped(self, data: bytes, codes: NDArray[np.uint8]) -> Positions:
        """Return the places that follow an odd number of backslashes."""
        if not self._escapes_next and b"\\" not in data:
            return np.zeros(0, np.int64)
        slashes = np.flatnonzero(codes == _BACKSLASH)
        if self._escapes_next:  # a chunk that ended between a backslash and what it escapes
            slashes = np.concatenate([[-1], slashes])
        runs = np.flatnonzero(np.diff(slashes, prepend=-3) > 1)
        lengths = np.diff(runs, append=len(slashes))
        after = slashes[runs] + lengths
        escaped = after[lengths % 2 == 1]
        self._escapes_next = bool(len(escaped)) and int(escaped[-1]) == len(codes)
        return escaped


def _is_inside(
    places: Positions,
    quotes: Positions,
    starts_in_string: bool,  # noqa: FBT001 - a flag of both
) -> NDArray[np.bool_]:
    """Say of each place whether it is inside a string."""
    return (np.searchsorted(quotes, places) + starts_in_string) % 2 == 1
