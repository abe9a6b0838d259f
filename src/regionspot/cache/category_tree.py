"""Which classes of a cache's vocabulary are kinds of which, where the data set says so (V3Det).

Nothing in training or evaluation depends on it; it is kept for those who want to ask.
"""

from collections.abc import Sequence
from pathlib import Path

from regionspot.cache.layout import CACHE_COMMAND, category_tree_path
from regionspot.cache.sealed import open_sealed_json, seal_json
from regionspot.core.atomic import write_text_atomic
from regionspot.core.errors import CacheCorruptError

Descendants = tuple[tuple[int, ...], ...]
"""For each class the labels of the classes that are kinds of it, ascending."""


def write_category_tree(cache_dir: Path, descendants: Sequence[Sequence[int]]) -> None:
    """Write ``category_tree.json`` atomically; equal trees give equal bytes."""
    text, _ = seal_json({"descendants": descendants})
    write_text_atomic(category_tree_path(cache_dir), text)


def read_category_tree(cache_dir: Path) -> Descendants | None:
    """Read ``category_tree.json``; None if the cache has none.

    Raises:
        CacheMismatchError: It is of another schema version.
        CacheCorruptError: It was changed after it was written.
    """
    path = category_tree_path(cache_dir)
    if not path.exists():
        return None
    values, _ = open_sealed_json(path, remedy=f"Remove it and write it again: {CACHE_COMMAND}")
    try:
        return tuple(tuple(int(label) for label in labels) for labels in values["descendants"])
    except (KeyError, TypeError, ValueError) as error:
        raise CacheCorruptError(
            f"{path} is no category tree ({error!r}). Remove it and write it again: {CACHE_COMMAND}"
        ) from error
