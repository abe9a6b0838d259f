"""Where a cache is written: a folder of this machine. Behind a URL: see `publishing`."""

import shutil
from pathlib import Path

from regionspot.cache import (
    CacheFiles,
    CacheIndex,
    Manifest,
    build_index,
    check_same_manifest,
    manifest_path,
    read_manifest,
    shard_is_complete,
)
from regionspot.extraction.errors import DiskError


class Destination:
    """A folder of this machine.

    Args:
        files: The files of the cache; its folder is where everything is written first.

    Raises:
        DiskError: A file lies where the folder should be.
    """

    def __init__(self, files: CacheFiles) -> None:
        _check_can_be_folder(files.folder)
        self.files = files

    @property
    def folder(self) -> Path:
        """Where everything is written first."""
        return self.files.folder

    @property
    def location(self) -> str:
        """The cache's folder or URL, for people."""
        return self.files.location

    def has_manifest(self) -> bool:
        """Say whether a cache was begun there."""
        return manifest_path(self.folder).exists()

    def shards_there(self, wanted: Manifest) -> list[int]:
        """Return the shards that there are already, without changing anything.

        Raises:
            CacheMismatchError: The cache there has another manifest.
        """
        if not self.has_manifest():
            return []
        check_same_manifest(read_manifest(self.folder), wanted)
        return [n for n in range(wanted.plan.num_shards) if self.is_done(n)]

    def free_bytes(self) -> int | None:
        """Return what is free for the cache; None where nobody can tell."""
        places = (self.folder, *self.folder.absolute().parents)
        return shutil.disk_usage(next(place for place in places if place.is_dir())).free

    def look(self) -> None:
        """Learn what others wrote meanwhile."""

    def publish_begun(self) -> None:
        """Publish the manifest and what else comes before the shards."""

    def is_done(self, shard: int) -> bool:
        """Say whether a shard is where it should be."""
        return shard_is_complete(self.folder, shard)

    def completed_meanwhile(self, shard: int) -> bool:
        """Look again, having the right to write the shard, before it is written."""
        return self.is_done(shard)

    def publish_shard(self, shard: int) -> None:
        """Publish a shard that was written."""

    def withdraw_removed(self) -> None:
        """Let go of what was removed from the folder because it was damaged."""

    def finish(self) -> CacheIndex:
        """Write the index, and publish it last."""
        return build_index(self.folder)

    def num_bytes(self) -> int:
        """Return the size of the cache."""
        return sum(self.files.sizes().values())


def _check_can_be_folder(output_dir: Path) -> None:
    for place in (output_dir, *output_dir.parents):
        if (place.exists() or place.is_symlink()) and not place.is_dir():
            raise DiskError(
                f"{place} is not a folder, so no cache can lie in {output_dir}. Set --output_dir to"
                " a new folder."
            )
