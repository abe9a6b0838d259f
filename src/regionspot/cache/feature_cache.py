"""A finished cache, opened for reading."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from regionspot.cache.batch_copy import BatchTargets
from regionspot.cache.cache_files import CacheFiles
from regionspot.cache.fingerprint import Fingerprint
from regionspot.cache.index import CacheIndex
from regionspot.cache.layout import (
    CACHE_COMMAND,
    MASKS,
    PREDICTED_IOU,
    index_path,
    shard_path,
    text_banks_path,
)
from regionspot.cache.manifest import Manifest
from regionspot.cache.masks import decode_masks
from regionspot.cache.remote_files import KeptRemoteFiles, named_by_url
from regionspot.cache.sample import CachedSample, ImageDetails
from regionspot.cache.shard_pool import OpenShards, read_checked
from regionspot.cache.text_banks import TextBankStore
from regionspot.core.errors import CacheCorruptError, ConfigError, MissingFileError
from regionspot.storage import is_url, max_local_bytes


class FeatureCache:
    """The samples of a finished cache in the order of its plan, read through memory maps.

    Create it with `open`. It can be pickled: the copy opens the same cache again. It can be used
    from several threads.

    Attributes:
        files: Access to its files.
        manifest: What it holds and what made it.
        index: Where every image is, its number of regions, and the number of regions per class.
        limit_bytes: Disk space for the shards of all remote caches that are kept on this machine.
    """

    def __init__(
        self, files: CacheFiles, manifest: Manifest, index: CacheIndex, *, limit_bytes: int
    ) -> None:
        self.files = files
        self.manifest = manifest
        self.index = index
        self.limit_bytes = limit_bytes
        self._shards = OpenShards(files, index, limit_bytes=limit_bytes)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        fingerprint: Fingerprint | None = None,
        max_local_gb: float | None = None,
    ) -> Self:
        """Open a finished cache.

        This checks the seals of manifest and index, and the sizes of all shards. Each image is
        checked when it is first read (`sample`); `verify_cache` checks everything at once. For a
        URL, small files are downloaded here. Each shard is downloaded when first used, compared
        with its size and SHA-256, and kept on this machine.

        Args:
            path: The cache's folder, or its URL.
            fingerprint: The fingerprint that the cache must have; None accepts any.
            max_local_gb: Disk space, in units of 1e9 bytes, for the kept shards of all remote
                caches; None for ``$REGIONSPOT_MAX_LOCAL_GB``, or 100.

        Raises:
            MissingFileError: The folder is no cache.
            CacheMismatchError: It has another schema version, or another fingerprint than wanted;
                the message names the fields.
            CacheCorruptError: It is not finished, or a file is damaged.
            StorageError: The server refuses access or does not answer.
            ConfigError: ``max_local_gb`` is not positive.
        """
        limit_bytes = max_local_bytes(max_local_gb)
        files = KeptRemoteFiles(str(path), limit_bytes) if is_url(path) else CacheFiles(Path(path))
        with named_by_url(files):
            manifest, index = read_checked(files, fingerprint)
        return cls(files, manifest, index, limit_bytes=limit_bytes)

    @property
    def path(self) -> Path:
        """The cache's folder; for a remote cache, the local folder of its small files."""
        return self.files.folder

    @property
    def location(self) -> str:
        """The folder or URL by which the cache was opened."""
        return self.files.location

    @property
    def is_remote(self) -> bool:
        """Whether the cache is behind a URL."""
        return is_url(self.location)

    def __len__(self) -> int:
        """Return the number of images, without quarantined ones."""
        return len(self.index)

    def sample(self, index: int) -> CachedSample:
        """Return an image with its regions; its arrays are read-only views into a memory map.

        When an image is first read, all its bytes are compared with their checksum.

        Args:
            index: Position in the cache, counted from 0.

        Raises:
            CacheCorruptError: The image or the sidecar of its shard is damaged, or the shard holds
                another image there.
            IndexError: The cache has no such image.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} is not among the {len(self)} of {self.location}.")
        shard = int(self.index.shards[index])
        reader = self._shards.reader(index, shard)
        reader.check_size()
        sample = reader.sample(self._shards.place(index, shard))
        wanted = self.index.key(index)
        if sample.key != wanted:
            raise CacheCorruptError(
                f"{shard_path(self.path, shard)} holds the image {sample.key!r} where"
                f" {index_path(self.path).name} says {wanted!r}. Finish the cache again, which"
                f" rebuilds the index: {CACHE_COMMAND}"
            )
        return sample

    @property
    def has_predicted_iou(self) -> bool:
        """Whether predicted IoUs and file names are stored: from version 4 of the format on."""
        return PREDICTED_IOU in self.manifest.members

    @property
    def has_masks(self) -> bool:
        """Whether SAM's mask of each region is stored."""
        return MASKS in self.manifest.members

    def masks(self, sample: CachedSample) -> Iterator[NDArray[np.bool_]]:
        """Yield the masks of a sample's regions one by one, (H, W) bool at the original size.

        Raises:
            ConfigError: As `check_has_masks`.
            CacheCorruptError: As `decode_masks`.
        """
        self.check_has_masks()
        return decode_masks(sample.masks_rle or (), sample.size_hw)

    def check_has_masks(self) -> None:
        """Raise ConfigError if masks are not stored."""
        if not self.has_masks:
            raise ConfigError(
                f"{self.location} has no masks of its regions, which a head with guidance_region"
                f" 'mask' needs. Make it again with masks: {CACHE_COMMAND} --masks true."
            )

    def details(self, index: int) -> ImageDetails:
        """Return an image's file name, predicted IoUs and masks, without reading its arrays.

        They are compared with their checksums, which are in the sidecar of the image's shard: go
        through the images in order.

        Args:
            index: Position in the cache, counted from 0.

        Raises:
            CacheCorruptError: They, or the sidecar of the shard, are damaged.
            IndexError: The cache has no such image.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} is not among the {len(self)} of {self.location}.")
        if not self.has_predicted_iou:
            return ImageDetails()
        return self._shards.details(index, int(self.index.shards[index]))

    def features(self, sample: CachedSample) -> Tensor:
        """Return the decoded feature map of a sample, (T, D) in a float dtype; a copy."""
        codec = self.manifest.feature_codec
        return codec.decode(codec.to_tensor(sample.feature_map))

    def copy_arrays(self, images: NDArray[np.int64], targets: BatchTargets) -> None:
        """Copy the arrays of images into the rows of a batch.

        These are the arrays of `sample`, without its parsing. The padding after an image's last
        region is not written.

        Args:
            images: Positions in the cache, counted from 0.
            targets: The batch.
        """
        index = self.index
        columns = (index.shards, index.data_offsets, index.num_regions)
        are_whole: set[int] = set()  # checked once per batch, as it is a system call
        for row, (image, shard, offsets, num_regions) in enumerate(
            zip(images.tolist(), *(column[images].tolist() for column in columns), strict=True)
        ):
            if image < 0:  # indexing the columns has refused what is too large
                raise IndexError(f"image {image} is not among the {len(self)} of {self.location}.")
            reader = self._shards.reader(image, shard)  # held while it is copied from
            if shard not in are_whole:
                reader.check_size()
                are_whole.add(shard)
            targets.fill(row, reader.address, offsets, num_regions)

    def read_ahead(self, images: NDArray[np.int64]) -> None:
        """Start reading images from disk, or downloading their shards, in the background.

        Images that should still be in memory are skipped, and remote caches that exceed the limit
        of disk space.
        """
        self._shards.read_images_ahead(images)

    def read_shard_ahead(self, shard: int) -> None:
        """Start reading a whole shard from disk, or downloading it, in the background."""
        self._shards.read_shard_ahead(shard)

    def text_bank(self, templates: str) -> NDArray[np.float32]:
        """Return the unit-norm embeddings of the vocabulary by the cache's CLIP, (C, E).

        Args:
            templates: Name of the template set, such as ``"ensemble81"``.

        Raises:
            MissingFileError: There is no bank for these templates; the message lists all banks.
            CacheMismatchError: The banks were made by another CLIP than the cache.
            CacheCorruptError: The file of the banks is damaged.
        """
        store = TextBankStore(text_banks_path(self.path))
        vocabulary = self.manifest.vocabulary
        bank = store.get(
            vocabulary,
            templates=templates,
            clip_sha256=self.manifest.fingerprint.clip_weights_sha256,
        )
        if bank is None:
            present = ", ".join(store.templates_of(vocabulary)) or "none"
            raise MissingFileError(
                f"{store.path} has no text bank of the {len(vocabulary)} names for the templates"
                f" {templates!r}; there are: {present}. Choose one of these, or add it:"
                f" {CACHE_COMMAND} --templates '[{templates}]'"
            )
        return bank

    def close(self) -> None:
        """Release all memory maps; a map stays until its samples are deleted."""
        self._shards.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @override
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return partial(type(self).open, max_local_gb=self.limit_bytes / 1e9), (self.location,)
