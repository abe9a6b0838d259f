"""A stretch of a JSON file that can be decoded alone, and says where in the file it is wrong."""

import json
from dataclasses import dataclass
from pathlib import Path

from regionspot.annotations.json_errors import syntax_error, undecodable_error
from regionspot.annotations.opening import ANNOTATIONS, FileRole


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonPiece:
    """Some consecutive entries of a container; see `regionspot.annotations.json_stream`."""

    name: str | None
    """Key of the container; None if it is the file's outermost list."""
    is_list: bool
    """Whether it is a list, not an object."""
    is_first: bool
    """Whether the piece starts the container. Every container has a first piece."""
    data: bytes
    """The entries, with the commas between them; blank if the container is empty. UTF-8."""
    path: Path
    """The file."""
    offset: int
    """Byte of the file at which ``data`` starts."""
    role: FileRole = ANNOTATIONS
    """What the file is for."""

    @property
    def document(self) -> bytes:
        """The piece as a JSON document."""
        return b"[" + self.data + b"]" if self.is_list else b"{" + self.data + b"}"

    def load(self) -> object:
        """Decode the piece with ``json``, which takes NaN and infinity, too.

        Raises:
            AnnotationError: It is not JSON; says where.
        """
        text = decoded(self.document)
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            offset = self.offset + num_bytes(text[1 : error.pos])
            raise syntax_error(self.path, error.msg, offset, self.role) from error
        except (ValueError, RecursionError) as error:
            what = self.name or "the list"
            raise undecodable_error(self.path, what, error, self.role) from error

    def load_first(self) -> object:
        """Decode the first entry of a list alone; None if there is none.

        Raises:
            AnnotationError: It is not JSON; says where.
        """
        text = decoded(self.data)
        start = len(text) - len(text.lstrip())
        if start == len(text):
            return None
        try:
            return json.JSONDecoder().raw_decode(text, start)[0]
        except (ValueError, RecursionError):
            return self.load()


def decoded(data: bytes) -> str:
    """Decode UTF-8 as ``json`` does, which tolerates lone surrogates."""
    return data.decode("utf-8", "surrogatepass")


def num_bytes(text: str) -> int:
    """Return the length of a text in UTF-8."""
    return len(text.encode("utf-8", "surrogatepass"))
