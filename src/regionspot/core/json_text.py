"""JSON from a text of unknown origin."""

import json
from collections.abc import Callable
from typing import Any


def load_json(
    text: str | bytes,
    *,
    object_hook: Callable[[dict[str, Any]], object] | None = None,
    object_pairs_hook: Callable[[list[tuple[str, Any]]], object] | None = None,
) -> object:
    """Decode JSON; whatever is wrong with it, the error is a ``ValueError``.

    Args:
        text: JSON; bytes in UTF-8, 16 or 32.
        object_hook: What to make of each object; see ``json.loads``.
        object_pairs_hook: The same from its keys and values in order, repeated keys included.

    Raises:
        json.JSONDecodeError: It is not JSON.
        ValueError: It is not text, holds a number of more digits than Python converts, or lists
            within lists deeper than Python follows.
    """
    try:
        value: object = json.loads(
            text, object_hook=object_hook, object_pairs_hook=object_pairs_hook
        )
    except RecursionError:
        raise ValueError("lists or objects lie too deep within each other") from None
    return value
