"""Small files of a remote folder and their copies on this disk, kept equal in both directions."""

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from regionspot.core.atomic import write_text_atomic
from regionspot.core.hashing import sha256_file
from regionspot.core.json_text import load_json
from regionspot.storage.remote_folder import RemoteFolder, RemoteObject

_NUM_AT_ONCE = 8
_NOTE = ".note"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """What a copy was equal to when it was fetched or sent."""

    identity: str
    """That of the remote file."""
    sha256: str
    """Hash of the bytes."""


class Mirror:
    """Copies of files of a remote folder.

    A note of what each copy equals remotely is kept beside them. So copies are fetched again only
    if the remote file changed, and sent only if the copy did.

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
        """Fetch what is new or changed remotely, and remove copies of what is gone there.

        A file that was made here and never sent stays.

        Args:
            names: Which files.
            listing: What lies in the remote folder.
        """
        with ThreadPoolExecutor(_NUM_AT_ONCE) as pool:
            for _ in pool.map(lambda name: self._pull(name, listing.get(name)), names):
                pass

    def push(self, name: str) -> None:
        """Send a file unless it is a copy of what lies there; a missing one is not sent."""
        path = self.folder / name
        if not path.is_file():
            return
        sha256, origin = sha256_file(path), self._origin(name)
        if origin is None or origin.sha256 != sha256:
            self._note(name, self.remote.put(path, name), sha256)

    def withdraw(self, name: str) -> None:
        """Remove a file remotely, and forget that its copy, if there is one, is one."""
        self.remote.remove(name)
        self._note_path(name).unlink(missing_ok=True)

    def withdraw_removed(self) -> None:
        """Remove remotely what was removed here since it was fetched or sent."""
        for note in sorted(self._notes.glob(f"*{_NOTE}")):
            name = unquote(note.name.removesuffix(_NOTE))
            if not (self.folder / name).exists():
                self.withdraw(name)

    def clear(self) -> None:
        """Remove all files here, copies or not; remotely nothing changes."""
        for folder in (self._notes, self.folder):
            for path in folder.rglob("*"):
                if not path.is_dir():
                    path.unlink(missing_ok=True)

    def is_copy(self, name: str) -> bool:
        """Say whether a file here is a copy of what lay in the remote folder at the last look."""
        path, origin = self.folder / name, self._origin(name)
        return origin is not None and path.is_file() and origin.sha256 == sha256_file(path)

    def is_known(self, name: str) -> bool:
        """Say whether the remote folder had a file at the last look."""
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
