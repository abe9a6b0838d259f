"""Merges finished caches into one: images are distributed to new shards, their bytes stay.

No model runs and no image is decoded. The same sources in the same order give the same bytes,
however often merging was stopped.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from pathlib import Path

import numpy as np

from regionspot.cache.feature_cache import FeatureCache
from regionspot.cache.fingerprint import refuse_differences
from regionspot.cache.index import CacheIndex, build_index
from regionspot.cache.layout import (
    MERGED,
    Plan,
    category_tree_path,
    index_path,
    manifest_path,
    quarantine_path,
    sidecar_path,
    text_banks_path,
)
from regionspot.cache.manifest import (
    Manifest,
    check_same_manifest,
    manifest_differences,
    read_manifest,
    write_manifest,
)
from regionspot.cache.sample import CachedSample
from regionspot.cache.shard_pool import read_indexed_sidecar
from regionspot.cache.shard_writer import shard_is_complete, write_shard
from regionspot.cache.sidecar import QuarantinedImage
from regionspot.cache.text_banks import (
    Descendants,
    TextBankStore,
    read_category_tree,
    write_category_tree,
)
from regionspot.cache.verify import Problem, verify_cache
from regionspot.core.errors import (
    AnnotationError,
    CacheCorruptError,
    CacheMismatchError,
    ConfigError,
)
from regionspot.core.files import sha256_bytes
from regionspot.core.stopping import check_stop, safe_points

_logger = logging.getLogger(__name__)

_MAY_DIFFER = ("name", "annotation_sha256", "annotation_format", "reused", "plan")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """The images of one shard of a source, then its quarantined images."""

    cache: FeatureCache
    first: int
    """Position of its first image in the source."""
    keys: tuple[str, ...]
    """Keys of all its images."""
    quarantined: tuple[QuarantinedImage, ...]

    def image(self, number: int) -> CachedSample | QuarantinedImage:
        num_held = len(self.keys) - len(self.quarantined)
        if number < num_held:
            return self.cache.sample(self.first + number)
        return self.quarantined[number - num_held]


class CacheMerge:
    """A merge of finished caches into one; the constructor checks that they fit together.

    Args:
        sources: Their folders or URLs, in the order of the images of the new cache.
        images_per_shard: Number of images per shard of the new cache.
        name: Name of the new cache; by default the names of the sources.

    Raises:
        MissingFileError: A folder is no cache.
        CacheMismatchError: Models, settings or classes differ; the message names each field.
        CacheCorruptError: A source is not finished, or damaged.
        AnnotationError: Two images have the same key.
        ConfigError: There is no source, or ``images_per_shard`` is below 1.
    """

    def __init__(
        self, sources: Sequence[str | Path], *, images_per_shard: int, name: str | None = None
    ) -> None:
        if not sources:
            raise ConfigError("no cache to merge was named; give the folders of one or more.")
        self._caches = [FeatureCache.open(source) for source in sources]
        first, *others = self._caches
        for other in others:
            _check_can_be_mixed(first, other)
        self._tree = _common_tree(self._caches)
        self._blocks = list(chain.from_iterable(map(_blocks_of, self._caches)))
        _check_keys(self._blocks)
        self._ends = list(accumulate(len(block.keys) for block in self._blocks))
        names = dict.fromkeys(cache.manifest.name for cache in self._caches)
        contents = [cache.index.contents_sha256 for cache in self._caches]
        self.manifest: Manifest = replace(
            first.manifest,
            name=name or " + ".join(names),
            annotation_sha256=sha256_bytes("\n".join(contents).encode("ascii")),
            annotation_format=MERGED,
            reused=None,
            plan=Plan.from_keys(
                [key for block in self._blocks for key in block.keys],
                images_per_shard=images_per_shard,
            ),
        )

    @property
    def num_repeated_ids(self) -> int:
        """Number of images whose id an earlier image has, as formats without ids count images."""
        ids = np.concatenate([cache.index.image_ids for cache in self._caches])
        return len(ids) - len(np.unique(ids))

    def remove_damage(self, output_dir: Path) -> list[Problem]:
        """Remove the damaged parts of a merged cache, so that `write` makes them again.

        Args:
            output_dir: The cache's folder, locked against other writers.

        Returns:
            The damage.
        """
        is_damaged = False
        try:
            check_same_manifest(read_manifest(output_dir), self.manifest)
        except CacheCorruptError:
            is_damaged = True
        problems = verify_cache(output_dir)
        if is_damaged:
            write_manifest(output_dir, self.manifest)
        for problem in problems:
            if problem.shard is None:  # one of the small files: `write` makes all of them again
                for path in (index_path, quarantine_path, text_banks_path, category_tree_path):
                    path(output_dir).unlink(missing_ok=True)
            else:
                sidecar_path(output_dir, problem.shard).unlink(missing_ok=True)
        return problems

    def write(self, output_dir: Path) -> tuple[CacheIndex, int]:
        """Write the missing parts of the merged cache.

        Every byte of a source is compared with its checksum when it is read.

        Args:
            output_dir: The cache's folder, locked against other writers.

        Returns:
            The index of the merged cache, and the number of shards written.
        """
        if manifest_path(output_dir).exists():
            check_same_manifest(read_manifest(output_dir), self.manifest)
        else:
            write_manifest(output_dir, self.manifest)
        self._store_text_banks(output_dir)
        if self._tree is not None:
            write_category_tree(output_dir, self._tree)
        num_shards, num_written = self.manifest.plan.num_shards, 0
        with safe_points():
            for shard in range(num_shards):
                if not shard_is_complete(output_dir, shard):
                    quarantined: list[QuarantinedImage] = []
                    write_shard(output_dir, shard, self._samples(shard, quarantined), quarantined)
                    num_written += 1
                    _logger.info("shard %d of %d", shard + 1, num_shards)
        return build_index(output_dir), num_written

    def _samples(self, shard: int, quarantined: list[QuarantinedImage]) -> Iterator[CachedSample]:
        for place in self.manifest.plan.images_of(shard):
            check_stop()
            number = int(np.searchsorted(self._ends, place, side="right"))
            block = self._blocks[number]
            image = block.image(place - self._ends[number] + len(block.keys))
            if isinstance(image, QuarantinedImage):
                quarantined.append(image)
            else:
                yield image

    def _store_text_banks(self, output_dir: Path) -> None:
        """Store the text banks of all sources; the first of equal names and templates is kept."""
        store = TextBankStore(text_banks_path(output_dir))
        clip_sha256 = self.manifest.fingerprint.clip_weights_sha256
        for cache in self._caches:
            own = TextBankStore(text_banks_path(cache.path))
            for bank in own.banks(clip_sha256=clip_sha256):
                key = {"templates": bank.templates, "clip_sha256": clip_sha256}
                if store.get(bank.vocabulary, **key) is None:
                    store.put(bank.vocabulary, bank.bank, **key)


def _check_can_be_mixed(first: FeatureCache, other: FeatureCache) -> None:
    differences = manifest_differences(other.manifest, first.manifest, but=_MAY_DIFFER)
    advice = "Only caches of the same models, settings and classes can be merged."
    if all(line.startswith(("vocabulary", "category_ids")) for line in differences):
        advice = (
            "Their classes differ. Train on both as they are, which mixes them:"
            f" --data.train '[{first.location}, {other.location}]'"
        )
    elif differences and all(line.startswith(("schema_version", "masks")) for line in differences):
        advice = (
            "Their formats differ. Make the one that lacks something again, into another folder, by"
            " the command that made it; --reuse <its folder> copies the feature maps. Or train on"
            f" both as they are: --data.train '[{first.location}, {other.location}]'"
        )
    refuse_differences(differences, found=other.location, wanted=first.location, advice=advice)


def _common_tree(caches: Sequence[FeatureCache]) -> Descendants | None:
    """Return the category tree of the caches that have one; all have the same classes."""
    trees = {cache.location: read_category_tree(cache.path) for cache in caches}
    known = [(location, tree) for location, tree in trees.items() if tree is not None]
    for location, tree in known:
        if tree != known[0][1]:
            raise CacheMismatchError(
                f"{location} has another category tree than {known[0][0]}; wanted the same, as"
                " a cache has only one. Make one of them again with the tree of the other"
                " (--annotations.tree_path)."
            )
    return known[0][1] if known else None


def _blocks_of(cache: FeatureCache) -> Iterator[_Block]:
    cache.files.pull(sidecars=True)
    for shard in range(cache.index.num_shards):
        sidecar = read_indexed_sidecar(cache.path, cache.index, shard)
        yield _Block(
            cache=cache,
            first=int(cache.index.shard_starts[shard]),
            keys=(*sidecar.keys, *(image.key for image in sidecar.quarantined)),
            quarantined=sidecar.quarantined,
        )


def _check_keys(blocks: Sequence[_Block]) -> None:
    known: dict[str, str] = {}
    for block in blocks:
        for key in block.keys:
            if key in known:
                raise AnnotationError(
                    f"{known[key]} and {block.cache.location} both have an image with the key"
                    f" {key!r}; wanted each image once. Leave one of the caches out, or make one of"
                    " them without the images of the other."
                )
            known[key] = block.cache.location
