"""The errors of an extraction."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from regionspot.core.errors import RegionSpotError

_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


class TooManyQuarantinedError(RegionSpotError, ValueError):
    """More images are unusable than was allowed."""


class DiskError(RegionSpotError, OSError):
    """The cache cannot be written to: the disk is full, or writing is not allowed."""


class ClusterError(RegionSpotError, RuntimeError):
    """The workers of a cluster keep dying, or the cluster cannot be used."""


class WorkerLostError(RuntimeError):
    """A worker of a cluster died, or failed unexpectedly; another worker may succeed."""


@contextmanager
def disk_errors_explained(output_dir: Path) -> Iterator[None]:
    """Raise `DiskError` if the disk is full, or the block is not permitted to write to it."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise DiskError(
            f"cannot write to {output_dir}: {error.strerror}. Finished shards are safe: make room,"
            " or allow writing there, and run the same command again; or set another --output_dir."
        ) from error
