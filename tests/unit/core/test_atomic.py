"""A file is absent, the former one, or whole."""

import json
from pathlib import Path

import pytest

from regionspot.core.files import (
    canonical_json,
    open_atomic,
    sha256_bytes,
    sha256_file,
    write_bytes_atomic,
    write_text_atomic,
)


def test_a_crash_while_writing_leaves_the_former_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "data.bin"
    write_bytes_atomic(path, b"former")
    with pytest.raises(RuntimeError, match="power cut"), open_atomic(path) as file:
        file.write(b"half of the new")
        raise RuntimeError("power cut")
    assert path.read_bytes() == b"former"
    write_text_atomic(path, "whole \u00e9")
    assert path.read_bytes() == b"whole \xc3\xa9"
    assert [p.name for p in path.parent.iterdir()] == ["data.bin"]


def test_a_first_write_that_crashes_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "data.bin"
    with pytest.raises(RuntimeError, match="power cut"), open_atomic(path):
        raise RuntimeError("power cut")
    assert not path.exists()


def test_hashes_are_plain_sha256(tmp_path: Path) -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert sha256_bytes(b"") == empty
    (tmp_path / "empty").touch()
    assert sha256_file(tmp_path / "empty") == empty


def test_equal_values_have_one_json_form() -> None:
    assert canonical_json({"b": [1, 2.5], "a": "\u00e9"}) == '{"a":"\u00e9","b":[1,2.5]}'
    assert json.loads(canonical_json({"x": None})) == {"x": None}
