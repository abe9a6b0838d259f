"""At most one process writes into a cache at a time."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from regionspot.core.errors import ConfigError

logger = logging.getLogger(__name__)


@contextmanager
def exclusive_writer(cache_dir: Path) -> Iterator[None]:
    """Keep other writers out of a cache while the block runs.

    The folder itself is locked (``flock``), so no file is left behind, not even by a crash: the
    lock ends with the process. On a file system that cannot lock, a warning is logged and the block
    runs unprotected.

    Args:
        cache_dir: The cache's folder; it is created if need be.

    Raises:
        ConfigError: Another process is writing there.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(cache_dir, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another process is writing to {cache_dir}; wanted to be the only one. Wait for"
                " it, or give another output_dir."
            ) from None
        except OSError as error:
            logger.warning(
                "%s cannot be locked (%s): make sure that no other process writes there",
                cache_dir,
                error,
            )
        yield
    finally:
        os.close(descriptor)
