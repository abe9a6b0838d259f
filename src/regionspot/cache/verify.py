"""Reads every byte of a cache and reports damage, and finds files that do not belong to it."""

import hashlib
import logging
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from regionspot.cache.cache_files import CacheFiles
from regionspot.cache.index import CacheIndex, check_sidecar, collect_index
from regionspot.cache.layout import (
    MEMBERS,
    index_path,
    quarantine_path,
    shard_path,
    shards_path,
    text_banks_path,
)
from regionspot.cache.manifest import Manifest, read_manifest
from regionspot.cache.member_bytes import BLOCK_BYTES, END, padding, tar_header
from regionspot.cache.regular_files import open_regular, size_of_regular
from regionspot.cache.remote_files import (
    EXTRAS,
    MANIFEST,
    by_url,
    opened_files,
    sidecar_name,
    tar_name,
)
from regionspot.cache.sidecar import ShardSidecar, read_sidecar
from regionspot.cache.text_banks import TextBankStore, read_category_tree
from regionspot.core.errors import MissingFileError, RegionSpotError
from regionspot.core.stopping import check_stop, safe_points

_SUFFIXES = {".tar", ".json"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something in a cache that is not as it was written."""

    message: str
    """What is wrong, for a person."""
    shard: int | None = None
    """The shard, if it is about one: making that shard again is the cure."""
    key: str | None = None
    """The image, if it is about one."""
    member: str | None = None
    """The image's member, if it is about one; see `layout.MEMBERS`."""
    offset: int | None = None
    """Where in the tar the damaged header, member, padding or end starts, in bytes."""


def verify_cache(cache: Path | str) -> list[Problem]:
    """Compare every byte of a cache with its hashes.

    Of each tar the SHA-256 of the whole, the header, checksum and padding of every member and the
    end are checked; of the manifest, the sidecars, the index, the text banks and the category tree
    their seals; of the index and the list of quarantined images that they follow from the sidecars.
    A flipped bit or a cut anywhere is found. Progress is logged by shard. Text banks and the tree
    are optional; stray temporary files of a crash do no harm.

    Args:
        cache: The cache's folder, or its URL: then one shard after the other is fetched, and none
            is kept.

    Returns:
        What was found, by shard, then what concerns the whole cache; empty for a sound cache.

    Raises:
        MissingFileError: The folder is no cache.
        StorageError: The URL's server refuses, or does not answer.
    """
    with safe_points(), opened_files(cache) as files:
        return verify_files(files)


def verify_files(files: CacheFiles) -> list[Problem]:
    """Compare every byte of a cache whose files are at hand; see `verify_cache`."""
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
        problems.extend(_shard_problems(files, shard, manifest, manifest_sha256))
        logger.info("verified shard %d of %d", shard + 1, len(planned))
    problems.extend(
        Problem(message="the plan has no such shard", shard=shard)
        for shard in sorted(set(shards) - set(planned))
    )
    problems.extend(_derived_problems(files, rebuild=not problems))
    if manifest is not None:
        problems.extend(_text_bank_problems(cache_dir, manifest))
    problems.extend(_category_tree_problems(cache_dir))
    return problems


def _numbers(names_of_shards: Iterable[str]) -> list[int]:
    paths = [Path(name) for name in names_of_shards]
    return sorted({int(p.stem) for p in paths if p.suffix in _SUFFIXES and p.stem.isdecimal()})


def _shard_problems(
    files: CacheFiles, shard: int, manifest: Manifest | None, manifest_sha256: str
) -> Iterator[Problem]:
    cache_dir = files.folder
    try:
        sidecar = read_sidecar(cache_dir, shard)
        if manifest is not None:
            check_sidecar(cache_dir, sidecar, manifest, manifest_sha256)
    except RegionSpotError as error:
        yield Problem(message=str(error), shard=shard)
        return
    path = shard_path(cache_dir, shard)
    try:
        found = files.tar_bytes(shard)
    except RegionSpotError as error:
        yield Problem(message=str(error), shard=shard)
        return
    if found is None:
        yield Problem(message=f"{path} is missing", shard=shard)
        return
    if found != sidecar.tar_bytes:
        message = (
            f"{path} has {found} bytes; wanted {sidecar.tar_bytes}: it was cut short or added to"
        )
        yield Problem(message=message, shard=shard, offset=min(found, sidecar.tar_bytes))
        return
    with files.tar(shard) as tar, open_regular(tar) as file:
        yield from _tar_problems(file, sidecar)


def _tar_problems(file: BinaryIO, sidecar: ShardSidecar) -> Iterator[Problem]:
    tar = _HashingReader(file)
    found_any = False
    for row, key in enumerate(sidecar.keys):
        for column, member in enumerate(MEMBERS):
            num_bytes = int(sidecar.lengths[row, column])
            for part, offset in _bad_parts(tar, f"{key}.{member}", num_bytes, sidecar, row, column):
                found_any = True
                yield Problem(
                    message=f"the {part} was changed after it was written",
                    shard=sidecar.shard,
                    key=key,
                    member=member,
                    offset=offset,
                )
    offset = tar.position
    if tar.read(len(END)) != END or tar.position != sidecar.tar_bytes:
        found_any = True
        message = "the end of the tar was changed after it was written"
        yield Problem(message=message, shard=sidecar.shard, offset=offset)
    tar.read_rest()
    if tar.sha256 != sidecar.tar_sha256 and not found_any:
        message = "the tar does not have the sha256 that its sidecar states"
        yield Problem(message=message, shard=sidecar.shard)


def _bad_parts(
    tar: "_HashingReader", name: str, num_bytes: int, sidecar: ShardSidecar, row: int, column: int
) -> Iterator[tuple[str, int]]:
    """Read one member; yield each of its parts that is not as written, and where that starts."""
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
    """Check the index, and that it follows from the sidecars unless these are known to be bad."""
    cache_dir = files.folder
    try:
        index = CacheIndex.read(cache_dir)
        if not rebuild:
            return
        wanted, quarantine = collect_index(cache_dir, files.names_of_shards())
    except RegionSpotError as error:
        yield Problem(message=str(error))
        return
    for name in (field.name for field in fields(CacheIndex)):
        if not np.array_equal(getattr(index, name), getattr(wanted, name)):
            path = index_path(cache_dir)
            yield Problem(message=f"{path}: {name} does not follow from the sidecars; rebuild it")
    path = quarantine_path(cache_dir)
    try:
        is_same = size_of_regular(path) == len(quarantine) and path.read_bytes() == quarantine
    except RegionSpotError as error:
        yield Problem(message=str(error))
        return
    if not is_same:
        yield Problem(message=f"{path} does not follow from the sidecars; rebuild the index")


def _text_bank_problems(cache_dir: Path, manifest: Manifest) -> Iterator[Problem]:
    store = TextBankStore(text_banks_path(cache_dir))
    try:
        store.banks(clip_sha256=manifest.fingerprint.clip_weights_sha256)
    except RegionSpotError as error:
        yield Problem(message=str(error))


def _category_tree_problems(cache_dir: Path) -> Iterator[Problem]:
    try:
        read_category_tree(cache_dir)
    except RegionSpotError as error:
        yield Problem(message=str(error))


class _HashingReader:
    """Reads a file from its start and hashes what went by."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.position = 0

    def read(self, num_bytes: int) -> bytes:
        data = self._file.read(num_bytes)
        self._digest.update(data)
        self.position += len(data)
        return data

    def read_rest(self) -> None:
        while self.read(1 << 20):
            pass

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


_SHARD = re.compile(rf"{shards_path(Path()).name}/\d{{6,}}\.(tar|json|lock)")


def find_garbage(files: CacheFiles) -> dict[str, int]:
    """Return the files that are left over: their sizes, sorted by name.

    These are temporary files of crashes, shards beyond the plan and locks. A tar without its
    sidecar, which was not finished, is not garbage: the command that makes the cache replaces it.
    Nor is a file of another name, which caching did not make.

    Args:
        files: The cache's files.

    Raises:
        MissingFileError: The folder is no cache.
        CacheMismatchError: It is of another schema version.
        CacheCorruptError: Its manifest is damaged, so that nobody knows what belongs to it.
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
