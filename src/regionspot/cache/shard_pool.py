"""The open shards of a cache, mapped when first read.

The cache is checked when it is opened, every image when it is first read. Shards of a remote cache
are downloaded in the background before their images are needed.
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
from regionspot.cache.layout import (
    CACHE_COMMAND,
    REPAIR_COMMAND,
    index_path,
    manifest_path,
    shard_path,
    sidecar_path,
)
from regionspot.cache.manifest import Manifest, read_manifest
from regionspot.cache.sample import ImageDetails
from regionspot.cache.shard_reader import ShardReader, check_tar_bytes
from regionspot.cache.sidecar import ShardSidecar, read_sealed_sidecar
from regionspot.core.errors import CacheCorruptError, ConfigError, MissingFileError
from regionspot.storage import is_url


def read_checked(files: CacheFiles, fingerprint: Fingerprint | None) -> tuple[Manifest, CacheIndex]:
    """Return manifest and index of a finished cache, after comparing the sizes of all shards.

    Raises what `FeatureCache.open` raises.
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


def read_indexed_sidecar(folder: Path, index: CacheIndex, shard: int) -> ShardSidecar:
    """Read a sidecar, which must be the one that the index was built from."""
    try:
        sidecar, seal = read_sealed_sidecar(folder, shard)
    except MissingFileError as error:
        raise CacheCorruptError(
            f"{sidecar_path(folder, shard)} is missing, so its shard is unfinished. Make it again:"
            f" {REPAIR_COMMAND}"
        ) from error
    if seal != index.sidecar_seal(shard):
        raise CacheCorruptError(
            f"{sidecar_path(folder, shard)} is not the one that {index_path(folder).name} was built"
            f" from. Finish the cache again, which rebuilds the index: {CACHE_COMMAND}"
        )
    return sidecar


def _read_index(folder: Path, manifest: Manifest) -> CacheIndex:
    path = index_path(folder)
    if not path.exists():
        raise CacheCorruptError(
            f"{folder} is not finished: all shards are there, but {path.name} is missing. Run the"
            f" command that makes it again to finish it: {CACHE_COMMAND}"
        )
    index = CacheIndex.read(folder)
    if index.manifest_sha256 != manifest.sha256:
        raise CacheCorruptError(
            f"{manifest_path(folder)} is not the one that the cache was made with. Restore that"
            f" one, or remove the folder and cache again: {CACHE_COMMAND}"
        )
    if index.num_shards != manifest.plan.num_shards:
        raise CacheCorruptError(
            f"{path} has {index.num_shards} shards; the manifest plans"
            f" {manifest.plan.num_shards}. Run the command that makes the cache again to rebuild"
            f" it: {CACHE_COMMAND}"
        )
    form, token_dim = manifest.feature_map_form, manifest.fingerprint.token_dim
    stored = (index.feature_map_dtype, index.num_feature_tokens, index.feature_map_width)
    if (*stored, index.token_dim) != (form.dtype, *form.shape, token_dim):
        fault: str | None = "its arrays have other shapes than those of the manifest"
    elif index.data_offsets.shape[1] != len(manifest.members) - 1:
        fault = "its images have other members than those of the manifest"
    elif len(index.label_counts) != len(manifest.vocabulary):
        fault = "it counts other classes than those of the manifest"
    else:
        fault = index.range_fault()
    if fault is not None:
        raise CacheCorruptError(
            f"{path} was not written by this library: {fault}. Do not trust where it came from, or"
            f" rebuild it: {CACHE_COMMAND}"
        )
    return index


logger = logging.getLogger(__name__)

_NUM_AT_ONCE = 4


class Prefetcher:
    """Downloads shards in background threads, a few at once.

    Errors are only logged: reading an image of that shard downloads it again and raises them. The
    threads are daemons, so a process can end while they run; those of a pool would be waited for.

    Args:
        fetch: Downloads a shard unless it is already here; called in several threads.
    """

    def __init__(self, fetch: Callable[[int], None]) -> None:
        self._fetch = fetch
        self._pending: set[int] = set()
        self._lock = threading.Lock()
        self._slots = threading.Semaphore(_NUM_AT_ONCE)

    def request(self, shard: int) -> None:
        """Start downloading a shard, unless a request for it is pending."""
        with self._lock:
            if shard in self._pending:
                return
            self._pending.add(shard)
        name = f"regionspot-fetch-{shard:06d}"
        threading.Thread(target=self._run, args=(shard,), name=name, daemon=True).start()

    def _run(self, shard: int) -> None:
        try:
            with self._slots:
                self._fetch(shard)
        except Exception as error:  # noqa: BLE001 - see the class
            logger.debug("shard %d could not be prefetched: %s", shard, error)
        finally:
            with self._lock:
                self._pending.discard(shard)


_MORE_FILES = "Type `ulimit -Hn` to see how many it may, and have that raised."
_MIN_OPEN = 512  # if fewer shards than this, and not all, can be open, a warning is logged
_DESCRIPTORS_LEFT = 512  # for the rest of the process; each mapped shard takes one


class OpenShards:
    """The readers of all shards, opened on demand; used from several threads.

    Args:
        files: The files of the cache.
        index: Its index.
        limit_bytes: Disk space for the kept shards of all remote caches.
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
            # A removed copy takes space until it is unmapped.
            num_kept = limit_bytes // max(int(index.tar_bytes.max(initial=1)), 1)
            num_open = min(num_open, max(num_kept, 1))
            self._stays_local = num_bytes <= limit_bytes
        else:
            self._stays_local = num_bytes < _memory_bytes() / 2
        self._reader = lru_cache(maxsize=num_open)(self._open)
        self._sidecar = lru_cache(maxsize=1)(self._read_sidecar)
        # Shards opened and images checked by this process. Two threads may check the same one.
        self._was_opened = bytearray(index.num_shards)
        self._image_is_checked = bytearray(len(index))
        self._prefetcher = Prefetcher(self._fetch)
        _IN_USE.add(self)

    def reader(self, image: int, shard: int) -> ShardReader:
        """Return the reader of an image's shard; the first time, compare the image's checksum.

        Keep a reference to the reader while using it, or another thread may unmap the shard. The
        caller checks that the file was not cut since (`ShardReader.check_size`).

        Args:
            image: Position in the cache, counted from 0.
            shard: Its shard.
        """
        reader = self._reader(shard)
        if self._image_is_checked[image]:
            return reader
        reader.check_size()
        place = self.place(image, shard)
        try:
            reader.check_image(place, num_classes=len(self._index.label_counts))
        except CacheCorruptError:
            if not self._files.drop_copy(shard, self._index.sidecar_seal(shard)):
                raise
            # It was intact when it was downloaded.
            logger.warning("%s: the copy of shard %d here was damaged", self._files.location, shard)
            self.close()
            reader = self._reader(shard)
            reader.check_image(place, num_classes=len(self._index.label_counts))
        self._image_is_checked[image] = True
        return reader

    def details(self, image: int, shard: int) -> ImageDetails:
        """Return what `FeatureCache.details` returns."""
        reader, place = self._reader(shard), self.place(image, shard)
        reader.check_size()
        sidecar = self._sidecar(shard)
        return reader.details(place, sidecar.lengths[place], sidecar.checksums[place])

    def place(self, image: int, shard: int) -> int:
        """Return the position of an image in its shard."""
        return image - int(self._index.shard_starts[shard])

    def read_images_ahead(self, images: NDArray[np.int64]) -> None:
        """Start reading images from disk, or downloading their shards, in the background.

        Images that were read before and should still be in memory are skipped. Nothing is
        downloaded of a remote cache that exceeds the limit: a shard could be removed before its
        use.
        """
        if self._is_remote and not self._stays_local:
            return
        for image, shard in zip(images.tolist(), self._index.shards[images].tolist(), strict=True):
            if self._image_is_checked[image] and self._stays_local:
                continue
            if not self._is_remote:
                self._reader(shard).read_ahead(self.place(image, shard))
            elif not self._was_opened[shard]:
                self._prefetcher.request(shard)

    def read_shard_ahead(self, shard: int) -> None:
        """Start reading a whole shard from disk, or downloading it, in the background."""
        if self._is_remote:
            self._prefetcher.request(shard)
            return
        reader = self._reader(shard)
        for image in range(len(reader)):  # one by one, as the size of a request is limited
            reader.read_ahead(image)

    def close(self) -> None:
        """Release all memory maps; a map stays until its samples are deleted."""
        self._reader.cache_clear()

    def _open(self, shard: int) -> ShardReader:
        try:
            return self._mapped(shard)
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
        # The rest of the process took the spare descriptors: release those of all caches.
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
        # Training needs no sidecar, but a damaged one shows that the disk cannot be trusted. A kept
        # copy of a remote shard was compared with its sidecar when it was downloaded.
        if not (self._is_remote or self._was_opened[shard]):
            read_indexed_sidecar(self._files.folder, self._index, shard)
        with self._files.tar(shard, self._index.sidecar_seal(shard)) as path:
            reader = ShardReader(path, self._index.layout(shard))
        self._was_opened[shard] = True
        return reader

    def _read_sidecar(self, shard: int) -> ShardSidecar:
        if self._is_remote and not sidecar_path(self._files.folder, shard).is_file():
            self._files.pull(sidecars=True)
        return read_indexed_sidecar(self._files.folder, self._index, shard)

    def _fetch(self, shard: int) -> None:
        with self._files.tar(shard, self._index.sidecar_seal(shard)):
            pass


_IN_USE: "weakref.WeakSet[OpenShards]" = weakref.WeakSet()


def _max_open(num_shards: int) -> int:
    """Return how many shards to keep mapped, after raising the limit of open files if necessary.

    In random order each image is in another shard, and mapping a shard takes as long as copying an
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
