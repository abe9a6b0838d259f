"""What is checked of a finished cache before its images are read."""

from pathlib import Path

from regionspot.cache.cache_files import CacheFiles
from regionspot.cache.fingerprint import Fingerprint, check_same_fingerprint
from regionspot.cache.index import CacheIndex
from regionspot.cache.index_building import check_all_shards_present
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
from regionspot.cache.shard import check_tar_bytes
from regionspot.cache.sidecar import read_sealed_sidecar
from regionspot.core.errors import CacheCorruptError, MissingFileError


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
