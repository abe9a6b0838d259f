"""Where the files of a cache are: in a folder of this machine. Behind a URL: see `remote_files`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from regionspot.cache.layout import shard_path, shards_path
from regionspot.cache.regular_files import size_of_regular


class CacheFiles:
    """The files of a cache in a folder.

    Args:
        folder: The cache's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        """Where the small files lie."""

    @property
    def location(self) -> str:
        """What the cache was called by: its folder or its URL."""
        return str(self.folder)

    def pull(self, *, sidecars: bool) -> None:
        """Bring copies of the small files up to date; files of this machine have none.

        Args:
            sidecars: Whether to fetch those of all shards, too.
        """

    def sizes(self) -> Mapping[str, int]:
        """Return the size in bytes of each file of the cache, by its name below the cache."""
        return {
            path.relative_to(self.folder).as_posix(): path.stat().st_size if path.exists() else 0
            for path in self.folder.rglob("*")
            if not path.is_dir()
        }

    def remove(self, name: str) -> None:
        """Remove a file of the cache by its name below the cache."""
        (self.folder / name).unlink(missing_ok=True)

    def names_of_shards(self) -> frozenset[str]:
        """Return the names of the tars and sidecars that there are."""
        folder = shards_path(self.folder)
        return frozenset(path.name for path in folder.iterdir()) if folder.is_dir() else frozenset()

    def tar_bytes(self, shard: int) -> int | None:
        """Return the size of a tar; None if it is missing.

        Raises:
            CacheCorruptError: It is a link or no file at all.
        """
        return size_of_regular(shard_path(self.folder, shard))

    @contextmanager
    def tar(self, shard: int, sidecar_sha256: str = "") -> Iterator[Path]:  # noqa: ARG002
        """Have the tar of a shard on this machine while the block runs.

        Args:
            shard: The shard.
            sidecar_sha256: Seal of the sidecar that the tar must fit; only copies are compared.
        """
        yield shard_path(self.folder, shard)

    def drop_copy(self, shard: int, sidecar_sha256: str) -> bool:  # noqa: ARG002
        """Remove the copy of a tar that `tar` keeps; return whether it keeps copies at all."""
        return False
