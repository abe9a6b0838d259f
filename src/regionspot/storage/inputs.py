"""Single files that are given by URL, such as annotations: fetched once, then looked at again."""

from pathlib import Path

from regionspot.core.atomic import write_text_atomic
from regionspot.core.errors import MissingFileError
from regionspot.storage.locking import file_lock
from regionspot.storage.places import is_url, place_of
from regionspot.storage.remote_folder import RemoteFolder


def local_input(location: str) -> Path:
    """Return the path of a file; one behind a URL is fetched unless the copy here is still right.

    The copy keeps the file's name, which ends up in messages and in names of data sets.

    Args:
        location: A path or a URL.

    Raises:
        MissingFileError: The URL names no file.
        StorageError: The server refuses, or does not answer.
    """
    if not is_url(location):
        return Path(location)
    folder_url, _, name = location.rpartition("/")
    remote = RemoteFolder(folder_url)
    place = place_of(location, "inputs")
    path, note = place / (name.partition("?")[0] or "input"), place / "identity.note"
    with file_lock(place / "lock"):
        found = remote.find(name)
        if found is None:
            raise MissingFileError(f"{location} does not exist. Check the URL.")
        is_fresh = note.is_file() and note.read_text(encoding="utf-8") == found.identity
        if not (is_fresh and path.is_file()):
            note.unlink(missing_ok=True)
            remote.fetch(name, path)
            write_text_atomic(note, found.identity)
    return path
