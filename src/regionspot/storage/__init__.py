"""Files behind URLs (s3://, gs://, https://, any scheme of fsspec), and their local copies."""

from regionspot.core.files import file_lock, folder_lock, try_flock
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
    "file_lock",
    "folder_lock",
    "is_url",
    "local_home",
    "local_input",
    "make_room",
    "max_local_bytes",
    "place_of",
    "try_flock",
]
