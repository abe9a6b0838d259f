"""Local copies of remote files.

`Mirror` synchronizes small files of a remote folder with their copies, in both directions.
`local_input` downloads a single file, such as annotations, unless its copy is up to date.
`make_room` removes the least recently used copies of shards.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from regionspot.core.errors import ConfigError, MissingFileError
from regionspot.core.files import file_lock, sha256_bytes, sha256_file, write_text_atomic
from regionspot.core.json_text import load_json
from regionspot.core.text import human_bytes
from regionspot.storage.remote import RemoteFolder, RemoteObject, StorageError

_NUM_AT_ONCE = 8
_NOTE = ".note"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """The remote file that a copy was equal to when it was downloaded or uploaded."""

    identity: str
    sha256: str


class Mirror:
    """Local copies of files of a remote folder.

    A note per copy records which version of the remote file it equals. So a file is downloaded only
    if the remote file changed, and uploaded only if the copy changed.

    Args:
        remote: The remote folder.
        folder: Folder of the copies, under the same names.
        notes: Folder of the notes.
    """

    def __init__(self, remote: RemoteFolder, folder: Path, notes: Path) -> None:
        self.remote = remote
        self.folder = folder
        self._notes = notes

    def pull(self, names: Iterable[str], listing: Mapping[str, RemoteObject]) -> None:
        """Download new and changed files, and remove copies of files that are gone.

        Local files that were never uploaded stay.

        Args:
            names: Names of the files.
            listing: The files in the remote folder.
        """
        with ThreadPoolExecutor(_NUM_AT_ONCE) as pool:
            for _ in pool.map(lambda name: self._pull(name, listing.get(name)), names):
                pass

    def push(self, name: str) -> None:
        """Upload a file, unless it is missing or equals the remote one."""
        path = self.folder / name
        if not path.is_file():
            return
        sha256, origin = sha256_file(path), self._origin(name)
        if origin is None or origin.sha256 != sha256:
            self._note(name, self.remote.put(path, name), sha256)

    def withdraw(self, name: str) -> None:
        """Remove a remote file, and the note about its copy."""
        self.remote.remove(name)
        self._note_path(name).unlink(missing_ok=True)

    def withdraw_removed(self) -> None:
        """Remove the remote files whose copies were removed."""
        for note in sorted(self._notes.glob(f"*{_NOTE}")):
            name = unquote(note.name.removesuffix(_NOTE))
            if not (self.folder / name).exists():
                self.withdraw(name)

    def clear(self) -> None:
        """Remove all local files; remote files stay."""
        for folder in (self._notes, self.folder):
            for path in folder.rglob("*"):
                if not path.is_dir():
                    path.unlink(missing_ok=True)

    def is_copy(self, name: str) -> bool:
        """Return whether a local file equals the remote one, as of its last transfer."""
        path, origin = self.folder / name, self._origin(name)
        return origin is not None and path.is_file() and origin.sha256 == sha256_file(path)

    def is_known(self, name: str) -> bool:
        """Return whether the remote folder had a file, as of its last transfer."""
        return self._note_path(name).is_file()

    def _pull(self, name: str, found: RemoteObject | None) -> None:
        path, origin = self.folder / name, self._origin(name)
        if found is None:
            if origin is not None:
                path.unlink(missing_ok=True)
                self._note_path(name).unlink(missing_ok=True)
        elif origin is None or origin.identity != found.identity or not path.is_file():
            self.remote.fetch(name, path)
            self._note(name, found, sha256_file(path))

    def _note(self, name: str, found: RemoteObject, sha256: str) -> None:
        origin = _Origin(identity=found.identity, sha256=sha256)
        write_text_atomic(self._note_path(name), json.dumps(asdict(origin)))

    def _origin(self, name: str) -> _Origin | None:
        try:
            note = load_json(self._note_path(name).read_bytes())
            return _Origin(**note) if isinstance(note, dict) else None
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _note_path(self, name: str) -> Path:
        return self._notes / f"{quote(name, safe='')}{_NOTE}"


LIMIT_VARIABLE = "REGIONSPOT_MAX_LOCAL_GB"
"""Disk space that copies of remote shards may take on this machine, in units of 1e9 bytes."""

_DEFAULT_GB = 100.0
_KEPT_FREE_BYTES = 1_000_000_000


def max_local_bytes(gigabytes: float | None = None) -> int:
    """Return the limit in bytes: as given, else from the environment, else 100 GB."""
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
    """Remove the least recently used copies until one more fits into the limit and onto the disk.

    A removed copy stays readable while it is mapped; its space is free once it is unmapped.

    Args:
        num_bytes: Size of the next copy.
        limit_bytes: Disk space for all copies.
        home: The folder of all copies.
        patterns: Glob patterns of the copies in it.
        lock_of: Locks a copy without waiting; a copy that is in use is kept.

    Raises:
        ConfigError: The limit is smaller than the copy.
        StorageError: The disk is full of other files.
    """
    if num_bytes > limit_bytes:
        raise ConfigError(
            f"a shard takes {human_bytes(num_bytes)}, but copies of remote shards may take only"
            f" {human_bytes(limit_bytes)}. Raise data.max_local_gb or ${LIMIT_VARIABLE}."
        )
    copies = sorted(_copies(home, patterns))
    total = sum(size for _, size, _ in copies)
    kept_free = min(_KEPT_FREE_BYTES, shutil.disk_usage(home).total // 20)
    for _, size, copy in copies:
        if total + num_bytes <= limit_bytes and _free(home) >= num_bytes + kept_free:
            return
        with lock_of(copy) as is_ours:
            if is_ours:
                for path in copy.parent.glob(f"{copy.stem}.*"):  # with remains of a crash
                    path.unlink(missing_ok=True)
                total -= size
    if _free(home) < num_bytes:
        raise StorageError(
            f"the disk of {home} has no room for a shard of {human_bytes(num_bytes)}. Make room, or"
            " keep copies on another disk: export REGIONSPOT_HOME=/another/disk"
        )


def _free(home: Path) -> int:
    return shutil.disk_usage(home).free


def _copies(home: Path, patterns: Sequence[str]) -> Iterator[tuple[int, int, Path]]:
    """Yield time of last use in ns, size in bytes, and path of each copy."""
    for path in (path for pattern in patterns for path in home.glob(pattern)):
        with suppress(FileNotFoundError):  # another process may remove it meanwhile
            status = path.stat()
            yield status.st_mtime_ns, status.st_size, path


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.+")


def is_url(location: str | Path) -> bool:
    """Return whether a location is a URL such as ``s3://bucket/folder``, rather than a path."""
    return isinstance(location, str) and _URL.fullmatch(location) is not None


def local_home() -> Path:
    """Return the folder of copies and downloads.

    ``$REGIONSPOT_HOME``, or ``$XDG_CACHE_HOME/regionspot``, or ``~/.cache/regionspot``.
    """
    if home := os.environ.get("REGIONSPOT_HOME"):
        return Path(home).expanduser()
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser() / "regionspot"


def place_of(url: str, purpose: str) -> Path:
    """Return the local folder of a URL for a purpose, the same in every process."""
    return local_home() / purpose / sha256_bytes(url.rstrip("/").encode("utf-8"))[:16]


def local_input(location: str) -> Path:
    """Return the local path of a file or URL; download a URL unless its copy is up to date.

    The copy keeps the file's name, which appears in messages and in names of data sets.

    Raises:
        MissingFileError: There is no file at the URL.
        StorageError: The server refuses access or does not answer.
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
