"""COCO's run-length encoding (RLE) of masks, of unknown origin.

It lists how many pixels are outside, inside, outside, ... a region, down the columns. The counts
must add up to the pixels of the image: pycocotools does not check that, and accesses memory out of
bounds. So RLEs are checked and drawn here, with numpy.
"""

import numpy as np
from numpy.typing import NDArray

_FIRST_CODE, _NUM_CODES = ord("0"), 64
_MORE, _SIGN, _BITS = 0x20, 0x10, 5
_MAX_DIGITS = 13  # 65 bits: no count of pixels is as large
_MAX_PIXELS = 1 << 32  # pycocotools counts in 32 bits


def run_lengths(counts: str | list[int], size_hw: tuple[int, int]) -> list[int] | None:
    """Return the lengths of the runs; None if they do not describe exactly the image's pixels.

    Args:
        counts: Lengths of the runs, or COCO's compressed text of them.
        size_hw: Height and width of the image in pixels.
    """
    lengths = _uncompressed(counts) if isinstance(counts, str) else counts
    height, width = size_hw
    if lengths is None or min(height, width) < 1 or height * width > _MAX_PIXELS:
        return None
    is_exact = min(lengths, default=-1) >= 0 and sum(lengths) == height * width
    return lengths if is_exact else None


def draw_runs(lengths: list[int], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask, (H, W), of runs from `run_lengths`."""
    is_inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(is_inside, lengths).reshape(size_hw[::-1]).T


def _uncompressed(text: str) -> list[int] | None:
    """Decode counts as ``rleFrString`` in pycocotools does.

    They are groups of six bits above ``0``, of which five are the number's, lowest first; from the
    fourth count on, the difference to the count before the last.
    """
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
