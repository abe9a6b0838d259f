"""Seals: the file stays what it is to others, and no bit of it can change unseen."""

import hashlib
import io
import zipfile
from pathlib import Path

from regionspot.core.sealing import seal_zip, zip_state


def archive(*, sealed: bool) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a/data.txt", "some text " * 20)
    if sealed:
        seal_zip(buffer)
    return buffer.getvalue()


def test_a_sealed_archive_is_an_archive_whose_comment_is_the_hash_of_what_is_before_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(archive(sealed=True))
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert file.read("a/data.txt") == b"some text " * 20
        comment = file.comment
    before = path.read_bytes()[: -len(comment)]
    digest = hashlib.sha256(before).hexdigest()
    assert comment == f"sha256 of all bytes before this comment: {digest}\n".encode()
    assert zip_state(path) == "whole"


def test_every_flipped_bit_and_every_cut_is_damage(tmp_path: Path) -> None:
    path, data = tmp_path / "a.zip", archive(sealed=True)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        assert zip_state(path) == "damaged", position
        path.write_bytes(data[:position])
        assert zip_state(path) == "damaged", position
    path.write_bytes(data + b"\0")
    assert zip_state(path) == "damaged"


def test_an_archive_without_a_comment_was_never_sealed(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(archive(sealed=False))
    assert zip_state(path) == "unsealed"
    path.write_bytes(archive(sealed=False)[:-1])
    assert zip_state(path) == "damaged"
