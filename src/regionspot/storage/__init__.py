"""Files behind URLs (s3://, gs://, any scheme of fsspec) and on the Hub, and their copies."""

from regionspot.storage.copies import (
    Mirror,
    is_url,
    local_home,
    local_input,
    make_room,
    max_local_bytes,
    place_of,
)
from regionspot.storage.hub import HUB_PREFIX, download_from_hub, hub_errors
from regionspot.storage.remote import RemoteFolder, RemoteObject, StorageError, attempt

__all__ = [
    "HUB_PREFIX",
    "Mirror",
    "RemoteFolder",
    "RemoteObject",
    "StorageError",
    "attempt",
    "download_from_hub",
    "hub_errors",
    "is_url",
    "local_home",
    "local_input",
    "make_room",
    "max_local_bytes",
    "place_of",
]
