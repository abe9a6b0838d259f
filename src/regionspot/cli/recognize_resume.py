"""Continues an interrupted ``regionspot recognize --output``.

The records of finished images are kept as JSON lines in a file of the output folder, after a first
line with what they depend on. When all images are finished, the output is written from it, and the
file is removed. A last line that is incomplete, as a killed process may leave it, is dropped.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from regionspot.cli.recognize_outputs import Record, write_line
from regionspot.core.errors import ConfigError
from regionspot.core.files import open_atomic
from regionspot.core.json_text import load_json


class UnfinishedRun:
    """The file of records.

    Args:
        path: The file; continued if it exists.
        settings: What the records depend on, by option.
        images: The images of this run. Records of others are dropped, and so are those of images
            that could not be used, which are tried again.

    Raises:
        ConfigError: The file is of other settings, or damaged.
    """

    def __init__(self, path: Path, settings: Mapping[str, object], images: Iterable[str]) -> None:
        self._path = path
        self.done: set[str] = set()
        wanted = set(images)
        lines = _whole_lines(path)
        header = next(lines, b"")
        with open_atomic(path) as file:
            write_line(file, settings)
            for number, line in enumerate(lines):
                if number == 0:
                    _check_same(_read(header, path), settings, path)
                record = _read(line, path)
                if record.get("image") in wanted and "error" not in record:
                    self.done.add(record["image"])
                    file.write(line)

    def add(self, record: Record) -> None:
        """Keep the record of an image."""
        with self._path.open("ab") as file:
            write_line(file, record)

    def records(self) -> Iterator[Record]:
        """Yield all records, in the order in which they were added."""
        lines = _whole_lines(self._path)
        next(lines)
        return (_read(line, self._path) for line in lines)

    def remove(self) -> None:
        """Remove the file, once the output is written."""
        self._path.unlink()


def _whole_lines(path: Path) -> Iterator[bytes]:
    if path.exists():
        with path.open("rb") as file:
            yield from (line for line in file if line.endswith(b"\n"))


def _read(line: bytes, path: Path) -> dict[str, Any]:
    try:
        value = load_json(line)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ConfigError(
            f"{path} is damaged; wanted the JSON lines of an interrupted run. Remove it to start"
            " again, or give another --output."
        )
    return value


def _check_same(found: Mapping[str, object], wanted: Mapping[str, object], path: Path) -> None:
    differing = [name for name in wanted if found.get(name) != wanted[name]]
    if differing:
        raise ConfigError(
            f"{path} is of an interrupted run with another"
            f" {', '.join(f'--{name}' for name in differing)}. Give the same options to continue"
            " it, remove it to start again, or give another --output."
        )
