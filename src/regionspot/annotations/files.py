"""Opens annotation files, and says what is wrong with one that cannot even be begun."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

from regionspot.core.errors import AnnotationError, MissingFileError

FileKind = Literal["json", "csv"]
"""What a file should be, which is also how its name ends."""

_PACKED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
_NUM_BESIDE = 5


class HashedFile:
    """A file that is read once from front to back, and hashed on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.num_bytes = 0

    def read(self, num_bytes: int) -> bytes:
        """Read the next bytes; fewer at the end of the file, and none after it."""
        return self._count(self._file.read(num_bytes))

    def read_line(self) -> bytes:
        """Read up to and including the next line break."""
        return self._count(self._file.readline())

    @property
    def sha256(self) -> str:
        """SHA-256 of all bytes read so far, in hex."""
        return self._hash.hexdigest()

    def _count(self, data: bytes) -> bytes:
        self._hash.update(data)
        self.num_bytes += len(data)
        return data


@contextmanager
def open_hashed(path: Path, kind: FileKind, *, option: str = "path") -> Iterator[HashedFile]:
    """Open an annotation file for reading.

    Args:
        path: The file.
        kind: What it should be.
        option: The option of ``--annotations`` that named it, for messages.

    Raises:
        MissingFileError: There is no such file; the message lists what lies there.
        AnnotationError: The file is packed or has no bytes.
    """
    if not path.is_file():
        raise MissingFileError(_missing_message(path, kind, option))
    with path.open("rb") as file:
        head = file.read(max(map(len, _PACKED)))
        for magic, packing in _PACKED.items():
            if head.startswith(magic):
                raise AnnotationError(
                    f"{path} is packed ({packing}). Unpack it and give the .{kind} file inside with"
                    f" --annotations.{option}."
                )
        if not head:
            raise empty_file_error(path, 0)
        file.seek(0)
        yield HashedFile(file)


def empty_file_error(path: Path, num_bytes: int) -> AnnotationError:
    """Describe a file that holds nothing but white space."""
    return AnnotationError(
        f"{path} is empty ({num_bytes} bytes). Download or copy the annotation file again."
    )


def _missing_message(path: Path, kind: FileKind, option: str) -> str:
    if path.is_dir():
        place, found = path, "is a folder, not an annotation file"
    else:
        place, found = path.parent, "does not exist"
    names = sorted(entry.name for entry in place.glob(f"*.{kind}")) if place.is_dir() else []
    hint = f" That folder holds {', '.join(names[:_NUM_BESIDE])}." if names else ""
    return f"{path} {found}.{hint} Set --annotations.{option} to the annotation file."
