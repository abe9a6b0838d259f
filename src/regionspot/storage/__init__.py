"""Files behind URLs (s3://, gs://, https://, whatever fsspec knows), and their copies here."""

from regionspot.storage.errors import StorageError
from regionspot.storage.inputs import local_input
from regionspot.storage.locking import file_lock, folder_lock, try_flock
from regionspot.storage.mirror import Mirror
from regionspot.storage.places import is_url, local_home, place_of
from regionspot.storage.remote_folder import RemoteFolder, RemoteObject
from regionspot.storage.room import make_room, max_local_bytes

__all__ = [
    "Mirror",
    "RemoteFolder",
    "RemoteObject",
    "StorageError",
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
