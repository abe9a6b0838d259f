"""Reads the samples of a shard from a memory map of its tar."""

import mmap
import os
import zlib
from pathlib import Path
from typing import Any, Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from regionspot.cache.cache_files import open_regular
from regionspot.cache.layout import (
    ARRAY_MEMBERS,
    MASKS,
    MEMBERS,
    PREDICTED_IOU,
    REPAIR_ADVICE,
    REPAIR_COMMAND,
)
from regionspot.cache.member_bytes import HEADER_BYTES, npy_header
from regionspot.cache.sample import CachedSample, ImageDetails
from regionspot.cache.sidecar import ShardLayout
from regionspot.core.errors import CacheCorruptError, RegionSpotError
from regionspot.core.files import is_below
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
        offsets = layout.data_offsets[index].tolist()
        for offset, (dtype, shape) in zip(offsets, forms, strict=False):
            arrays.append(self._array(mapped, offset, dtype, shape))
        feature_map, position_tokens, boxes_xyxy, labels, box_scores = arrays
        meta = self._meta(mapped, index)
        details = self._details(mapped, index, meta)
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
                predicted_iou=details.predicted_iou,
                masks_rle=details.masks_rle,
                file_name=details.file_name,
            )
        except (KeyError, TypeError, IndexError, RegionSpotError) as error:
            raise self._damaged(f"image {index} is described by {meta} ({error!r})") from error

    def details(
        self, index: int, lengths: NDArray[np.int64], checksums: NDArray[np.int64]
    ) -> ImageDetails:
        """Return what `sample` returns beside the arrays of training, reading nothing else.

        Args:
            index: Position in the shard, counted from 0.
            lengths: Bytes of each member of the image, (M,), from the sidecar.
            checksums: Their CRC-32, (M,), which the members that are read must have.
        """
        mapped = self._open_map()
        for column, (member, offset) in enumerate(self._offsets(index).items()):
            if member in ARRAY_MEMBERS:
                continue
            start = offset - HEADER_BYTES if member == PREDICTED_IOU else offset
            data = mapped[start : start + int(lengths[column])]
            if zlib.crc32(data) != int(checksums[column]):
                raise self._damaged(f"the {member} of image {index} is not what was written")
        return self._details(mapped, index, self._meta(mapped, index))

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

    def _array(
        self, mapped: memoryview, offset: int, dtype: str, shape: tuple[int, ...]
    ) -> NDArray[Any]:
        if mapped[offset - HEADER_BYTES : offset] != npy_header(dtype, shape):
            raise self._damaged(f"no {dtype} array of shape {shape} at byte {offset}")
        return np.ndarray(shape, dtype, mapped, offset)

    def _offsets(self, index: int) -> dict[str, int]:
        """Return where the data of each member of an image starts, in the order of the tar."""
        layout = self._layout
        offsets = (int(layout.json_offsets[index]), *layout.data_offsets[index].tolist())
        return dict(zip(MEMBERS, offsets, strict=False))

    def _details(self, mapped: memoryview, index: int, meta: dict[str, Any]) -> ImageDetails:
        offsets = self._offsets(index)
        if PREDICTED_IOU not in offsets:
            return ImageDetails()
        num_regions = int(self._layout.num_regions[index])
        file_name = meta.get("file_name")
        if not (isinstance(file_name, str) and is_below(file_name)):
            raise self._damaged(f"image {index} has no file name below the images folder in {meta}")
        masks_rle = None
        if MASKS in offsets:
            text = bytes(mapped[offsets[MASKS] : self._layout.image_span(index).stop])
            *masks, rest = text.rstrip(b"\0").split(b"\n")
            if len(masks) != num_regions or rest:
                raise self._damaged(
                    f"image {index} has {len(masks)} masks of {num_regions} regions"
                )
            masks_rle = tuple(masks)
        return ImageDetails(
            file_name=file_name,
            predicted_iou=self._array(mapped, offsets[PREDICTED_IOU], "<f4", (num_regions,)),
            masks_rle=masks_rle,
        )

    def _meta(self, mapped: memoryview, index: int) -> dict[str, Any]:
        span = self._layout.json_span(index)
        offset, text = span.start, bytes(mapped[span]).rstrip(b"\0")
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
