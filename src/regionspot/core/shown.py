"""How a value of unknown origin is shown in a message."""

from reprlib import Repr

_REPR = Repr()
_REPR.maxlevel = 3
_REPR.maxstring = _REPR.maxother = 200


def shown(value: object, length: int = 60) -> str:
    """Return the start of a value's ``repr``, of a value of any depth, length or width.

    ``repr`` itself raises on numbers of more than 4,300 digits and on lists within lists to a depth
    of a thousand, and takes forever on a few lists that hold each other many times.

    Args:
        value: Anything.
        length: Characters at most.
    """
    try:
        return _REPR.repr(value)[:length]
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} too large to show"
