"""What ``verify``, ``stats`` and ``gc`` share: one report a cache, and one table of them all."""

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from regionspot.core.errors import RegionSpotError

Report = TypeVar("Report")


def examine_each(
    caches: Sequence[str], examine: Callable[[str], Report]
) -> tuple[list[Report], bool]:
    """Examine caches one after the other; what is wrong with one does not keep from the others.

    Args:
        caches: Their folders or URLs.
        examine: What to do with each; its error is printed.

    Returns:
        The reports, without those of caches that had an error; and whether any had.
    """
    reports, has_failed = [], False
    for cache in caches:
        try:
            reports.append(examine(cache))
        except RegionSpotError as error:
            print(f"error: {error}", file=sys.stderr)
            has_failed = True
    return reports, has_failed


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for name, *values in (header, *rows):
        cells = [name.ljust(widths[0])]
        cells += [value.rjust(width) for value, width in zip(values, widths[1:], strict=True)]
        lines.append("  ".join(cells))
    return "\n".join(lines)
