"""Questions about files that are asked of whatever a person typed.

Identities: SHA-256 of files, bytes and JSON values, always as lower-case hex.

Files that are absent or whole: temporary name, fsync, rename, fsync of the folder.

Locks between the processes and threads of one machine, by ``flock``.

They end with the process that holds them, however it ends. On a file system that cannot lock, a
warning is logged and nothing is protected.
"""

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from regionspot.core.errors import ConfigError


def is_file(path: str | Path) -> bool:
    """Say whether there is a file at a path.

    ``Path.is_file`` raises for names that are too long for any file; here there is just none.
    """
    return os.path.isfile(path)  # noqa: PTH113


def sha256_bytes(data: bytes | bytearray | memoryview) -> str:
    """Return the SHA-256 of ``data`` as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits, reading it in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """Write a JSON value in the one form that equal values share: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that appears under ``path`` only when the block ends well.

    A crash at any moment leaves either no file or the former one under ``path``, and at most a
    stray ``<name>.tmp`` beside it, which the next writer overwrites. An error in the block leaves
    no stray file, which would keep its room on a full disk. The folder is created if need be.

    Yields:
        A binary file open for writing and reading.
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
    """Write ``data`` to ``path`` so that a crash leaves the old file, or the whole new one."""
    with open_atomic(path) as file:
        file.write(data)


def write_text_atomic(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 so that a crash leaves the old file, or the whole new one."""
    write_bytes_atomic(path, text.encode("utf-8"))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


logger = logging.getLogger(__name__)


@contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock while the block runs.

    Args:
        path: The lock's file, which is created and never removed.
        wait: Whether to wait while another holds it.

    Yields:
        Whether the lock is held: always, unless ``wait`` is off and another has it.
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
    """Keep other processes from writing into a folder while the block runs; leaves no file.

    Args:
        folder: The folder; it is created if need be.
        advice: What to do when another process has it, as a sentence for the user.
        shared: Whether others may have it at the same time, if they share it, too.

    Raises:
        ConfigError: Another process has the folder.
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
    """Lock an open file or folder; a file system that cannot lock is worth a warning only.

    Args:
        descriptor: The open file or folder.
        kind: As for `fcntl.flock`.
        path: Its path, for the warning.

    Raises:
        BlockingIOError: Another has it, and ``kind`` says not to wait.
    """
    try:
        fcntl.flock(descriptor, kind)
    except BlockingIOError:
        raise
    except OSError as error:
        logger.warning(
            "%s cannot be locked (%s): make sure that no other process writes there", path, error
        )
