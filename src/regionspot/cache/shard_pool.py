"""The open shards of a cache: mapped when first read, with every image checked once.

A finished cache is checked before its images are read. Shards of a remote cache are downloaded in
the background, before their images are needed.
"""

import errno
import logging
import os
import resource
import threading
import weakref
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regionspot.cache.cache_files import CacheFiles
from regionspot.cache.fingerprint import Fingerprint, check_same_fingerprint
from regionspot.cache.index import CacheIndex, check_all_shards_present
from regionspot.cache.index_checks import range_fault
from regionspot.cache.layout import (
    CACHE_COMMAND,
    REPAIR_COMMAND,
    index_path,
    manifest_path,
    shard_path,
    sidecar_path,
)
from regionspot.cache.manifest import Manifest, read_manifest
from regionspot.cache.shard import ShardReader, check_tar_bytes
from regionspot.cache.sidecar import read_sealed_sidecar
from regionspot.core.errors import CacheCorruptError, ConfigError, MissingFileError
from regionspot.storage import is_url


def read_checked(files: CacheFiles, fingerprint: Fingerprint | None) -> tuple[Manifest, CacheIndex]:
    """Return manifest and index of a finished cache, all of whose shards have their sizes.

    Raises:
        MissingFileError: The folder is no cache.
        CacheMismatchError: It is of another schema version, or has another fingerprint than wanted.
        CacheCorruptError: It is not finished, or a file is damaged.
    """
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


def check_sidecar_is_known(folder: Path, shard: int, sidecar_sha256: str) -> None:
    """Compare a sidecar with the seal that the index knows.

    Training reads no sidecar, but a damaged one says that the disk cannot be trusted.

    Raises:
        CacheCorruptError: It is missing, damaged, or another one.
    """
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
    if not index_path(folder).exists():
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
    form, token_dim = manifest.feature_map_form, manifest.fingerprint.token_dim
    stored = (index.feature_map_dtype, index.num_feature_tokens, index.feature_map_width)
    fault = range_fault(
        tar_bytes=index.tar_bytes[index.shards],
        form=form,
        token_dim=token_dim,
        json_offsets=index.json_offsets,
        data_offsets=index.data_offsets,
        num_regions=index.num_regions,
    )
    if (*stored, index.token_dim) != (form.dtype, *form.shape, token_dim):
        fault = "its arrays have other shapes than those of the manifest"
    elif len(index.label_counts) != len(manifest.vocabulary):
        fault = "it counts other classes than those of the manifest"
    if fault is not None:
        raise CacheCorruptError(
            f"{index_path(folder)} was not written by this library: {fault}. Do not trust where it"
            f" came from, or rebuild it: {CACHE_COMMAND}"
        )
    return index


logger = logging.getLogger(__name__)

_NUM_AT_ONCE = 4


class FetchingAhead:
    """Fetches shards in threads of its own, a few at once.

    What goes wrong is left to whoever reads an image of that shard: fetching it then meets the same
    error, where it can be told. The threads do not keep a process from ending.

    Args:
        fetch: Brings a shard to this machine, unless it is there; may be called in several threads.
    """

    def __init__(self, fetch: Callable[[int], None]) -> None:
        self._fetch = fetch
        self._asked: set[int] = set()
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(_NUM_AT_ONCE)

    def ask(self, shard: int) -> None:
        """Have a shard fetched soon, unless that was asked for and is not done yet."""
        with self._lock:
            if shard in self._asked:
                return
            self._asked.add(shard)
        name = f"regionspot-fetch-{shard:06d}"
        threading.Thread(target=self._run, args=(shard,), name=name, daemon=True).start()

    def _run(self, shard: int) -> None:
        try:
            with self._slots:
                self._fetch(shard)
        except Exception as error:  # noqa: BLE001 - see the class
            logger.debug("shard %d could not be fetched ahead: %s", shard, error)
        finally:
            with self._lock:
                self._asked.discard(shard)


_MORE_FILES = "Type `ulimit -Hn` to see how many it may, and have that raised."
_MIN_OPEN = 512  # where fewer shards can be open than these and than there are, one is told
_DESCRIPTORS_LEFT = 512
"""What is left to the rest of the process; each mapped shard takes a file descriptor."""


class OpenShards:
    """Gives the reader of any shard, from several threads.

    Args:
        files: The files of the cache.
        index: Its index.
        limit_bytes: What the shards that are kept here of remote caches may take.
    """

    def __init__(self, files: CacheFiles, index: CacheIndex, *, limit_bytes: int) -> None:
        self._files = files
        self._index = index
        self._is_remote = is_url(files.location)
        num_open = _max_open(index.num_shards)
        if num_open < min(index.num_shards, _MIN_OPEN):
            logger.warning(
                "%s: %d of its %d shards can be open at once, so they are opened again and again,"
                " which is slow: this process may open few files. %s",
                files.location,
                num_open,
                index.num_shards,
                _MORE_FILES,
            )
        num_bytes = int(index.tar_bytes.sum())
        if self._is_remote:
            # A copy that was evicted takes its space as long as it is mapped.
            num_kept = limit_bytes // max(int(index.tar_bytes.max(initial=1)), 1)
            num_open = min(num_open, max(num_kept, 1))
            self._stay_at_hand = num_bytes <= limit_bytes
        else:
            self._stay_at_hand = num_bytes < _memory_bytes() / 2
        self._reader = lru_cache(maxsize=num_open)(self._open)
        # Set once this process has opened a shard, or compared an image with its checksum. Two
        # threads may do so at once, which does no harm.
        self._was_opened = bytearray(index.num_shards)
        self._image_is_checked = bytearray(len(index))
        self._fetching_ahead = FetchingAhead(self._fetch)
        _IN_USE.add(self)

    def reader(self, image: int, shard: int) -> ShardReader:
        """Return the reader of the shard that holds an image, once the image was found whole.

        It is to be held while it is read from, or another thread might have it unmapped. Whether
        its file is still as long as it was is for the caller to ask (`ShardReader.check_size`).

        Args:
            image: Position in the cache, counted from 0.
            shard: The shard that it is in.

        Raises:
            CacheCorruptError: The image, or the sidecar of its shard, is damaged.
        """
        reader = self._reader(shard)
        if self._image_is_checked[image]:
            return reader
        reader.check_size()
        place = self.place(image, shard)
        try:
            reader.check_image(place, num_classes=len(self._index.label_counts))
        except CacheCorruptError:
            if not self._files.drop_copy(shard, self._sidecar_sha256(shard)):
                raise
            # It was whole when it was fetched.
            logger.warning("%s: the copy of shard %d here was damaged", self._files.location, shard)
            self.close()
            reader = self._reader(shard)
            reader.check_image(place, num_classes=len(self._index.label_counts))
        self._image_is_checked[image] = True
        return reader

    def place(self, image: int, shard: int) -> int:
        """Return the position of an image in its shard."""
        return image - int(self._index.shard_starts[shard])

    def read_images_ahead(self, images: NDArray[np.int64]) -> None:
        """Have images read from disk soon, or their shards fetched; returns at once.

        Does nothing for images that were read before and should still be at hand. Of a remote cache
        of which not all shards can be kept here, none is fetched: it might go before it is used.
        """
        if self._is_remote and not self._stay_at_hand:
            return
        for image, shard in zip(images.tolist(), self._index.shards[images].tolist(), strict=True):
            if self._image_is_checked[image] and self._stay_at_hand:
                continue
            if not self._is_remote:
                self._reader(shard).read_ahead(self.place(image, shard))
            elif not self._was_opened[shard]:
                self._fetching_ahead.ask(shard)

    def read_shard_ahead(self, shard: int) -> None:
        """Have a shard read from disk from front to end, or fetched, soon; returns at once."""
        if self._is_remote:
            self._fetching_ahead.ask(shard)
            return
        reader = self._reader(shard)
        for image in range(len(reader)):  # one by one: what one request reads ahead is limited
            reader.read_ahead(image)

    def close(self) -> None:
        """Let go of all memory maps; those with samples still in use stay until these are gone."""
        self._reader.cache_clear()

    def _open(self, shard: int) -> ShardReader:
        try:
            return self._mapped(shard)
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
        # Something else took the descriptors that were left to it: give back what caches have.
        for shards in list(_IN_USE):
            shards.close()
        try:
            return self._mapped(shard)
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            raise ConfigError(
                f"shard {shard} of {self._files.location} cannot be opened: this process has as"
                f" many files open as it may. {_MORE_FILES}"
            ) from error

    def _mapped(self, shard: int) -> ShardReader:
        sidecar_sha256 = self._sidecar_sha256(shard)
        # What is kept of a remote cache was compared with its sidecar when it was fetched.
        if not (self._is_remote or self._was_opened[shard]):
            check_sidecar_is_known(self._files.folder, shard, sidecar_sha256)
        with self._files.tar(shard, sidecar_sha256) as path:
            reader = ShardReader(path, self._index.layout(shard))
        self._was_opened[shard] = True
        return reader

    def _fetch(self, shard: int) -> None:
        with self._files.tar(shard, self._sidecar_sha256(shard)):
            pass

    def _sidecar_sha256(self, shard: int) -> str:
        return self._index.sidecar_sha256[shard].decode("ascii")


_IN_USE: "weakref.WeakSet[OpenShards]" = weakref.WeakSet()


def _max_open(num_shards: int) -> int:
    """Return how many shards to keep mapped; more files may be open from now on, if need be.

    In random order each image is in another shard, and to map one anew costs as much as to copy an
    image.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = soft + num_shards
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if allowed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    left = min(_DESCRIPTORS_LEFT, allowed // 2)
    return max(min(num_shards, allowed - left), 1)


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
