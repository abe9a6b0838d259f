"""Reads a JSON file whole, and says precisely what is wrong with one that cannot be read."""

import json
from dataclasses import dataclass
from pathlib import Path

from regionspot.core.errors import AnnotationError, MissingFileError
from regionspot.core.hashing import sha256_bytes

_PACKED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonFile:
    """The value of a JSON file, and the file's identity."""

    path: Path
    """Where it was read from."""
    value: object
    """What ``json`` made of it."""
    sha256: str
    """SHA-256 of the file's bytes, in hex."""


def read_json(path: Path) -> JsonFile:
    """Read a JSON file.

    Raises:
        MissingFileError: There is no such file.
        AnnotationError: The file is empty, packed, cut off or not JSON; the message says where.
    """
    data = _read_bytes(path)
    try:
        value = json.loads(data)
    except UnicodeDecodeError as error:
        raise AnnotationError(
            f"{path} is not JSON: byte {error.start} is not UTF-8 text. It starts with"
            f" {bytes(data[:16])!r}. Give the annotation file with --annotations.path."
        ) from error
    except json.JSONDecodeError as error:
        raise AnnotationError(_syntax_message(path, error)) from error
    return JsonFile(path=path, value=value, sha256=sha256_bytes(data))


def _read_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise MissingFileError(_missing_message(path))
    data = path.read_bytes()
    for magic, kind in _PACKED.items():
        if data.startswith(magic):
            raise AnnotationError(
                f"{path} is packed ({kind}). Unpack it and give the .json file inside with"
                " --annotations.path."
            )
    if not data.strip():
        raise AnnotationError(
            f"{path} is empty ({len(data)} bytes). Download or copy the annotation file again."
        )
    return data


def _missing_message(path: Path) -> str:
    if path.is_dir():
        place, found = path, "is a folder, not an annotation file"
    else:
        place, found = path.parent, "does not exist"
    beside = sorted(entry.name for entry in place.glob("*.json"))[:5] if place.is_dir() else []
    hint = f" That folder holds {', '.join(beside)}." if beside else ""
    return f"{path} {found}.{hint} Set --annotations.path to the annotation file."


def _syntax_message(path: Path, error: json.JSONDecodeError) -> str:
    where = f"line {error.lineno}, column {error.colno} (character {error.pos:,})"
    length = len(error.doc)
    # A cut inside a string is reported where the string starts, not where the file ends.
    rest = error.doc[error.pos :]
    is_cut = not rest.strip() or error.msg.startswith("Unterminated string")
    if is_cut and error.pos > 0:
        return (
            f"{path} is cut off: it ends after {length:,} characters in the middle of the JSON"
            f" ({error.msg} at {where}). Download or copy the annotation file again."
        )
    return (
        f"{path} is not JSON: {error.msg} at {where}, near {rest[:40]!r}. Give a JSON annotation"
        " file with --annotations.path."
    )
