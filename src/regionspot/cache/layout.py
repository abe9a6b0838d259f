"""The layout of a cache: names of its files and of a shard's members, and each image's shard."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from regionspot.core.errors import AnnotationError, ConfigError
from regionspot.core.files import sha256_bytes

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


MAX_SHARDS: Final = 1_000_000
"""Shards of a cache at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The fixed place of each image: image ``i`` goes to shard ``i // images_per_shard``.

    Raises:
        ConfigError: There is no image, or the number of shards does not follow from the other two.
    """

    num_images: int
    """Images of the data set, quarantined ones included."""
    images_per_shard: int
    """Images of every shard but the last, which may have fewer."""
    num_shards: int
    """Shards, counted from 0."""
    order_sha256: str
    """SHA-256 over the keys of all images in order, joined by line breaks."""

    def __post_init__(self) -> None:
        if self.num_shards > MAX_SHARDS:
            raise ConfigError(
                f"a plan has {self.num_shards} shards; wanted at most {MAX_SHARDS}, whose names"
                " have six digits. Raise images_per_shard."
            )
        if self.num_images < 1 or self.images_per_shard < 1:
            raise ConfigError(
                f"a plan of {self.num_images} images, {self.images_per_shard} a shard, makes no"
                " cache; wanted at least one of each: check the annotations and images_per_shard."
            )
        wanted = -(-self.num_images // self.images_per_shard)
        if self.num_shards != wanted:
            raise ConfigError(
                f"a plan has {self.num_shards} shards for {self.num_images} images,"
                f" {self.images_per_shard} a shard; wanted {wanted}."
            )

    @classmethod
    def from_keys(cls, keys: Sequence[str], *, images_per_shard: int) -> Self:
        """Plan the shards of a data set.

        Args:
            keys: The keys of all its images, in the order in which they are to be stored.
            images_per_shard: Images of every shard but the last.

        Raises:
            AnnotationError: Two images share a key.
            ConfigError: There is no image, or ``images_per_shard`` is below 1.
        """
        if len(set(keys)) != len(keys):
            twice = next(key for key, count in Counter(keys).items() if count > 1)
            raise AnnotationError(f"two images share the key {twice!r}: keys must be unique.")
        return cls(
            num_images=len(keys),
            images_per_shard=images_per_shard,
            num_shards=-(-len(keys) // max(images_per_shard, 1)),
            order_sha256=sha256_bytes("\n".join(keys).encode("utf-8")),
        )

    def images_of(self, shard_index: int) -> range:
        """Return the positions of a shard's images in the data set.

        Raises:
            IndexError: The plan has no such shard.
        """
        if not 0 <= shard_index < self.num_shards:
            raise IndexError(f"shard {shard_index} is not among the plan's {self.num_shards}.")
        first = shard_index * self.images_per_shard
        return range(first, min(first + self.images_per_shard, self.num_images))
