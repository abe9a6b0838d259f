"""Decodes JSON of unknown origin."""

import json
from collections.abc import Callable
from typing import Any


def load_json(
    text: str | bytes,
    *,
    object_hook: Callable[[dict[str, Any]], object] | None = None,
    object_pairs_hook: Callable[[list[tuple[str, Any]]], object] | None = None,
) -> object:
    """Decode JSON as ``json.loads`` does, but with a ``ValueError`` for any error.

    Raises:
        json.JSONDecodeError: It is not JSON.
        ValueError: It is not text, has a number with more digits than Python converts, or is nested
            deeper than Python's recursion limit.
    """
    try:
        return json.loads(text, object_hook=object_hook, object_pairs_hook=object_pairs_hook)
    except RecursionError:
        raise ValueError("lists or objects are nested too deeply") from None
