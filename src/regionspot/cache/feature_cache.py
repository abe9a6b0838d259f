"""A finished cache, opened for reading."""

from pathlib import Path
from types import TracebackType
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
    index_path,
    shard_path,
    text_banks_path,
)
from regionspot.cache.manifest import Manifest
from regionspot.cache.remote_copies import KeptRemoteFiles
from regionspot.cache.remote_files import named_by_url
from regionspot.cache.sample import CachedSample
from regionspot.cache.shard_pool import OpenShards, read_checked
from regionspot.cache.text_banks import Descendants, TextBankStore, read_category_tree
from regionspot.core.errors import CacheCorruptError, MissingFileError
from regionspot.storage import is_url, max_local_bytes


class FeatureCache:
    """The samples of a finished cache in the order of its plan, read through memory maps.

    Make one with `open`. It can be pickled: the copy opens the same folder again. Samples may be
    read from several threads.
    """

    def __init__(
        self, files: CacheFiles, manifest: Manifest, index: CacheIndex, *, limit_bytes: int
    ) -> None:
        self._files = files
        self._path = files.folder
        self._manifest = manifest
        self._index = index
        self._limit_bytes = limit_bytes
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

        Sizes of all shards are checked here, the seals of the manifest and the index too. Contents
        are checked image by image when they are read first (`sample`), all at once by
        `verify_cache`. Of a cache behind a URL the small files are fetched here; each shard follows
        when it is first touched, is compared with its size and SHA-256, and is kept on this
        machine.

        Args:
            path: The cache's folder, or its URL.
            fingerprint: What the cache must have been made with; None accepts any.
            max_local_gb: Disk space, in units of 1e9 bytes, for the shards that are kept of all
                remote caches; None for ``$REGIONSPOT_MAX_LOCAL_GB``, or 100.

        Raises:
            MissingFileError: The folder is no cache.
            CacheMismatchError: It is of another schema version, or has another fingerprint than
                wanted; the message names the fields.
            CacheCorruptError: It is not finished, or a file is damaged.
            StorageError: The URL's server refuses, or does not answer.
            ConfigError: The disk space is no positive number.
        """
        limit_bytes = max_local_bytes(max_local_gb)
        files = KeptRemoteFiles(str(path), limit_bytes) if is_url(path) else CacheFiles(Path(path))
        with named_by_url(files):
            manifest, index = read_checked(files, fingerprint)
        return cls(files, manifest, index, limit_bytes=limit_bytes)

    @property
    def path(self) -> Path:
        """The cache's folder; of a remote cache the one that holds its small files here."""
        return self._path

    @property
    def location(self) -> str:
        """What the cache was opened by: its folder or its URL."""
        return self._files.location

    @property
    def is_remote(self) -> bool:
        """Whether it lies behind a URL, so that its shards are fetched."""
        return is_url(self._files.location)

    @property
    def limit_bytes(self) -> int:
        """Disk space for the shards that are kept here of all remote caches."""
        return self._limit_bytes

    @property
    def files(self) -> CacheFiles:
        """Where its files are."""
        return self._files

    @property
    def manifest(self) -> Manifest:
        """What the cache holds and what made it."""
        return self._manifest

    @property
    def index(self) -> CacheIndex:
        """Where every image lies, how many regions it has, and how often each class occurs."""
        return self._index

    def __len__(self) -> int:
        """Return the number of images, without quarantined ones."""
        return len(self._index)

    def sample(self, index: int) -> CachedSample:
        """Return an image with its regions; its arrays are read-only views into a memory map.

        All bytes of an image are compared with their checksum when it is read for the first time.

        Args:
            index: Position in the cache, counted from 0.

        Raises:
            CacheCorruptError: The shard holds another image there than the index says, or is
                damaged; or its sidecar is.
            IndexError: The cache has no such image.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} is not among the {len(self)} of {self.location}.")
        shard = int(self._index.shards[index])
        reader = self._shards.reader(index, shard)
        reader.check_size()
        sample = reader.sample(self._shards.place(index, shard))
        wanted = self._index.key(index)
        if sample.key != wanted:
            raise CacheCorruptError(
                f"{shard_path(self._path, shard)} holds the image {sample.key!r} where"
                f" {index_path(self._path).name} says {wanted!r}. Finish the cache again, which"
                f" rebuilds the index: {CACHE_COMMAND}"
            )
        return sample

    def features(self, sample: CachedSample) -> Tensor:
        """Return the feature map of one of its samples decoded, (T, D) in a float dtype; a copy."""
        codec = self._manifest.feature_codec
        return codec.decode(codec.to_tensor(sample.feature_map))

    def copy_arrays(self, images: NDArray[np.int64], targets: BatchTargets) -> None:
        """Copy the arrays of images into the rows of a batch, for a loader.

        They are those of `sample`, without parsing: keys, ids and sizes are in `index`, and that
        these bytes are the image's was checked when it was read for the first time. What lies
        behind an image's last region in its row is left as it is.

        Args:
            images: Positions in the cache, counted from 0.
            targets: Where to.

        Raises:
            CacheCorruptError: An image, or the sidecar of its shard, is damaged.
            IndexError: The cache has no such image.
            ShapeError: There is not room for all of it.
        """
        index = self._index
        columns = (index.shards, index.data_offsets, index.num_regions)
        are_whole: set[int] = set()  # one look a batch: it is a call of the system
        for row, (image, shard, offsets, num_regions) in enumerate(
            zip(images.tolist(), *(column[images].tolist() for column in columns), strict=True)
        ):
            if image < 0:  # what is too large was found by its column
                raise IndexError(f"image {image} is not among the {len(self)} of {self.location}.")
            reader = self._shards.reader(image, shard)  # held while it is copied from
            if shard not in are_whole:
                reader.check_size()
                are_whole.add(shard)
            targets.fill(row, reader.address, offsets, num_regions)

    def read_ahead(self, images: NDArray[np.int64]) -> None:
        """Have images read from disk soon, or their shards fetched; returns at once.

        Does nothing for images that were read before and should still be at hand, nor for a remote
        cache of which not all shards can be kept here.
        """
        self._shards.read_images_ahead(images)

    def read_shard_ahead(self, shard: int) -> None:
        """Have a shard read from disk from front to end, or fetched, soon; returns at once."""
        self._shards.read_shard_ahead(shard)

    def text_bank(self, templates: str) -> NDArray[np.float32]:
        """Return the unit-norm embeddings, (C, E), of the vocabulary by the cache's CLIP.

        Args:
            templates: Name of the template set, such as ``"ensemble81"``.

        Raises:
            MissingFileError: The cache has no bank for this template set; the message names those
                it has.
            CacheMismatchError: The banks were made by another CLIP than the cache.
            CacheCorruptError: The file of the banks is damaged.
        """
        store = TextBankStore(text_banks_path(self._path))
        vocabulary = self._manifest.vocabulary
        bank = store.get(
            vocabulary,
            templates=templates,
            clip_sha256=self._manifest.fingerprint.clip_weights_sha256,
        )
        if bank is None:
            present = ", ".join(store.templates_of(vocabulary)) or "none"
            raise MissingFileError(
                f"{store.path} has no text bank of the {len(vocabulary)} names for the templates"
                f" {templates!r}; there are: {present}. Choose one of these, or add it:"
                f" {CACHE_COMMAND} --templates '[{templates}]'"
            )
        return bank

    def category_tree(self) -> Descendants | None:
        """Return for each class the labels of all kinds of it; None if the data set does not say.

        Raises:
            CacheMismatchError: The file is of another schema version.
            CacheCorruptError: The file is damaged.
        """
        return read_category_tree(self._path)

    def close(self) -> None:
        """Let go of all memory maps; those with samples still in use stay until these are gone."""
        self._shards.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @override
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return _reopened, (type(self), self.location, self._limit_bytes / 1e9)


def _reopened(kind: type[FeatureCache], location: str, max_local_gb: float) -> FeatureCache:
    return kind.open(location, max_local_gb=max_local_gb)
