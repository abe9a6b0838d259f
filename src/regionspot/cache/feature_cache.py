"""A finished cache, opened for reading."""

import logging
import resource
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from regionspot.cache.cache_files import CacheFiles
from regionspot.cache.category_tree import Descendants, read_category_tree
from regionspot.cache.fingerprint import Fingerprint, check_same_fingerprint
from regionspot.cache.index import CacheIndex, check_all_shards_present
from regionspot.cache.kept_tars import KeptRemoteFiles
from regionspot.cache.layout import (
    CACHE_COMMAND,
    REPAIR_COMMAND,
    index_path,
    manifest_path,
    shard_path,
    sidecar_path,
    text_banks_path,
)
from regionspot.cache.manifest import Manifest, read_manifest
from regionspot.cache.remote_files import named_by_url
from regionspot.cache.sample import CachedSample
from regionspot.cache.shard import ShardReader, check_tar_bytes
from regionspot.cache.sidecar import read_sealed_sidecar
from regionspot.cache.text_banks import TextBankStore
from regionspot.core.errors import CacheCorruptError, MissingFileError
from regionspot.core.units import human_bytes
from regionspot.storage import is_url, max_local_bytes

logger = logging.getLogger(__name__)

_DESCRIPTORS_LEFT = 512
"""What is left to the rest of the process; each mapped shard takes a file descriptor."""


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
        num_open = _max_open_shards(index.num_shards)
        if is_url(files.location):
            # A copy that was evicted takes its space as long as it is mapped.
            num_kept = limit_bytes // max(int(index.tar_bytes.max(initial=1)), 1)
            num_open = min(num_open, max(num_kept, 1))
        self._reader = lru_cache(maxsize=num_open)(self._open_shard)
        # One byte each, set once this process has compared it with its checksum. Two threads may
        # do so at once, which does no harm.
        self._image_is_checked = bytearray(len(index))
        self._shard_is_checked = bytearray(index.num_shards)

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
            manifest, index = _read_checked(files, fingerprint)
        if is_url(path) and (total := int(index.tar_bytes.sum())) > limit_bytes:
            logger.warning(
                "%s has %s of shards, but only %s of them are kept here: those read in random order"
                " are fetched again and again. Raise max_local_gb if the disk can take them, or set"
                " data.shuffle_window to as many shards as fit.",
                *(path, human_bytes(total), human_bytes(limit_bytes)),
            )
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
        reader, place = self._checked(index)
        sample = reader.sample(place)
        wanted = self._index.key(index)
        if sample.key != wanted:
            shard = int(self._index.shards[index])
            raise CacheCorruptError(
                f"{shard_path(self._path, shard)} holds the image {sample.key!r} where"
                f" {index_path(self._path).name} says {wanted!r}. Finish the cache again, which"
                f" rebuilds the index: {CACHE_COMMAND}"
            )
        return sample

    def arrays(self, index: int) -> tuple[NDArray[Any], ...]:
        """Return the arrays of an image alone, in the order of `ARRAY_MEMBERS`, for a loader.

        They are those of `sample`, in a tenth of the time: keys, ids and sizes are in `index`, and
        that these bytes are the image's was checked when it was read for the first time.

        Args:
            index: Position in the cache, counted from 0.

        Raises:
            CacheCorruptError: The image, or the sidecar of its shard, is damaged.
            IndexError: The cache has no such image.
        """
        reader, place = self._checked(index)
        return reader.arrays(place)

    def read_ahead(self, index: int) -> None:
        """Ask the system to read an image from disk soon; returns at once."""
        if self._image_is_checked[index] or is_url(self.location):
            return  # read before, so as likely as not in memory; or the shard has yet to be fetched
        shard = int(self._index.shards[index])
        self._reader(shard).read_ahead(index - int(self._index.shard_starts[shard]))

    def read_shard_ahead(self, shard: int) -> None:
        """Ask the system to read a shard from disk from front to end; returns soon."""
        if is_url(self.location):
            return  # it has yet to be fetched
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

    def _checked(self, index: int) -> tuple[ShardReader, int]:
        """Return the reader of an image that is whole, and the image's place in the shard."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} is not among the {len(self)} of {self.location}.")
        shard = int(self._index.shards[index])
        reader, place = self._reader(shard), index - int(self._index.shard_starts[shard])
        if not self._image_is_checked[index]:
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
            self._image_is_checked[index] = True
        return reader, place

    def _sidecar_sha256(self, shard: int) -> str:
        return self._index.sidecar_sha256[shard].decode("ascii")

    def _open_shard(self, shard: int) -> ShardReader:
        sidecar_sha256 = self._sidecar_sha256(shard)
        # What is kept of a remote cache was compared with its sidecar when it was fetched.
        if not (is_url(self.location) or self._shard_is_checked[shard]):
            _check_sidecar(self._path, shard, sidecar_sha256)
            self._shard_is_checked[shard] = True
        with self._files.tar(shard, sidecar_sha256) as path:
            return ShardReader(path, self._index.layout(shard))


def _reopened(kind: type[FeatureCache], location: str, max_local_gb: float) -> FeatureCache:
    return kind.open(location, max_local_gb=max_local_gb)


def _read_checked(
    files: CacheFiles, fingerprint: Fingerprint | None
) -> tuple[Manifest, CacheIndex]:
    folder = files.folder
    manifest = read_manifest(folder)
    if fingerprint is not None:
        check_same_fingerprint(
            manifest.fingerprint, fingerprint, found_in=f"the cache {files.location}"
        )
    check_all_shards_present(folder, manifest.plan.num_shards, files.names_of_shards())
    index = _read_index(folder, manifest)
    for shard in range(index.num_shards):
        found = files.tar_bytes(shard)
        if found is not None:
            check_tar_bytes(found, int(index.tar_bytes[shard]), shard_path(folder, shard))
    return manifest, index


def _max_open_shards(num_shards: int) -> int:
    """Return how many shards to keep mapped; more files may be open from now on, if need be.

    In random order each image is in another shard, and to map one anew costs as much as to copy an
    image.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = soft + num_shards
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if allowed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(min(num_shards, allowed - _DESCRIPTORS_LEFT), 64)


def _check_sidecar(folder: Path, shard: int, sidecar_sha256: str) -> None:
    """Training reads no sidecar, but a damaged one says that the disk cannot be trusted."""
    try:
        _, seal = read_sealed_sidecar(folder, shard)
    except MissingFileError as error:
        raise CacheCorruptError(
            f"{sidecar_path(folder, shard)} is missing, so its shard was taken away. Make it again:"
            f" {REPAIR_COMMAND}"
        ) from error
    if seal != sidecar_sha256:
        raise CacheCorruptError(
            f"{sidecar_path(folder, shard)} is not the one that {index_path(folder).name} was built"
            f" from. Finish the cache again, which rebuilds the index: {CACHE_COMMAND}"
        )


def _read_index(folder: Path, manifest: Manifest) -> CacheIndex:
    if not index_path(folder).is_file():
        raise CacheCorruptError(
            f"{folder} is not finished: all shards are there, but {index_path(folder).name} is"
            f" missing. Run the command that makes it again to finish it: {CACHE_COMMAND}"
        )
    index = CacheIndex.read(folder)
    if index.manifest_sha256 != manifest.sha256:
        raise CacheCorruptError(
            f"{manifest_path(folder)} is not the one that the cache was made under. Restore that"
            f" one, or remove the folder and cache again: {CACHE_COMMAND}"
        )
    if index.num_shards != manifest.plan.num_shards:
        raise CacheCorruptError(
            f"{index_path(folder)} knows {index.num_shards} shards; the manifest plans"
            f" {manifest.plan.num_shards}. Run the command that makes the cache again to rebuild"
            f" it: {CACHE_COMMAND}"
        )
    return index
