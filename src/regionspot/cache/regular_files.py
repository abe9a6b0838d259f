"""Opens the files of a cache: plain files in its folders, and nothing else that has their name.

A cache may come from a stranger. A named pipe in it would keep a reader waiting for ever, a device
could do anything when it is opened, and a link could have a file of this machine read (or, at the
next repair, written) in place of one of the cache. The folder of a cache may be reached by links.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, cast

from regionspot.core.errors import CacheCorruptError

_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: Path) -> BinaryIO:
    """Open a file of a cache for reading.

    Raises:
        FileNotFoundError: There is nothing of that name.
        CacheCorruptError: It is no plain file; neither opened nor followed.
    """
    try:
        # Without O_NONBLOCK, opening a pipe would wait for somebody who writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENXIO}:  # a link, a socket
            raise
        raise _irregular(path, os.lstat(path)) from None
    try:
        check_regular(path, os.fstat(descriptor))
    except CacheCorruptError:
        os.close(descriptor)
        raise
    return cast("BinaryIO", os.fdopen(descriptor, "rb"))


def size_of_regular(path: Path) -> int | None:
    """Return the size of a file of a cache in bytes; None if it is missing.

    Raises:
        CacheCorruptError: It is no plain file.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    check_regular(path, found)
    return found.st_size


def check_regular(path: Path, found: os.stat_result) -> None:
    """Refuse what is no plain file.

    Raises:
        CacheCorruptError: ``found`` is what ``os.lstat`` says about something else.
    """
    if not stat.S_ISREG(found.st_mode):
        raise _irregular(path, found)


def _irregular(path: Path, found: os.stat_result) -> CacheCorruptError:
    kind = stat.S_IFMT(found.st_mode)
    advice = "Do not trust where the cache came from, or copy it again."
    if kind == stat.S_IFLNK:
        advice = (
            "Links to the folder of a cache are followed, links inside it are not. Copy the cache"
            " with the files that they point to, if you trust them: cp -rL <cache> <new cache>"
        )
    return CacheCorruptError(f"{path} is {_KINDS.get(kind, 'no file')}; wanted a file. {advice}")
