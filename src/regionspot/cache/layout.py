"""The layout of a cache: names of its files and of a shard's members, and each image's shard."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from regionspot.core.errors import AnnotationError, ConfigError
from regionspot.core.files import sha256_bytes

SCHEMA_VERSION: Final = 4
"""Version of the format that docs/cache_format.md describes, in which new caches are written."""

SCHEMA_VERSIONS: Final = (3, SCHEMA_VERSION)
"""Versions that are read; caches of an older one are also finished, repaired and merged."""

ARRAY_MEMBERS: Final = (
    "feature_map.npy",
    "position_tokens.npy",
    "boxes_xyxy.npy",
    "labels.npy",
    "box_scores.npy",
)
"""The array members of an image that training reads, in the order in which they lie in the tar."""

PREDICTED_IOU: Final = "predicted_iou.npy"
MASKS: Final = "masks.txt"
MEMBERS: Final = ("json", *ARRAY_MEMBERS, PREDICTED_IOU, MASKS)
"""All members of an image in the order of the tar, where one is called ``<key>.<name>``."""


def members_of(schema_version: int, *, masks: bool) -> tuple[str, ...]:
    """Return the members of every image of a cache, the first ones of `MEMBERS`.

    Args:
        schema_version: Version of the cache; version 3 has neither predicted IoUs nor masks.
        masks: Whether it stores masks.
    """
    num_absent = 2 if schema_version == 3 else 0 if masks else 1
    return MEMBERS[: len(MEMBERS) - num_absent]


CACHE_COMMAND: Final = "python cache_features.py --config <your config>"
"""The command that makes a cache, or finishes one."""

REPAIR_COMMAND: Final = "regionspot cache repair --config <your config>"
"""The command that makes the damaged parts of a cache again."""

REPAIR_ADVICE: Final = (
    f"List all damage with `regionspot cache verify`, and make it again: {REPAIR_COMMAND}"
)
"""What to do about damage, as a sentence without its full stop."""

MERGED: Final = "merged"
"""Annotation format in the manifest of a merged cache."""

MERGE_COMMAND: Final = "regionspot cache merge --output_dir <its folder> <the same caches>"
"""The command that finishes a merged cache, or repairs it with --repair."""

MAX_KEY_LENGTH: Final = 80
"""A plain tar header holds 100 characters, of which ``.position_tokens.npy`` takes 20."""

_KEY = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_KEY_LENGTH}}}")


def is_key(text: str) -> bool:
    """Return whether ``text`` can name an image in a shard: 1 to 80 of ``A-Z a-z 0-9 _ -``."""
    return _KEY.fullmatch(text) is not None


MANIFEST: Final = "manifest.json"
SHARDS: Final = "shards"
_TEXT_BANKS = "text_banks.h5"
_CATEGORY_TREE = "category_tree.json"
_QUARANTINE = "quarantine.jsonl"
_INDEX = "index.h5"
EXTRAS: Final = (_TEXT_BANKS, _CATEGORY_TREE, _QUARANTINE, _INDEX)
"""The files beside the manifest and the shards, in the order in which they are published."""


def tar_name(shard: int) -> str:
    """Return the name of a shard's tar below the cache; shards count from 0."""
    return f"{SHARDS}/{shard:06d}.tar"


def sidecar_name(shard: int) -> str:
    """Return the name of a shard's sidecar below the cache."""
    return f"{SHARDS}/{shard:06d}.json"


def manifest_path(cache_dir: Path) -> Path:
    """Return the path of the manifest."""
    return cache_dir / MANIFEST


def index_path(cache_dir: Path) -> Path:
    """Return the path of the index."""
    return cache_dir / _INDEX


def quarantine_path(cache_dir: Path) -> Path:
    """Return the path of the list of quarantined images."""
    return cache_dir / _QUARANTINE


def text_banks_path(cache_dir: Path) -> Path:
    """Return the path of the text banks."""
    return cache_dir / _TEXT_BANKS


def category_tree_path(cache_dir: Path) -> Path:
    """Return the path of the category tree; not every data set has one."""
    return cache_dir / _CATEGORY_TREE


def shards_path(cache_dir: Path) -> Path:
    """Return the folder of the shards and their sidecars."""
    return cache_dir / SHARDS


def shard_path(cache_dir: Path, shard: int) -> Path:
    """Return the path of a shard's tar."""
    return cache_dir / tar_name(shard)


def sidecar_path(cache_dir: Path, shard: int) -> Path:
    """Return the path of a shard's sidecar."""
    return cache_dir / sidecar_name(shard)


MAX_SHARDS: Final = 1_000_000
"""The largest number of shards of a cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Assignment of images to shards: image ``i`` goes to shard ``i // images_per_shard``.

    Raises:
        ConfigError: There is no image, or the number of shards does not follow from the other two.
    """

    num_images: int
    """Number of images in the data set, including quarantined ones."""
    images_per_shard: int
    """Number of images in every shard but the last, which may have fewer."""
    num_shards: int
    """Number of shards."""
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
            keys: Keys of all its images, in the order in which they are stored.
            images_per_shard: Number of images in every shard but the last.
        """
        if len(set(keys)) != len(keys):
            twice = Counter(keys).most_common(1)[0][0]
            raise AnnotationError(f"two images share the key {twice!r}: keys must be unique.")
        return cls(
            num_images=len(keys),
            images_per_shard=images_per_shard,
            num_shards=-(-len(keys) // max(images_per_shard, 1)),
            order_sha256=sha256_bytes("\n".join(keys).encode("utf-8")),
        )

    def images_of(self, shard_index: int) -> range:
        """Return the positions of a shard's images in the data set."""
        if not 0 <= shard_index < self.num_shards:
            raise IndexError(f"shard {shard_index} is not among the plan's {self.num_shards}.")
        first = shard_index * self.images_per_shard
        return range(first, min(first + self.images_per_shard, self.num_images))
