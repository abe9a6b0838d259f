"""COCO's run-length encoding (RLE) of masks, checked before anything is drawn.

An RLE lists how many pixels are outside, inside, outside, ... the region, down the columns. Its
counts must add up to the pixels of the image: pycocotools does not check that, and writes beyond
its memory or returns memory that it never wrote. So RLEs are read and drawn here, with numpy.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

_FIRST_CODE, _NUM_CODES = ord("0"), 64
_MORE, _SIGN, _BITS = 0x20, 0x10, 5
_MAX_DIGITS = 13  # 65 bits: no count of pixels is as large
_MAX_PIXELS = 1 << 32  # pycocotools counts in 32 bits


class Rle(msgspec.Struct):
    """A segmentation as a run-length encoding."""

    size: tuple[int, int]
    """Height and width of the image."""
    counts: str | list[int]
    """Lengths of the runs, as they are or in COCO's compressed text."""


def run_lengths(rle: Rle) -> list[int] | None:
    """Return the lengths of the runs; None if they do not describe just the image's pixels.

    Compressed counts are those of ``rleFrString`` in pycocotools: groups of six bits above ``0``,
    of which five are the number's, lowest first; from the fourth on, the difference to the count
    before the last.
    """
    counts = _uncompressed(rle.counts) if isinstance(rle.counts, str) else rle.counts
    height, width = rle.size
    if counts is None or min(height, width) < 1 or height * width > _MAX_PIXELS:
        return None
    is_exact = min(counts, default=-1) >= 0 and sum(counts) == height * width
    return counts if is_exact else None


def draw_runs(counts: list[int], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask of `run_lengths` that fit an image of ``size_hw`` pixels, (H, W)."""
    is_inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(is_inside, counts).reshape(size_hw[::-1]).T


def _uncompressed(text: str) -> list[int] | None:
    counts: list[int] = []
    number = num_digits = 0
    for character in text:
        code = ord(character) - _FIRST_CODE
        if not 0 <= code < _NUM_CODES or num_digits == _MAX_DIGITS:
            return None
        number |= (code & (_MORE - 1)) << (_BITS * num_digits)
        num_digits += 1
        if code & _MORE:
            continue
        if code & _SIGN:
            number -= 1 << (_BITS * num_digits)
        counts.append(number + counts[-2] if len(counts) > 2 else number)
        number = num_digits = 0
    return None if num_digits else counts
