"""Locks between the processes and threads of one machine, by ``flock`` on a file of their own."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock while the block runs; it ends with the process, however that ends.

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
