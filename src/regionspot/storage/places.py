"""Which names are URLs, and where on this machine copies of what they name are kept."""

import os
import re
from pathlib import Path

from regionspot.core.hashing import sha256_bytes

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.+")


def is_url(location: str | Path) -> bool:
    """Say whether a location is a URL such as ``s3://bucket/folder``, and no path."""
    return isinstance(location, str) and _URL.fullmatch(location) is not None


def local_home() -> Path:
    """Return where copies and downloads are kept.

    ``$REGIONSPOT_HOME``, or ``$XDG_CACHE_HOME/regionspot``, or ``~/.cache/regionspot``.
    """
    if home := os.environ.get("REGIONSPOT_HOME"):
        return Path(home).expanduser()
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches).expanduser() / "regionspot"
    return Path.home() / ".cache" / "regionspot"


def place_of(url: str, purpose: str) -> Path:
    """Return the folder that a URL has on this machine for a purpose, the same in every process."""
    return local_home() / purpose / sha256_bytes(url.rstrip("/").encode("utf-8"))[:16]
