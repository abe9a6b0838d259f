"""Names inside a cache: where each file lies, and the members that a shard holds of an image."""

import re
from pathlib import Path
from typing import Final

SCHEMA_VERSION: Final = 3
"""Version of the format that docs/cache_format.md describes; any other one is refused."""

ARRAY_MEMBERS: Final = (
    "feature_map.npy",
    "position_tokens.npy",
    "boxes_xyxy.npy",
    "labels.npy",
    "box_scores.npy",
)
"""The array members of an image, in the order in which they lie in the tar."""

MEMBERS: Final = ("json", *ARRAY_MEMBERS)
"""All members of an image in the order of the tar, where one is called ``<key>.<name>``."""

CACHE_COMMAND: Final = "python cache_features.py --config <your config>"
"""What to type to make a cache, or to finish one."""

REPAIR_COMMAND: Final = "regionspot cache repair --config <your config>"
"""What to type to make damaged parts of a cache again."""

MERGED: Final = "merged"
"""What the manifest of a merged cache says in place of the format of its annotations."""

MERGE_COMMAND: Final = "regionspot cache merge --output_dir <its folder> <the same caches>"
"""What to type to go on with a merged cache, or with --repair to mend it."""

MAX_KEY_LENGTH: Final = 80
"""A plain tar header holds 100 characters, of which ``.position_tokens.npy`` takes 20."""

_KEY = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_KEY_LENGTH}}}")


def is_key(text: str) -> bool:
    """Say whether ``text`` can name an image in a shard: 1 to 80 of ``A-Z a-z 0-9 _ -``."""
    return _KEY.fullmatch(text) is not None


def manifest_path(cache_dir: Path) -> Path:
    """Return where the manifest of a cache lies."""
    return cache_dir / "manifest.json"


def index_path(cache_dir: Path) -> Path:
    """Return where the index of a cache lies."""
    return cache_dir / "index.h5"


def quarantine_path(cache_dir: Path) -> Path:
    """Return where the list of images that could not be read lies."""
    return cache_dir / "quarantine.jsonl"


def text_banks_path(cache_dir: Path) -> Path:
    """Return where the text banks of a cache lie."""
    return cache_dir / "text_banks.h5"


def category_tree_path(cache_dir: Path) -> Path:
    """Return where the category tree of a cache lies, if its data set has one."""
    return cache_dir / "category_tree.json"


def shards_path(cache_dir: Path) -> Path:
    """Return the folder of the shards and their sidecars."""
    return cache_dir / "shards"


def shard_path(cache_dir: Path, shard_index: int) -> Path:
    """Return where the tar of a shard lies; shards count from 0."""
    return shards_path(cache_dir) / f"{shard_index:06d}.tar"


def shard_lock_path(cache_dir: Path, shard_index: int) -> Path:
    """Return where the lock of a shard lies while several processes share a cache's shards."""
    return shards_path(cache_dir) / f"{shard_index:06d}.lock"


def sidecar_path(cache_dir: Path, shard_index: int) -> Path:
    """Return where the sidecar of a shard lies; shards count from 0."""
    return shards_path(cache_dir) / f"{shard_index:06d}.json"
