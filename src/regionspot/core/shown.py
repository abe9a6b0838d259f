"""Shows values of unknown origin in messages."""

from reprlib import Repr

_REPR = Repr()
_REPR.maxlevel = 3
_REPR.maxstring = _REPR.maxother = 200


def shown(value: object, length: int = 60) -> str:
    """Return up to ``length`` characters of the ``repr`` of any value, however large.

    ``repr`` itself raises on numbers of more than 4,300 digits and on lists nested a thousand deep,
    and takes forever on a few lists that contain each other many times.
    """
    try:
        return _REPR.repr(value)[:length]
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} too large to show"
