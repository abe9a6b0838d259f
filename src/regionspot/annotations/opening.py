"""Opens annotation files, and reports those that are missing, empty or compressed."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from regionspot.annotations.detect_format import format_hint
from regionspot.core.errors import AnnotationError, MissingFileError

FileKind = Literal["json", "csv", "yaml", "txt"]
"""What a file should be, which is also its suffix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRole:
    """What a file is for, for messages."""

    noun: str
    """Its name."""
    option: str
    """The option that gives it."""


ANNOTATIONS = FileRole(noun="annotation file", option="--annotations.path")
"""The role of a file unless another is given."""

_PACKED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
_NUM_BESIDE = 5


class HashedFile:
    """A file that is read once, sequentially, and hashed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.num_bytes = 0

    def read(self, num_bytes: int) -> bytes:
        """Read the next bytes, fewer at the end of the file; all if -1."""
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
def open_hashed(
    path: Path, kind: FileKind, *, role: FileRole = ANNOTATIONS
) -> Iterator[HashedFile]:
    """Open a file for reading; refuse a missing, compressed or empty one."""
    if not path.is_file():
        raise MissingFileError(_missing_message(path, kind, role))
    with path.open("rb") as file:
        head = file.read(max(map(len, _PACKED)))
        for magic, packing in _PACKED.items():
            if head.startswith(magic):
                raise AnnotationError(
                    f"{path} is packed ({packing}). Unpack it and give the .{kind} file inside with"
                    f" {role.option}."
                )
        if not head:
            raise empty_file_error(path, 0, role)
        file.seek(0)
        yield HashedFile(file)


def empty_file_error(path: Path, num_bytes: int, role: FileRole) -> AnnotationError:
    """Return the error for a file of nothing but white space."""
    return AnnotationError(
        f"{path} is empty ({num_bytes} bytes). Download or copy the {role.noun} again."
    )


def _missing_message(path: Path, kind: FileKind, role: FileRole) -> str:
    place, found = (path, "is a folder") if path.is_dir() else (path.parent, "does not exist")
    names = sorted(entry.name for entry in place.glob(f"*.{kind}"))
    hint = f" That folder holds {', '.join(names[:_NUM_BESIDE])}." if names else ""
    if path.is_dir() and (other := format_hint(path)):
        hint += f" It may be in the format {other}: set --annotations.format."
    return f"{path} {found}.{hint} Set {role.option} to the {role.noun}."
