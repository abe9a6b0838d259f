"""Locks between the processes and threads of one machine, by ``flock``.

They end with the process that holds them, however it ends. On a file system that cannot lock, a
warning is logged and nothing is protected.
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from regionspot.core.errors import ConfigError

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
