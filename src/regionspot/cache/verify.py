"""Reads every byte of a cache and reports damage, and finds files that do not belong to it."""

import hashlib
import logging
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from regionspot.cache.cache_files import CacheFiles, open_regular, size_of_regular
from regionspot.cache.index import CacheIndex, check_sidecar, collect_index
from regionspot.cache.layout import (
    EXTRAS,
    MANIFEST,
    MEMBERS,
    SHARDS,
    index_path,
    quarantine_path,
    shard_path,
    sidecar_name,
    tar_name,
    text_banks_path,
)
from regionspot.cache.manifest import Manifest, read_manifest
from regionspot.cache.member_bytes import BLOCK_BYTES, END, padding, tar_header
from regionspot.cache.remote_files import by_url, opened_files
from regionspot.cache.sidecar import ShardSidecar, read_sidecar
from regionspot.cache.text_banks import TextBankStore, read_category_tree
from regionspot.core.errors import MissingFileError, RegionSpotError
from regionspot.core.stopping import check_stop, safe_points
from regionspot.storage import StorageError

_SUFFIXES = {".tar", ".json"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Damage of a cache."""

    message: str
    """What is wrong."""
    shard: int | None = None
    """The damaged shard, which must be made again; None for other files."""
    key: str | None = None
    """The image, if it is about one."""
    member: str | None = None
    """The image's member, if it is about one; see `layout.MEMBERS`."""
    offset: int | None = None
    """Start of the damaged header, member, padding or end in the tar, in bytes."""


def verify_cache(cache: Path | str) -> list[Problem]:
    """Compare every byte of a cache with its hashes.

    This checks the SHA-256 of each tar; the header, checksum and padding of every member; the end
    of each tar; the seals of manifest, sidecars, index, text banks and category tree; and that the
    index and the list of quarantined images follow from the sidecars. A flipped bit or a cut
    anywhere is found. Progress is logged by shard. Text banks and the tree are optional, and stray
    temporary files of a crash are ignored.

    Args:
        cache: The cache's folder, or its URL; then shards are downloaded one by one, and not kept.

    Returns:
        The damage, by shard, then that of the other files; empty for an intact cache.

    Raises:
        MissingFileError: The folder is no cache.
        StorageError: The server refuses access or does not answer.
    """
    with safe_points(), opened_files(cache) as files:
        return verify_files(files)


def verify_files(files: CacheFiles) -> list[Problem]:
    """Compare every byte of a cache with opened files; see `verify_cache`."""
    return [
        replace(problem, message=by_url(problem.message, files)) for problem in _problems(files)
    ]


def _problems(files: CacheFiles) -> list[Problem]:
    cache_dir = files.folder
    problems: list[Problem] = []
    manifest: Manifest | None = None
    try:
        manifest = read_manifest(cache_dir)
    except MissingFileError:
        raise
    except RegionSpotError as error:
        problems.append(Problem(message=str(error)))
    shards = _numbers(files.names_of_shards())
    planned = shards if manifest is None else list(range(manifest.plan.num_shards))
    manifest_sha256 = "" if manifest is None else manifest.sha256
    for shard in planned:
        check_stop()
        with _reported(problems, shard):
            problems.extend(_shard_problems(files, shard, manifest, manifest_sha256))
        logger.info("verified shard %d of %d", shard + 1, len(planned))
    problems += [
        Problem(message="the plan has no such shard", shard=shard)
        for shard in sorted(set(shards) - set(planned))
    ]
    with _reported(problems):
        problems.extend(_derived_problems(files, rebuild=not problems))
    if manifest is not None:
        with _reported(problems):
            clip_sha256 = manifest.fingerprint.clip_weights_sha256
            TextBankStore(text_banks_path(cache_dir)).banks(clip_sha256=clip_sha256)
    with _reported(problems):
        read_category_tree(cache_dir)
    return problems


@contextmanager
def _reported(problems: list[Problem], shard: int | None = None) -> Iterator[None]:
    """Add an error about the cache's files to the problems."""
    try:
        yield
    except StorageError:
        raise
    except RegionSpotError as error:
        problems.append(Problem(message=str(error), shard=shard))


def _numbers(names_of_shards: Iterable[str]) -> list[int]:
    paths = [Path(name) for name in names_of_shards]
    return sorted({int(p.stem) for p in paths if p.suffix in _SUFFIXES and p.stem.isdecimal()})


def _shard_problems(
    files: CacheFiles, shard: int, manifest: Manifest | None, manifest_sha256: str
) -> Iterator[Problem]:
    cache_dir = files.folder
    sidecar = read_sidecar(cache_dir, shard)
    if manifest is not None:
        check_sidecar(cache_dir, sidecar, manifest, manifest_sha256)
    path, found = shard_path(cache_dir, shard), files.tar_bytes(shard)
    if found is None:
        yield Problem(message=f"{path} is missing", shard=shard)
    elif found != sidecar.tar_bytes:
        message = (
            f"{path} has {found} bytes; wanted {sidecar.tar_bytes}: it was cut short or added to"
        )
        yield Problem(message=message, shard=shard, offset=min(found, sidecar.tar_bytes))
    else:
        with files.tar(shard) as tar, open_regular(tar) as file:
            yield from _tar_problems(file, sidecar)


def _tar_problems(file: BinaryIO, sidecar: ShardSidecar) -> Iterator[Problem]:
    tar = _HashingReader(file)
    shard, found_any = sidecar.shard, False
    for row, key in enumerate(sidecar.keys):
        for column, member in enumerate(sidecar.members):
            for part, offset in _bad_parts(tar, sidecar, row, column):
                found_any = True
                message = f"the {part} was changed after it was written"
                yield Problem(message=message, shard=shard, key=key, member=member, offset=offset)
    offset = tar.position
    if tar.read(len(END)) != END or tar.position != sidecar.tar_bytes:
        found_any = True
        message = "the end of the tar was changed after it was written"
        yield Problem(message=message, shard=shard, offset=offset)
    while tar.read(1 << 20):
        pass
    if tar.sha256 != sidecar.tar_sha256 and not found_any:
        message = "the tar does not have the sha256 that its sidecar states"
        yield Problem(message=message, shard=shard)


def _bad_parts(
    tar: "_HashingReader", sidecar: ShardSidecar, row: int, column: int
) -> Iterator[tuple[str, int]]:
    """Read one member; yield the name and start of each damaged part."""
    name = f"{sidecar.keys[row]}.{MEMBERS[column]}"
    num_bytes = int(sidecar.lengths[row, column])
    if tar.read(BLOCK_BYTES) != tar_header(name, num_bytes):
        yield "header", tar.position - BLOCK_BYTES
    start = tar.position
    if start != sidecar.offsets[row, column]:
        yield "place", start
    if zlib.crc32(tar.read(num_bytes)) != sidecar.checksums[row, column]:
        yield "contents", start
    zeros = padding(num_bytes)
    if tar.read(len(zeros)) != zeros:
        yield "padding", start + num_bytes


def _derived_problems(files: CacheFiles, *, rebuild: bool) -> Iterator[Problem]:
    """Check the index, and whether it follows from the sidecars unless these are damaged."""
    cache_dir = files.folder
    index = CacheIndex.read(cache_dir)
    if not rebuild:
        return
    wanted, quarantine = collect_index(cache_dir, files.names_of_shards())
    for name in (field.name for field in fields(CacheIndex)):
        if not np.array_equal(getattr(index, name), getattr(wanted, name)):
            path = index_path(cache_dir)
            yield Problem(message=f"{path}: {name} does not follow from the sidecars; rebuild it")
    path = quarantine_path(cache_dir)
    if size_of_regular(path) != len(quarantine) or path.read_bytes() != quarantine:
        yield Problem(message=f"{path} does not follow from the sidecars; rebuild the index")


class _HashingReader:
    """Reads a file from its start and hashes it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.position = 0

    def read(self, num_bytes: int) -> bytes:
        data = self._file.read(num_bytes)
        self._digest.update(data)
        self.position += len(data)
        return data

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


_SHARD = re.compile(rf"{SHARDS}/\d{{6,}}\.(tar|json|lock)")


def find_garbage(files: CacheFiles) -> dict[str, int]:
    """Return the sizes in bytes of left-over files, sorted by name.

    These are temporary files of crashes, locks, and shards beyond the plan. An unfinished tar
    without its sidecar is no garbage, as caching replaces it, nor are files that caching never
    makes.
    """
    plan = read_manifest(files.folder).plan
    named = {MANIFEST, *EXTRAS}
    for shard in range(plan.num_shards):
        named |= {tar_name(shard), sidecar_name(shard)}
    return {
        name: num_bytes
        for name, num_bytes in sorted(files.sizes().items())
        if name not in named and _is_ours(name.removesuffix(".tmp"))
    }


def _is_ours(name: str) -> bool:
    return name in {MANIFEST, *EXTRAS} or _SHARD.fullmatch(name) is not None
