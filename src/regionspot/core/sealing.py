"""Files that contain their own SHA-256, so that a single flipped bit is detected.

Sealed JSON is plain JSON whose last key, ``sha256``, is the hash of all bytes before that key's
comma. A sealed ZIP archive (such as a file of `torch.save`) is a plain ZIP archive whose comment is
the hash of all bytes before the comment: ``unzip``, `zipfile` and `torch.load` still read it.
"""

import hashlib
import io
import re
from pathlib import Path
from typing import Final, Literal, TypeAlias

from regionspot.core.files import sha256_bytes

SealState: TypeAlias = Literal["whole", "unsealed", "damaged"]
"""Whether the bytes of a file are those that were sealed."""

SEAL_KEY: Final = "sha256"
"""The last key of sealed JSON."""

_JSON_TAIL = ',\n"sha256": "{}"\n}}\n'
_JSON_TAIL_BYTES = len(_JSON_TAIL.format("0" * 64))
_END_OF_ZIP = re.compile(rb"PK\x05\x06.{16}\x00\x00", re.DOTALL)
"""The end of a ZIP archive without a comment; the last two bytes are the comment's length."""
_END_OF_ZIP_BYTES = 22
_LENGTH_BYTES = 2
_COMMENT = "sha256 of all bytes before this comment: {}\n"
_COMMENT_BYTES = len(_COMMENT.format("0" * 64))
_PIECE_BYTES = 1 << 20


def seal_json_text(text: str) -> tuple[str, str]:
    """Add the SHA-256 to the text of a JSON object, as the last key; return text and hash."""
    body = text.removesuffix("}").rstrip("\n")
    seal = sha256_bytes(body.encode("utf-8"))
    return body + _JSON_TAIL.format(seal), seal


def json_seal(data: bytes) -> str | None:
    """Return the hash in sealed JSON, or None unless the bytes are those that were sealed."""
    seal = sha256_bytes(memoryview(data)[:-_JSON_TAIL_BYTES])
    return seal if data.endswith(_JSON_TAIL.format(seal).encode("ascii")) else None


def seal_zip(archive: io.BytesIO) -> None:
    """Add the SHA-256 to a ZIP archive in memory without a comment, as its comment."""
    archive.seek(-_LENGTH_BYTES, io.SEEK_END)
    archive.write(_COMMENT_BYTES.to_bytes(_LENGTH_BYTES, "little"))
    seal = sha256_bytes(archive.getbuffer())
    archive.write(_COMMENT.format(seal).encode("ascii"))


def zip_state(path: Path) -> SealState:
    """Read a ZIP archive, and return whether it is as `seal_zip` made it.

    An archive without a comment is "unsealed": it may be whole or not. A file that is no ZIP
    archive, or was truncated, is "damaged".
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if size >= _END_OF_ZIP_BYTES:
            file.seek(size - _END_OF_ZIP_BYTES)
            if _END_OF_ZIP.fullmatch(file.read()):
                return "unsealed"
            file.seek(0)
        digest = hashlib.sha256()
        remaining = max(size - _COMMENT_BYTES, 0)
        while remaining and (piece := file.read(min(_PIECE_BYTES, remaining))):
            digest.update(piece)
            remaining -= len(piece)
        comment = file.read()
    return "whole" if comment == _COMMENT.format(digest.hexdigest()).encode("ascii") else "damaged"
