"""Room on the disk for copies that can be fetched again: the longest unused ones go first."""

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from regionspot.core.errors import ConfigError
from regionspot.core.units import human_bytes
from regionspot.storage.errors import StorageError

LIMIT_VARIABLE = "REGIONSPOT_MAX_LOCAL_GB"
"""Disk space that copies of remote shards may take on this machine, in units of 1e9 bytes."""

_DEFAULT_GB = 100.0
_KEPT_FREE_BYTES = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copy:
    path: Path
    num_bytes: int
    used_ns: int


def max_local_bytes(gigabytes: float | None = None) -> int:
    """Return the limit in bytes: as given, else from the environment, else 100 GB.

    Raises:
        ConfigError: It is no positive number.
    """
    text = os.environ.get(LIMIT_VARIABLE, str(_DEFAULT_GB)) if gigabytes is None else str(gigabytes)
    try:
        limit = float(text)
    except ValueError:
        limit = 0.0
    if not limit > 0:
        raise ConfigError(
            f"the disk space for copies of remote shards is {text!r}; wanted a number of GB above"
            f" 0 (${LIMIT_VARIABLE}, or data.max_local_gb)."
        )
    return int(limit * 1e9)


def make_room(
    num_bytes: int,
    *,
    limit_bytes: int,
    home: Path,
    patterns: Sequence[str],
    lock_of: Callable[[Path], AbstractContextManager[bool]],
) -> None:
    """Remove copies until one more fits into the limit, and onto the disk.

    A copy that is mapped somewhere stays readable there; its space is free when it is let go.

    Args:
        num_bytes: Size of the copy to come.
        limit_bytes: What all copies may take.
        home: The folder above all copies.
        patterns: Which files below it are copies.
        lock_of: Takes the lock of a copy without waiting; one that is in use is left alone.

    Raises:
        ConfigError: The limit is smaller than the copy.
        StorageError: The disk is full of other things.
    """
    if num_bytes > limit_bytes:
        raise ConfigError(
            f"a shard takes {human_bytes(num_bytes)}, but copies of remote shards may take only"
            f" {human_bytes(limit_bytes)}. Raise data.max_local_gb or ${LIMIT_VARIABLE}."
        )
    copies = sorted(_copies(home, patterns), key=lambda copy: copy.used_ns)
    total = sum(copy.num_bytes for copy in copies)
    kept_free = min(_KEPT_FREE_BYTES, shutil.disk_usage(home).total // 20)
    for copy in copies:
        if total + num_bytes <= limit_bytes and _free(home) >= num_bytes + kept_free:
            return
        with lock_of(copy.path) as is_ours:
            if is_ours:
                for path in copy.path.parent.glob(f"{copy.path.stem}.*"):  # what a crash left, too
                    path.unlink(missing_ok=True)
                total -= copy.num_bytes
    if _free(home) < num_bytes:
        raise StorageError(
            f"the disk of {home} has no room for a shard of {human_bytes(num_bytes)}. Make room, or"
            " keep copies on another disk: export REGIONSPOT_HOME=/another/disk"
        )


def _free(home: Path) -> int:
    return shutil.disk_usage(home).free


def _copies(home: Path, patterns: Sequence[str]) -> list[_Copy]:
    copies = []
    for path in (path for pattern in patterns for path in home.glob(pattern)):
        try:
            status = path.stat()
        except FileNotFoundError:  # another process removed it just now
            continue
        copies.append(_Copy(path=path, num_bytes=status.st_size, used_ns=status.st_mtime_ns))
    return copies
