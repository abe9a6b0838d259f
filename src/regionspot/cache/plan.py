"""Which image goes into which shard."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from regionspot.core.errors import AnnotationError, ConfigError
from regionspot.core.hashing import sha256_bytes

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
