"""Files as bytes: compared, and damaged."""

from pathlib import Path


def tree(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file below a folder by its path there, leftovers included."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def flip_bit(path: Path, position: int, bit: int = 2) -> None:
    """Flip one bit of a file, of the byte at ``position``."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)
