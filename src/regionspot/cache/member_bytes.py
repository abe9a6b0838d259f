"""The bytes of a shard: arrays in a fixed form of ``.npy``, in a plain USTAR with fixed fields.

An array is a header of 128 bytes and its data, never a pickle. NumPy writes the same bytes today,
but only promises that they can be read back. Here they are fixed, so that shards are identical
under every NumPy and the data of every member starts on a 64-byte boundary of the tar.
"""

import hashlib
import tarfile
import zlib
from functools import lru_cache
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from regionspot.core.errors import ShapeError

HEADER_BYTES: Final = 128
"""Length of an array's header; the data follows it."""

_PREFIX = b"\x93NUMPY\x01\x00" + (HEADER_BYTES - 10).to_bytes(2, "little")
_DTYPES = ("<f2", "<f4", "<f8", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "|b1")


@lru_cache(maxsize=1024)
def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return the 128 bytes before the data of an array.

    Args:
        dtype: NumPy's name with the byte order, such as ``"<f2"``.
        shape: The array's shape; at least 3 dimensions fit into the header.
    """
    if dtype not in _DTYPES:
        raise ShapeError(f"an array of dtype {dtype!r} cannot be stored; wanted one of {_DTYPES}.")
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape!r}, }}"
    header = _PREFIX + text.encode("ascii").ljust(HEADER_BYTES - 11) + b"\n"
    if len(header) != HEADER_BYTES:
        raise ShapeError(f"an array of shape {shape} has more sides than the cache can store.")
    return header


def encode_array(array: NDArray[Any]) -> bytes:
    """Return an array as ``.npy`` bytes that `numpy.load` reads; C order, little-endian.

    Equal arrays give equal bytes. The data starts at byte 128.
    """
    # ascontiguousarray would turn a scalar array into a vector
    little_endian = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    return npy_header(little_endian.dtype.str, array.shape) + little_endian.tobytes()


BLOCK_BYTES: Final = 512
"""Headers are one block; members are padded with zeros to whole blocks."""

END: Final = bytes(2 * BLOCK_BYTES)
"""The end of a tar: two blocks of zeros, here without the usual padding to 10 KiB."""


def tar_header(name: str, num_bytes: int) -> bytes:
    """Return the header block of a regular file: mode 0644, owner 0 without a name, time 0.

    Args:
        name: ASCII, at most 100 characters, no slash; longer names would need an extension header.
        num_bytes: Size of the file, below 8 GiB.
    """
    member = tarfile.TarInfo(name)
    member.size = num_bytes
    return member.tobuf(tarfile.USTAR_FORMAT)


def padding(num_bytes: int) -> bytes:
    """Return the zeros that follow a file of this size."""
    return bytes(-num_bytes % BLOCK_BYTES)


class WrittenMember(NamedTuple):
    """Where a member was written."""

    offset: int
    """Start of its bytes in the tar, a multiple of 512."""
    num_bytes: int
    """Their number."""
    crc32: int
    """Their CRC-32."""


class TarWriter:
    """Streams members into a tar, and hashes them, without keeping them in memory.

    Args:
        file: The empty file to write to.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._images: list[xxhash.xxh3_64] = []
        self.num_bytes = 0
        """Bytes written so far."""

    @property
    def image_checksums(self) -> list[int]:
        """XXH3-64 of the bytes of each image, up to the next image or the end of the tar."""
        return [image.intdigest() for image in self._images]

    def begin_image(self) -> None:
        """Start the next image: the members that follow belong to it."""
        self._images.append(xxhash.xxh3_64())

    def add(self, name: str, data: bytes) -> WrittenMember:
        """Append a member."""
        self._write(tar_header(name, len(data)))
        member = WrittenMember(self.num_bytes, len(data), zlib.crc32(data))
        self._write(data)
        self._write(padding(len(data)))
        return member

    def finish(self) -> str:
        """Write the end of the tar and return the SHA-256 of the whole."""
        self._write(END)
        return self._digest.hexdigest()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        if self._images:
            self._images[-1].update(data)
        self.num_bytes += len(data)
