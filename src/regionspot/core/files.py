"""Hashes, atomic writes and locks of files.

Hashes are SHA-256 of files, bytes and JSON values, as lower-case hex.

An atomic write leaves a file absent or whole: temporary name, fsync, rename, fsync of the folder.

Locks work between the processes and threads of one machine (``flock``) and are released when their
process ends, however it ends. On a file system without locks a warning is logged, and nothing is
protected.
"""

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from regionspot.core.errors import ConfigError

logger = logging.getLogger(__name__)


def is_file(path: str | Path) -> bool:
    """Return whether a path is a file; False, instead of an error, for too long names."""
    return os.path.isfile(path)  # noqa: PTH113


def is_below(name: str) -> bool:
    """Return whether a name is that of a file below a folder: relative, and without ``..``."""
    path = PurePosixPath(name)
    return bool(path.name) and not path.is_absolute() and ".." not in path.parts


def sha256_bytes(data: bytes | bytearray | memoryview) -> str:
    """Return the SHA-256 of ``data`` as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits, reading it in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """Format a JSON value canonically: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file (w+b) that appears at ``path`` only when the block ends without error.

    A crash at any moment leaves the old file at ``path``, or none if there was none, and at most a
    stray ``<name>.tmp`` beside it, which the next writer overwrites. An error in the block leaves
    no stray file, as it would take space on a full disk. The folder is created if necessary.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a crash leaves either the old file or the whole new one."""
    with open_atomic(path) as file:
        file.write(data)


def write_text_atomic(path: Path, text: str) -> None:
    """Write UTF-8 text so that a crash leaves either the old file or the whole new one."""
    write_bytes_atomic(path, text.encode("utf-8"))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock while the block runs.

    Args:
        path: Lock file; created if necessary, and never removed.
        wait: Whether to wait while another process or thread holds the lock.

    Yields:
        Whether the lock is held: always, unless ``wait`` is False and another process or thread
        holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


@contextmanager
def folder_lock(folder: Path, *, advice: str, shared: bool = False) -> Iterator[None]:
    """Lock a folder against other writers while the block runs; leaves no file.

    Args:
        folder: The folder; it is created if necessary.
        advice: What to do if another process holds the lock, as a sentence for the user.
        shared: Whether others may hold shared locks of the folder at the same time.

    Raises:
        ConfigError: Another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        try:
            try_flock(descriptor, kind | fcntl.LOCK_NB, folder)
        except BlockingIOError:
            raise ConfigError(
                f"another process is writing to {folder}; wanted to be the only one. {advice}"
            ) from None
        yield
    finally:
        os.close(descriptor)


def try_flock(descriptor: int, kind: int, path: Path) -> None:
    """Lock an open file or folder with `fcntl.flock`; only warn on a file system without locks.

    Raises:
        BlockingIOError: Another process holds the lock, and ``kind`` has ``LOCK_NB``.
    """
    try:
        fcntl.flock(descriptor, kind)
    except BlockingIOError:
        raise
    except OSError as error:
        logger.warning(
            "%s cannot be locked (%s): make sure that no other process writes there", path, error
        )
