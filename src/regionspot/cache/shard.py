"""Shards: the writer and the reader are twins; what one puts somewhere the other finds there."""

import mmap
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from regionspot.cache.index_checks import range_fault
from regionspot.cache.layout import (
    ARRAY_MEMBERS,
    CACHE_COMMAND,
    MEMBERS,
    REPAIR_COMMAND,
    manifest_path,
    shard_path,
    sidecar_path,
)
from regionspot.cache.manifest import read_manifest
from regionspot.cache.member_bytes import (
    BLOCK_BYTES,
    HEADER_BYTES,
    TarWriter,
    WrittenMember,
    encode_array,
    npy_header,
)
from regionspot.cache.regular_files import open_regular
from regionspot.cache.sample import CachedSample
from regionspot.cache.sealed import open_sealed_json
from regionspot.cache.shard_contents import ShardContents, check_sample
from regionspot.cache.sidecar import (
    QuarantinedImage,
    ShardLayout,
    ShardSidecar,
    read_sidecar,
    write_sidecar,
)
from regionspot.core.errors import CacheCorruptError, RegionSpotError
from regionspot.core.files import canonical_json, open_atomic
from regionspot.core.json_text import load_json


def write_shard(
    cache_dir: Path,
    shard_index: int,
    samples: Iterable[CachedSample],
    quarantined: Sequence[QuarantinedImage] = (),
) -> ShardSidecar:
    """Write one shard and its sidecar; a crash at any moment leaves the shard absent or whole.

    The manifest must have been written. Samples are streamed: one at a time is held in memory. The
    bytes of the tar depend on the samples only.

    Args:
        cache_dir: The cache's folder.
        shard_index: Number of the shard in the manifest's plan, counted from 0.
        samples: The shard's images in the order of the plan, without the quarantined ones.
        quarantined: The shard's images that could not be used. It is read after the last sample was
            taken, so that whatever yields the samples may still add to it.

    Returns:
        The sidecar, as it was written.

    Raises:
        MissingFileError: There is no manifest.
        AnnotationError: Two images share a key.
        ShapeError: A sample does not fit the manifest, holds a value that is not finite, or the
            images are not as many as planned.
        IndexError: The plan has no such shard.
    """
    manifest = read_manifest(cache_dir)
    num_planned = len(manifest.plan.images_of(shard_index))
    # Without its sidecar a former shard is absent while its tar is replaced.
    sidecar_path(cache_dir, shard_index).unlink(missing_ok=True)
    contents = ShardContents()
    with open_atomic(shard_path(cache_dir, shard_index)) as file:
        tar = TarWriter(file)
        for sample in samples:
            check_sample(sample, manifest)
            tar.begin_image()
            contents.add(sample, _add_sample(tar, sample))
        tar_sha256 = tar.finish()
        contents.quarantined.extend(quarantined)
        contents.check(num_planned, f"shard {shard_index} of {cache_dir}")
    sidecar = contents.sidecar(manifest, shard_index, tar=tar, tar_sha256=tar_sha256)
    write_sidecar(cache_dir, sidecar)
    return sidecar


def shard_is_complete(cache_dir: Path, shard_index: int) -> bool:
    """Say whether a shard was finished under the cache's present manifest, without reading its tar.

    A shard whose sidecar is damaged, or whose tar has another size than the sidecar says, counts as
    absent: writing it again is the cure. What hides behind the right size is found by
    `verify_cache`.

    Raises:
        MissingFileError: The cache has no manifest.
        CacheMismatchError: The manifest is of another schema version.
        CacheCorruptError: The manifest is damaged.
    """
    _, manifest_sha256 = open_sealed_json(
        manifest_path(cache_dir), remedy=f"Begin with the manifest: {CACHE_COMMAND}"
    )
    tar = shard_path(cache_dir, shard_index)
    if not tar.is_file() or not sidecar_path(cache_dir, shard_index).is_file():
        return False
    try:
        sidecar = read_sidecar(cache_dir, shard_index)
    except RegionSpotError:
        return False
    return sidecar.tar_bytes == tar.stat().st_size and sidecar.manifest_sha256 == manifest_sha256


class ShardReader:
    """Reads the samples of one shard from a memory map of its tar, without copying an array.

    Args:
        path: The tar.
        sidecar: Its sidecar, or the part of it that the index keeps.

    Raises:
        CacheCorruptError: The tar is missing or of another size than the sidecar says, so that
            mapping it would end the process with a bus error; or the sidecar points outside the
            tar.

    Attributes:
        address: Where the tar is mapped, as long as the reader is neither closed nor let go of.
    """

    def __init__(self, path: Path, sidecar: ShardSidecar | ShardLayout) -> None:
        layout = sidecar.layout if isinstance(sidecar, ShardSidecar) else sidecar
        self._path = path
        self._layout = layout
        self._check_offsets()
        # Arrays are made on a memoryview, since one made on the map itself would not keep it open.
        self._map: mmap.mmap | None = None
        self._mapped: memoryview | None = None
        try:
            with open_regular(path) as file:
                check_tar_bytes(os.fstat(file.fileno()).st_size, layout.tar_bytes, path)
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                self._mapped = memoryview(self._map)
                self.address = np.frombuffer(self._map, np.uint8).ctypes.data
        except FileNotFoundError:
            raise CacheCorruptError(
                f"{path} is missing, though its shard was finished. Restore it, or make it"
                f" again: {REPAIR_COMMAND}"
            ) from None

    def __len__(self) -> int:
        return len(self._layout.num_regions)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def check_size(self) -> None:
        """Look whether the tar was cut since it was mapped: to read behind its end is deadly.

        Raises:
            CacheCorruptError: It was.
        """
        if self._map is not None and self._map.size() != self._layout.tar_bytes:
            raise CacheCorruptError(
                f"{self._path} was {self._layout.tar_bytes} bytes when it was opened, and is"
                f" {self._map.size()} now: something wrote into it while it was read. Let nothing"
                " do that, and copy it again from where it came, or make it again:"
                f" {REPAIR_COMMAND}"
            )

    def check_image(self, index: int, *, num_classes: int) -> None:
        """Compare all bytes of an image with their checksum, and its labels with the vocabulary.

        Args:
            index: Position in the shard, counted from 0.
            num_classes: Labels are below it; -1 stands for none.

        Raises:
            CacheCorruptError: They are not the ones that were written.
        """
        span = self._layout.image_span(index)
        found = xxhash.xxh3_64_intdigest(self._open_map()[span])
        if found != int(self._layout.image_checksums[index]):
            raise self._damaged(
                f"bytes {span.start} to {span.stop} (image {index}) are not what was written"
            )
        offset = int(self._layout.data_offsets[index, ARRAY_MEMBERS.index("labels.npy")])
        shape = (int(self._layout.num_regions[index]),)
        labels: NDArray[np.int64] = np.ndarray(shape, "<i8", self._open_map(), offset)
        if labels.min(initial=-1) < -1 or labels.max(initial=-1) >= num_classes:
            raise self._damaged(f"image {index} has labels that are none of {num_classes} classes")

    def sample(self, index: int) -> CachedSample:
        """Return an image of the shard; its arrays are read-only views into the memory map.

        Args:
            index: Position in the shard, counted from 0.

        Raises:
            CacheCorruptError: No such arrays lie at the expected places.
            IndexError: The shard has no such image.
            ValueError: The reader was closed.
        """
        mapped = self._open_map()
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} is not among the {len(self)} of {self._path}.")
        layout = self._layout
        self._check_headers(mapped, index)
        feature_map, position_tokens, boxes_xyxy, labels, box_scores = (
            np.ndarray(shape, dtype, mapped, offset)
            for offset, (dtype, shape) in zip(
                layout.data_offsets[index].tolist(),
                _forms(layout, int(layout.num_regions[index])),
                strict=True,
            )
        )
        meta = self._meta(mapped, int(layout.json_offsets[index]))
        try:
            sample = CachedSample(
                key=meta["key"],
                image_id=meta["image_id"],
                size_hw=(meta["size_hw"][0], meta["size_hw"][1]),
                boxes_xyxy=boxes_xyxy,
                labels=labels,
                box_scores=box_scores,
                num_clipped_regions=meta["num_clipped_regions"],
                num_dropped_regions=meta["num_dropped_regions"],
                position_tokens=position_tokens,
                feature_map=feature_map,
            )
        except (KeyError, TypeError, IndexError, RegionSpotError) as error:
            raise self._damaged(f"image {index} is described by {meta} ({error!r})") from error
        return sample

    def read_ahead(self, index: int) -> None:
        """Ask the system to read an image from disk soon; returns at once."""
        if self._map is not None:
            span = self._layout.image_span(index)
            start = span.start - span.start % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, start, span.stop - start)

    def close(self) -> None:
        """Let go of the memory map; it stays mapped as long as an array of a sample is in use."""
        self._map = self._mapped = None

    def _open_map(self) -> memoryview:
        if self._mapped is None:
            raise ValueError(f"the reader of {self._path} was closed.")
        return self._mapped

    def _check_headers(self, mapped: memoryview, index: int) -> None:
        layout = self._layout
        forms = _forms(layout, int(layout.num_regions[index]))
        for offset, (dtype, shape) in zip(layout.data_offsets[index].tolist(), forms, strict=True):
            if mapped[offset - HEADER_BYTES : offset] != npy_header(dtype, shape):
                raise self._damaged(f"no {dtype} array of shape {shape} lies at byte {offset}")

    def _meta(self, mapped: memoryview, offset: int) -> dict[str, Any]:
        text = bytes(mapped[offset : offset + BLOCK_BYTES]).rstrip(b"\0")
        try:
            meta = load_json(text)
        except ValueError as error:
            raise self._damaged(f"no JSON lies at byte {offset} ({error})") from error
        if not isinstance(meta, dict):
            raise self._damaged(f"no JSON object lies at byte {offset}")
        return meta

    def _check_offsets(self) -> None:
        layout = self._layout
        fault = range_fault(
            tar_bytes=layout.tar_bytes,
            form=layout.feature_map_form,
            token_dim=layout.token_dim,
            json_offsets=layout.json_offsets,
            data_offsets=layout.data_offsets,
            num_regions=layout.num_regions,
        )
        if fault is not None:
            raise self._damaged(f"by its sidecar or the index, {fault}")

    def _damaged(self, what: str) -> CacheCorruptError:
        return CacheCorruptError(
            f"{self._path} is damaged: {what}. List all damage with `regionspot cache verify`,"
            f" and make it again: {REPAIR_COMMAND}"
        )


def check_tar_bytes(found: int, wanted: int, path: Path) -> None:
    """Refuse a tar of another size than it was written with.

    Raises:
        CacheCorruptError: The sizes, in bytes, differ.
    """
    if found != wanted:
        raise CacheCorruptError(
            f"{path} has {found} bytes; wanted {wanted}: it was cut short or changed after it was"
            " written. Copy it again from where it came, or make it again:"
            f" {REPAIR_COMMAND}"
        )


def sample_json(sample: CachedSample) -> bytes:
    """Return the bytes of an image's ``json`` member, at most 512."""
    return canonical_json(
        {
            "image_id": sample.image_id,
            "key": sample.key,
            "num_clipped_regions": sample.num_clipped_regions,
            "num_dropped_regions": sample.num_dropped_regions,
            "num_regions": sample.num_regions,
            "size_hw": list(sample.size_hw),
        }
    ).encode("ascii")


def _add_sample(tar: TarWriter, sample: CachedSample) -> list[WrittenMember]:
    payloads = (sample_json(sample), *(encode_array(array) for array in sample.arrays))
    return [
        tar.add(f"{sample.key}.{member}", payload)
        for member, payload in zip(MEMBERS, payloads, strict=True)
    ]


def _forms(layout: ShardLayout, num_regions: int) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return (
        (layout.feature_map_form.dtype, layout.feature_map_form.shape),
        ("<f2", (num_regions, layout.token_dim)),
        ("<f4", (num_regions, 4)),
        ("<i8", (num_regions,)),
        ("<f4", (num_regions,)),
    )
