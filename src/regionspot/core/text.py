"""Formats numbers with units, and the message about a missing optional package."""

from collections.abc import Iterator
from contextlib import contextmanager

from regionspot.core.errors import MissingExtraError


def human_duration(seconds: float) -> str:
    """Format a duration: 4.2 s, 3 min 20 s, 2 h 5 min, 3 days 4 h."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24:,} days {hours % 24} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def human_bytes(num_bytes: float) -> str:
    """Format a number of bytes with decimal units: 526.3 kB, 10.4 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:,.0f} {unit}" if unit == "B" else f"{num_bytes:,.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} TB"


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turn a failed import in the block into a `MissingExtraError` that says what to install.

    Args:
        extra: Name of the optional-dependencies group in ``pyproject.toml``.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            f"the package {error.name!r} is not installed ({error}). It comes with the extra"
            f' {extra!r}: pip install "regionspot[{extra}]".'
        ) from error
