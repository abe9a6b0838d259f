"""A finished cache, opened for reading."""

import logging
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from regionspot.cache.cache_files import CacheFiles
from regionspot.cache.category_tree import Descendants, read_category_tree
from regionspot.cache.fetching_ahead import FetchingAhead
from regionspot.cache.fingerprint import Fingerprint
from regionspot.cache.image_copies import BatchTargets
from regionspot.cache.index import CacheIndex
from regionspot.cache.kept_tars import KeptRemoteFiles
from regionspot.cache.layout import (
    CACHE_COMMAND,
    index_path,
    shard_path,
    text_banks_path,
)
from regionspot.cache.manifest import Manifest
from regionspot.cache.opening import (
    check_sidecar_is_known,
    fits_in_memory,
    max_open_shards,
    read_checked,
)
from regionspot.cache.remote_files import named_by_url
from regionspot.cache.sample import CachedSample
from regionspot.cache.shard import ShardReader
from regionspot.cache.text_banks import TextBankStore
from regionspot.core.errors import CacheCorruptError, MissingFileError
from regionspot.storage import is_url, max_local_bytes

logger = logging.getLogger(__name__)


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
        num_open = max_open_shards(index.num_shards)
        if self.is_remote:
            # A copy that was evicted takes its space as long as it is mapped.
            num_kept = limit_bytes // max(int(index.tar_bytes.max(initial=1)), 1)
            num_open = min(num_open, max(num_kept, 1))
        self._reader = lru_cache(maxsize=num_open)(self._open_shard)
        # One byte each, set once this process has compared it with its checksum. Two threads may
        # do so at once, which does no harm.
        self._image_is_checked = bytearray(len(index))
        num_bytes = int(index.tar_bytes.sum())
        self._stays_at_hand = (
            num_bytes <= limit_bytes if self.is_remote else fits_in_memory(num_bytes)
        )
        self._shard_is_checked = bytearray(index.num_shards)
        self._fetching_ahead = FetchingAhead(self._fetch)

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
        sample = self._checked(index, shard).sample(self._place(index, shard))
        wanted = self._index.key(index)
        if sample.key != wanted:
            raise CacheCorruptError(
                f"{shard_path(self._path, shard)} holds the image {sample.key!r} where"
                f" {index_path(self._path).name} says {wanted!r}. Finish the cache again, which"
                f" rebuilds the index: {CACHE_COMMAND}"
            )
        return sample

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
        for row, (image, shard, offsets, num_regions) in enumerate(
            zip(images.tolist(), *(column[images].tolist() for column in columns), strict=True)
        ):
            if image < 0:  # what is too large was found by its column
                raise IndexError(f"image {image} is not among the {len(self)} of {self.location}.")
            # Held by its name while it is copied from, or another thread might have it unmapped.
            reader = self._checked(image, shard)
            targets.fill(row, reader.address, offsets, num_regions)

    def read_ahead(self, images: NDArray[np.int64]) -> None:
        """Have images read from disk soon, or their shards fetched; returns at once.

        Does nothing for images that were read before and should still be at hand. Of a remote cache
        of which not all shards can be kept here, none is fetched: it might go before it is used.
        """
        if not self._stays_at_hand and self.is_remote:
            return
        for image, shard in zip(images.tolist(), self._index.shards[images].tolist(), strict=True):
            if self._image_is_checked[image] and self._stays_at_hand:
                continue
            if self.is_remote:
                self._fetching_ahead.ask(shard)
            else:
                self._reader(shard).read_ahead(self._place(image, shard))

    def read_shard_ahead(self, shard: int) -> None:
        """Have a shard read from disk from front to end, or fetched, soon; returns at once."""
        if self.is_remote:
            self._fetching_ahead.ask(shard)
            return
        reader = self._reader(shard)
        for image in range(len(reader)):  # one by one: what one request reads ahead is limited
            reader.read_ahead(image)

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
        self._reader.cache_clear()

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

    def _checked(self, image: int, shard: int) -> ShardReader:
        """Return the reader of the shard that holds an image, once that was found whole."""
        reader = self._reader(shard)
        if self._image_is_checked[image]:
            return reader
        place = self._place(image, shard)
        try:
            reader.check_image(place)
        except CacheCorruptError:
            if not self._files.drop_copy(shard, self._sidecar_sha256(shard)):
                raise
            # It was whole when it was fetched.
            logger.warning("%s: the copy of shard %d here was damaged", self.location, shard)
            self.close()
            reader = self._reader(shard)
            reader.check_image(place)
        self._image_is_checked[image] = True
        return reader

    def _place(self, image: int, shard: int) -> int:
        return image - int(self._index.shard_starts[shard])

    def _sidecar_sha256(self, shard: int) -> str:
        return self._index.sidecar_sha256[shard].decode("ascii")

    def _open_shard(self, shard: int) -> ShardReader:
        sidecar_sha256 = self._sidecar_sha256(shard)
        # What is kept of a remote cache was compared with its sidecar when it was fetched.
        if not (self.is_remote or self._shard_is_checked[shard]):
            check_sidecar_is_known(self._path, shard, sidecar_sha256)
            self._shard_is_checked[shard] = True
        with self._files.tar(shard, sidecar_sha256) as path:
            return ShardReader(path, self._index.layout(shard))

    def _fetch(self, shard: int) -> None:
        with self._files.tar(shard, self._sidecar_sha256(shard)):
            pass


def _reopened(kind: type[FeatureCache], location: str, max_local_gb: float) -> FeatureCache:
    return kind.open(location, max_local_gb=max_local_gb)
