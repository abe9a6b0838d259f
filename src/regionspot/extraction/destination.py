"""Where a cache is written: a local folder, or a URL.

A cache behind a URL is first written to a staging folder. That is an ordinary cache folder, except
that each tar is removed once the tar and then its sidecar are published. Only what is published
counts; after a killed run the staging folder may hold more.
"""

import shutil
import tempfile
from pathlib import Path

from typing_extensions import override

from regionspot.cache import (
    EXTRAS,
    MANIFEST,
    CacheFiles,
    CacheIndex,
    Manifest,
    RemoteFiles,
    build_index,
    check_same_manifest,
    manifest_path,
    one_at_a_time,
    read_manifest,
    read_sidecar,
    shard_is_complete,
    shard_path,
    shards_path,
    sidecar_name,
    tar_name,
)
from regionspot.core.errors import RegionSpotError
from regionspot.core.files import write_text_atomic
from regionspot.extraction.errors import DiskError
from regionspot.storage import is_url, place_of


class Destination:
    """A local folder.

    Args:
        files: The files of the cache; everything is first written to its folder.

    Raises:
        DiskError: There is a file in place of the folder.
    """

    def __init__(self, files: CacheFiles) -> None:
        self.files, self.folder, self.location = files, files.folder, files.location
        for place in (self.folder, *self.folder.parents):
            if (place.exists() or place.is_symlink()) and not place.is_dir():
                raise DiskError(
                    f"{place} is not a folder, so no cache can be written to {self.folder}. Set"
                    " --output_dir to a new folder."
                )

    def has_manifest(self) -> bool:
        """Return whether a cache was begun there."""
        return manifest_path(self.folder).exists()

    def existing_shards(self, wanted: Manifest) -> list[int]:
        """Return the finished shards, without changing anything.

        Raises:
            CacheMismatchError: The cache there has another manifest.
        """
        if not self.has_manifest():
            return []
        check_same_manifest(read_manifest(self.folder), wanted)
        return [n for n in range(wanted.plan.num_shards) if self.is_done(n)]

    def free_bytes(self) -> int | None:
        """Return the free space for the cache; None if unknown."""
        places = (self.folder, *self.folder.absolute().parents)
        return shutil.disk_usage(next(place for place in places if place.is_dir())).free

    def refresh(self) -> None:
        """Look up what other processes have written."""

    def publish_manifest(self) -> None:
        """Publish the manifest and the other files that precede the shards."""

    def is_done(self, shard: int) -> bool:
        """Return whether a shard is complete and published."""
        return shard_is_complete(self.folder, shard)

    def completed_meanwhile(self, shard: int) -> bool:
        """Check again, holding the shard's lock, right before it is written."""
        return self.is_done(shard)

    def publish_shard(self, shard: int) -> None:
        """Publish a written shard."""

    def withdraw_removed(self) -> None:
        """Unpublish files that were removed from the folder because they were damaged."""

    def finish(self) -> CacheIndex:
        """Write the index, and publish it last."""
        return build_index(self.folder)

    def num_bytes(self) -> int:
        """Return the size of the cache."""
        return sum(self.files.sizes().values())


_STAGING_NOTE = "staging_of.note"
_BEFORE_SHARDS, _AFTER_SHARDS = (MANIFEST, *EXTRAS[:2]), EXTRAS[2:]


class RemoteDestination(Destination):
    """A cache behind a URL.

    Args:
        files: The files behind the URL, with their staging folder.
    """

    def __init__(self, files: RemoteFiles) -> None:
        super().__init__(files)
        self._remote_files = files

    @override
    def has_manifest(self) -> bool:
        return self._remote_files.remote.find(MANIFEST) is not None

    @override
    def existing_shards(self, wanted: Manifest) -> list[int]:
        with tempfile.TemporaryDirectory(prefix="regionspot-") as place:
            files = RemoteFiles(self.location, Path(place))
            if MANIFEST not in files.listing:
                return []
            files.pull(sidecars=False)
            check_same_manifest(read_manifest(files.folder), wanted)
            shards = range(wanted.plan.num_shards)
            return [n for n in shards if {tar_name(n), sidecar_name(n)} <= set(files.listing)]

    @override
    def free_bytes(self) -> int | None:
        return None

    @override
    def refresh(self) -> None:
        files = self._remote_files
        files.refresh()
        self._check_cache_or_empty()
        self._claim_staging()
        if MANIFEST not in files.listing:
            # Nothing was begun there, so the files here are of a cache removed since.
            files.mirror.clear()
            return
        files.pull(sidecars=True)
        for tar in shards_path(self.folder).glob("*.tar"):
            if self.is_done(int(tar.stem)):
                tar.unlink(missing_ok=True)

    @override
    def publish_manifest(self) -> None:
        for name in _BEFORE_SHARDS:
            self._remote_files.mirror.push(name)

    @override
    def is_done(self, shard: int) -> bool:
        return self._is_whole(shard, self._remote_files.tar_bytes(shard))

    @override
    def completed_meanwhile(self, shard: int) -> bool:
        if shard_is_complete(self.folder, shard):  # by a run killed before publishing
            self.publish_shard(shard)
            return True
        if not self._remote_files.mirror.is_known(sidecar_name(shard)):
            return False
        found = self._remote_files.remote.find(tar_name(shard))
        return found is not None and self._is_whole(shard, found.num_bytes)

    @override
    def publish_shard(self, shard: int) -> None:
        files, tar = self._remote_files, shard_path(self.folder, shard)
        if files.mirror.is_known(sidecar_name(shard)):
            # Without its sidecar, the former shard is absent while its tar is replaced.
            files.mirror.withdraw(sidecar_name(shard))
        files.remote.put(tar, tar_name(shard))
        with one_at_a_time(self.folder):  # no other process may take it for removed just now
            files.mirror.push(sidecar_name(shard))
        tar.unlink(missing_ok=True)

    @override
    def withdraw_removed(self) -> None:
        self._remote_files.mirror.withdraw_removed()

    @override
    def finish(self) -> CacheIndex:
        self.refresh()
        files = self._remote_files
        index = build_index(self.folder, names_of_shards=files.names_of_shards())
        for name in _AFTER_SHARDS:
            files.mirror.push(name)
        files.refresh()
        return index

    def _is_whole(self, shard: int, tar_bytes: int | None) -> bool:
        if tar_bytes is None or not self._remote_files.mirror.is_copy(sidecar_name(shard)):
            return False
        try:
            sidecar = read_sidecar(self.folder, shard)
            manifest_sha256 = read_manifest(self.folder).sha256
        except RegionSpotError:
            return False
        return sidecar.tar_bytes == tar_bytes and sidecar.manifest_sha256 == manifest_sha256

    def _claim_staging(self) -> None:
        """Refuse a folder of something else: files in staging are replaced and removed."""
        place = self.folder.parent
        note = place / _STAGING_NOTE
        url = note.read_text(encoding="utf-8") if note.is_file() else ""
        if url == self.location:
            return
        folders = (self.folder, place / "notes")
        if url or any(not path.is_dir() for folder in folders for path in folder.rglob("*")):
            holds = f"is the staging folder of {url}" if url else f"holds files in {self.folder}"
            raise DiskError(
                f"{place} {holds}; wanted a folder to write to before {self.location} is published."
                " Nothing was touched. Set --staging_dir to a new folder."
            )
        write_text_atomic(note, self.location)

    def _check_cache_or_empty(self) -> None:
        names = set(self._remote_files.listing) - {"", f"{MANIFEST}.tmp"}
        if MANIFEST not in names:
            _check_empty(self.location, names)


def check_cache_or_empty(output_dir: Path) -> None:
    """Refuse a folder of something else, before anything is written to it.

    Raises:
        DiskError: The folder holds files, but no cache.
    """
    if manifest_path(output_dir).exists():
        return
    # A crash may have left a manifest that was not renamed yet, or an empty folder of shards.
    leftovers = {f"{MANIFEST}.tmp"}
    shards = shards_path(output_dir)
    if shards.is_dir() and not any(shards.iterdir()):
        leftovers.add(shards.name)
    _check_empty(output_dir, {entry.name for entry in output_dir.iterdir()} - leftovers)


def _check_empty(location: str | Path, names: set[str]) -> None:
    if names:
        raise DiskError(
            f"{location} is no cache, and not empty either: it holds"
            f" {', '.join(sorted(names)[:5])}. Set --output_dir to a new folder."
        )


def open_destination(output_dir: str, staging_dir: str | None) -> Destination:
    """Return where a cache is written.

    Args:
        output_dir: A folder or a URL.
        staging_dir: Folder to write to before publishing; None for the default one of the URL.
    """
    if not is_url(output_dir):
        return Destination(CacheFiles(Path(output_dir)))
    staging = place_of(output_dir, "staging") if staging_dir is None else Path(staging_dir)
    return RemoteDestination(RemoteFiles(output_dir, staging))
