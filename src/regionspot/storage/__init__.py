"""Files behind URLs (s3://, gs://, https://, any scheme of fsspec), and their local copies."""

from regionspot.storage.copies import (
    Mirror,
    is_url,
    local_home,
    local_input,
    make_room,
    max_local_bytes,
    place_of,
)
from regionspot.storage.remote import RemoteFolder, RemoteObject, StorageError, attempt

__all__ = [
    "Mirror",
    "RemoteFolder",
    "RemoteObject",
    "StorageError",
    "attempt",
    "is_url",
    "local_home",
    "local_input",
    "make_room",
    "max_local_bytes",
    "place_of",
]
