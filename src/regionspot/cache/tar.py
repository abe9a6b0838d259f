"""The tar around the members: plain USTAR with fixed fields, so equal members give equal bytes."""

import hashlib
import tarfile
import zlib
from dataclasses import dataclass
from typing import BinaryIO, Final

import xxhash

BLOCK_BYTES: Final = 512
"""Headers are one block; members are padded with zeros to whole blocks."""

END: Final = bytes(2 * BLOCK_BYTES)
"""A tar ends with two blocks of zeros; ours ends there, without the usual padding to 10 KiB."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenMember:
    """Where a member went."""

    offset: int
    """Where its bytes start in the tar, a multiple of 512."""
    num_bytes: int
    """How many they are."""
    crc32: int
    """Their CRC-32."""


class TarWriter:
    """Streams members into a tar and hashes what it writes; nothing is kept in memory.

    Args:
        file: Where to write, from its start.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._images: list[xxhash.xxh3_64] = []
        self.num_bytes = 0
        """Bytes written so far."""

    @property
    def image_checksums(self) -> list[int]:
        """XXH3-64 of all bytes of each image, up to the next image or to the end of the tar."""
        return [image.intdigest() for image in self._images]

    def begin_image(self) -> None:
        """Count what is added from now on to the next image."""
        self._images.append(xxhash.xxh3_64())

    def add(self, name: str, data: bytes) -> WrittenMember:
        """Append a member."""
        self._write(tar_header(name, len(data)))
        member = WrittenMember(offset=self.num_bytes, num_bytes=len(data), crc32=zlib.crc32(data))
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
