"""Finds where a missing image is instead: one folder deeper, in another case, elsewhere."""

import os
import time
import unicodedata
from collections import deque
from collections.abc import Iterator
from itertools import islice
from operator import itemgetter
from pathlib import Path, PurePosixPath

_MAX_ENTRIES = 100_000
_MAX_S = 10.0
_SAME_PATH, _SAME_NAME, _OTHER_FORM, _OTHER_CASE, _OTHER_TYPE = range(5)


def where_instead(images_dir: Path, file_name: str) -> str | None:
    """Look for an image that is not where its annotations say.

    Folders above are tried first, for an ``images_dir`` that is a folder too deep. Then files below
    ``images_dir`` are compared by name, upper folders first; the search ends after 100,000 entries
    or 10 seconds.

    Args:
        images_dir: Folder of the images.
        file_name: Path below it, as the annotations spell it, at which there is no file.

    Returns:
        Where a file of that name is, and what to type; None if there is none.
    """
    wanted = PurePosixPath(file_name)
    for above in list(images_dir.resolve().parents)[: len(wanted.parts)]:
        if (above / wanted).is_file():
            return f"{file_name} is in {above}: give --annotations.images_dir {above}."
    best = min(_alike(images_dir, wanted), default=None, key=itemgetter(0))
    if best is None:
        return None
    likeness, found = best
    place = images_dir / found
    if likeness == _SAME_PATH:
        folder = Path(*place.parts[: -len(wanted.parts)])
        return f"{file_name} is in {folder}: give --annotations.images_dir {folder}."
    if likeness == _SAME_NAME:
        return (
            f"A file of that name is {place}; the annotations say {file_name}. Write the paths"
            f" below {images_dir} into the annotation file, or move the images."
        )
    difference = {
        _OTHER_FORM: "with accents in another Unicode form",
        _OTHER_CASE: "in another case",
        _OTHER_TYPE: "of another type",
    }[likeness]
    return (
        f"A file of nearly that name, {difference}, is {place}; the annotations say {file_name}."
        " Spell both alike: rename the files, or change the annotation file."
    )


def _alike(images_dir: Path, wanted: PurePosixPath) -> Iterator[tuple[int, PurePosixPath]]:
    """Yield files of similar names, with a number that is smaller for more similar ones."""
    for found in _files_below(images_dir):
        if found.parts[-len(wanted.parts) :] == wanted.parts:
            yield _SAME_PATH, found
            return
        name, wanted_name = found.name, wanted.name
        if name == wanted_name:
            yield _SAME_NAME, found
        elif _composed(name) == _composed(wanted_name):
            yield _OTHER_FORM, found
        elif _composed(name).casefold() == _composed(wanted_name).casefold():
            yield _OTHER_CASE, found
        elif _composed(found.stem) == _composed(wanted.stem):
            yield _OTHER_TYPE, found


def _files_below(folder: Path) -> Iterator[PurePosixPath]:
    """Yield paths below a folder, upper folders first; links are followed, each folder once."""
    end_s = time.monotonic() + _MAX_S
    num_left, seen = _MAX_ENTRIES, set[tuple[int, int]]()
    folders = deque([folder])
    while folders and num_left > 0 and time.monotonic() < end_s:
        here = folders.popleft()
        try:
            status = here.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(here) as entries:
                listed = sorted(islice(entries, num_left), key=lambda entry: entry.name)
            num_left -= len(listed)
            for entry in listed:
                if entry.is_dir():
                    folders.append(Path(entry.path))
                else:
                    yield PurePosixPath(os.path.relpath(entry.path, folder))
        except OSError:  # a folder that may not be read
            continue


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
