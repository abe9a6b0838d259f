"""What stops an extraction on purpose."""

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
    """Workers of a cluster die again and again, or the cluster cannot be used."""


class WorkerLostError(RuntimeError):
    """A worker of a cluster died, or failed in an unforeseen way; another one may do better."""


@contextmanager
def told_disk_errors(output_dir: Path) -> Iterator[None]:
    """Turn the system's refusal to write into a message.

    Raises:
        DiskError: The block was refused to write to the disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise DiskError(
            f"cannot write to {output_dir}: {error.strerror}. Finished shards are safe: make room,"
            " or allow writing there, and give the same command again; or set another --output_dir."
        ) from error
