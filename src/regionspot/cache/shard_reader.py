"""Reads the samples of a shard from a memory map of its tar."""

import mmap
import os
from pathlib import Path
from typing import Any, Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from regionspot.cache.cache_files import open_regular
from regionspot.cache.layout import ARRAY_MEMBERS, REPAIR_ADVICE, REPAIR_COMMAND
from regionspot.cache.member_bytes import BLOCK_BYTES, HEADER_BYTES, npy_header
from regionspot.cache.sample import CachedSample
from regionspot.cache.sidecar import ShardLayout
from regionspot.core.errors import CacheCorruptError, RegionSpotError
from regionspot.core.json_text import load_json


class ShardReader:
    """Reads the samples of one shard from a memory map of its tar, without copying arrays.

    Args:
        path: The tar.
        layout: Where its samples are, from the sidecar or the index.

    Raises:
        CacheCorruptError: The tar is missing or of another size than in ``layout``, so that mapping
            it would end the process with a bus error; or ``layout`` points outside the tar.

    Attributes:
        address: Address of the mapped tar, valid until the reader is closed or deleted.
    """

    def __init__(self, path: Path, layout: ShardLayout) -> None:
        self._path = path
        self._layout = layout
        if fault := layout.range_fault(layout.tar_bytes):
            raise self._damaged(f"by its sidecar or the index, {fault}")
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

    def __exit__(self, *_: object) -> None:
        self.close()

    def check_size(self) -> None:
        """Check that the tar has not been cut: reading past its end would kill the process."""
        if self._map is not None and self._map.size() != self._layout.tar_bytes:
            raise CacheCorruptError(
                f"{self._path} was {self._layout.tar_bytes} bytes when it was opened, and is"
                f" {self._map.size()} now: another program changed it while it was read. Stop that"
                " program, then copy the tar again from where it came, or make it again:"
                f" {REPAIR_COMMAND}"
            )

    def check_image(self, index: int, *, num_classes: int) -> None:
        """Compare all bytes of an image with their checksum, and its labels with the vocabulary.

        Args:
            index: Position in the shard, counted from 0.
            num_classes: Number of classes; labels are -1 (no class) to ``num_classes - 1``.
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
        """
        mapped = self._open_map()
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} is not among the {len(self)} of {self._path}.")
        layout = self._layout
        num_regions = int(layout.num_regions[index])
        forms: tuple[tuple[str, tuple[int, ...]], ...] = (
            (layout.feature_map_form.dtype, layout.feature_map_form.shape),
            ("<f2", (num_regions, layout.token_dim)),
            ("<f4", (num_regions, 4)),
            ("<i8", (num_regions,)),
            ("<f4", (num_regions,)),
        )
        arrays: list[NDArray[Any]] = []
        for offset, (dtype, shape) in zip(layout.data_offsets[index].tolist(), forms, strict=True):
            if mapped[offset - HEADER_BYTES : offset] != npy_header(dtype, shape):
                raise self._damaged(f"no {dtype} array of shape {shape} at byte {offset}")
            arrays.append(np.ndarray(shape, dtype, mapped, offset))
        feature_map, position_tokens, boxes_xyxy, labels, box_scores = arrays
        meta = self._meta(mapped, int(layout.json_offsets[index]))
        try:
            return CachedSample(
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

    def read_ahead(self, index: int) -> None:
        """Start reading an image from disk in the background."""
        if self._map is not None:
            span = self._layout.image_span(index)
            start = span.start - span.start % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, start, span.stop - start)

    def close(self) -> None:
        """Release the memory map; it stays mapped while an array of a sample is in use."""
        self._map = self._mapped = None

    def _open_map(self) -> memoryview:
        if self._mapped is None:
            raise ValueError(f"the reader of {self._path} was closed.")
        return self._mapped

    def _meta(self, mapped: memoryview, offset: int) -> dict[str, Any]:
        text = bytes(mapped[offset : offset + BLOCK_BYTES]).rstrip(b"\0")
        try:
            meta = load_json(text)
        except ValueError as error:
            raise self._damaged(f"no JSON at byte {offset} ({error})") from error
        if not isinstance(meta, dict):
            raise self._damaged(f"no JSON object at byte {offset}")
        return meta

    def _damaged(self, what: str) -> CacheCorruptError:
        return CacheCorruptError(f"{self._path} is damaged: {what}. {REPAIR_ADVICE}")


def check_tar_bytes(found: int, wanted: int, path: Path) -> None:
    """Raise `CacheCorruptError` if a tar has another size, in bytes, than it was written with."""
    if found != wanted:
        raise CacheCorruptError(
            f"{path} has {found} bytes; wanted {wanted}: it was cut short or changed after it was"
            " written. Copy it again from where it came, or make it again:"
            f" {REPAIR_COMMAND}"
        )
