"""The files of a cache behind a URL: small ones have copies here, tars come when asked for."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from typing_extensions import override

from regionspot.cache.cache_files import CacheFiles
from regionspot.cache.layout import (
    category_tree_path,
    index_path,
    manifest_path,
    quarantine_path,
    shard_path,
    shards_path,
    sidecar_path,
    text_banks_path,
)
from regionspot.cache.manifest import read_manifest
from regionspot.core.errors import RegionSpotError
from regionspot.storage import Mirror, RemoteFolder, RemoteObject, is_url

_ROOT = Path()
MANIFEST = manifest_path(_ROOT).as_posix()
EXTRAS = tuple(
    path(_ROOT).as_posix()
    for path in (text_banks_path, category_tree_path, quarantine_path, index_path)
)
"""The files beside the manifest and the shards, in the order in which they are published."""


def tar_name(shard: int) -> str:
    """Return the name of a tar below the cache."""
    return shard_path(_ROOT, shard).as_posix()


def sidecar_name(shard: int) -> str:
    """Return the name of a sidecar below the cache."""
    return sidecar_path(_ROOT, shard).as_posix()


class RemoteFiles(CacheFiles):
    """The files of a cache behind a URL, each tar fetched for as long as it is looked at.

    Args:
        url: The cache's URL.
        place: A folder of this machine for copies: the small files come to ``place/cache``.
    """

    def __init__(self, url: str, place: Path) -> None:
        super().__init__(place / "cache")
        self.remote = RemoteFolder(url)
        self.mirror = Mirror(self.remote, self.folder, place / "notes")

    @property
    @override
    def location(self) -> str:
        return self.remote.url

    @cached_property
    def listing(self) -> Mapping[str, RemoteObject]:
        """What lay behind the URL when it was first asked for, or `refresh` was called."""
        if self.remote.can_list:
            return self.remote.listing()
        found = self.remote.find_all([MANIFEST, *EXTRAS])
        self.mirror.pull([MANIFEST], found)
        return {**found, **self.remote.find_all(self._planned_names())}

    def refresh(self) -> None:
        """Forget what lay behind the URL."""
        self.__dict__.pop("listing", None)

    @override
    def pull(self, *, sidecars: bool) -> None:
        names = {MANIFEST, *EXTRAS}
        if sidecars:
            copies = shards_path(self.folder).glob("*.json")
            names |= {path.relative_to(self.folder).as_posix() for path in copies}
            names |= {name for name in self.listing if _is_sidecar(name)}
        self.mirror.pull(sorted(names), self.listing)

    @override
    def sizes(self) -> Mapping[str, int]:
        return {name: found.num_bytes for name, found in self.listing.items()}

    @override
    def remove(self, name: str) -> None:
        self.mirror.withdraw(name)

    @override
    def names_of_shards(self) -> frozenset[str]:
        folder = f"{shards_path(_ROOT).as_posix()}/"
        return frozenset(
            name.removeprefix(folder) for name in self.listing if name.startswith(folder)
        )

    @override
    def tar_bytes(self, shard: int) -> int | None:
        found = self.listing.get(tar_name(shard))
        return None if found is None else found.num_bytes

    @override
    @contextmanager
    def tar(self, shard: int, sidecar_sha256: str = "") -> Iterator[Path]:
        path = shard_path(self.folder, shard)
        self.remote.fetch(tar_name(shard), path)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _planned_names(self) -> list[str]:
        try:
            plan = read_manifest(self.folder).plan
        except RegionSpotError:  # whoever opens the cache will say so
            return []
        return [name(n) for n in range(plan.num_shards) for name in (tar_name, sidecar_name)]


@contextmanager
def opened_files(cache: str | Path) -> Iterator[CacheFiles]:
    """Give a cache's files to who reads all of them once; nothing is kept of a remote cache.

    Errors inside the block that name a copy name the URL instead.

    Args:
        cache: A folder or a URL.
    """
    if not is_url(cache):
        yield CacheFiles(Path(cache))
        return
    with tempfile.TemporaryDirectory(prefix="regionspot-") as place:
        files = RemoteFiles(str(cache), Path(place))
        with named_by_url(files):
            files.pull(sidecars=True)
            yield files


@contextmanager
def named_by_url(files: CacheFiles) -> Iterator[None]:
    """Let the errors of the block name a file by its URL rather than by its copy here."""
    try:
        yield
    except RegionSpotError as error:
        text = by_url(str(error), files)
        if text == str(error):
            raise
        raise type(error)(text) from error


def by_url(text: str, files: CacheFiles) -> str:
    """Replace the folder of copies in a text by the URL."""
    return text.replace(str(files.folder), files.location)


def _is_sidecar(name: str) -> bool:
    return Path(name).parent == shards_path(_ROOT) and name.endswith(".json")
