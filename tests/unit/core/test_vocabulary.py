"""Vocabularies are validated once, where they enter."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regionspot.core.errors import MissingFileError, VocabularyError
from regionspot.core.vocabulary import Vocabulary


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_bytes(b"\xef\xbb\xbflemon\nlime\n")
    assert Vocabulary.from_file(path).names == ("lemon", "lime")


def test_names_keep_their_order_and_spelling() -> None:
    vocabulary = Vocabulary.from_names(["tennis ball", "bat_(animal)", "Caf\u00e9"])
    assert list(vocabulary) == ["tennis ball", "bat_(animal)", "Caf\u00e9"]
    assert len(vocabulary) == 3
    assert vocabulary[1] == "bat_(animal)"
    assert vocabulary.index_of("Caf\u00e9") == 2


def test_identity_is_the_sha256_of_the_names_joined_by_line_breaks() -> None:
    assert Vocabulary(("a", "b")).sha256 == hashlib.sha256(b"a\nb").hexdigest()
    assert Vocabulary(("a", "b")).sha256 != Vocabulary(("b", "a")).sha256


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), r"holds no name"),
        (("a", ""), r"entry 1: the class name '' is empty"),
        (("a", "  "), r"entry 1: the class name '  ' is empty"),
        (("a", "b\nc"), r"spans lines"),
        (("a", "b\0"), r"entry 1: the class name 'b\\x00' is not UTF-8 text"),
        (("caf\udce9",), r"entry 0: the class name 'caf\\udce9' is not UTF-8 text"),
        (("a", "b", "a"), r"entry 2: the class name 'a' already occurs at 0"),
    ],
)
def test_a_list_that_cannot_name_regions_is_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        Vocabulary(names)


def test_a_file_has_one_name_a_line(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("tennis ball\r\nlemon \n", encoding="utf-8")
    assert Vocabulary.from_file(path).names == ("tennis ball", "lemon")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"holds no name"),
        ("a\n\nb\n", r"names.txt, line 2: the class name '' is empty"),
        ("a\nb\na\n", r"names.txt, line 3: the class name 'a' already occurs at 1"),
    ],
)
def test_the_line_of_a_bad_name_is_told(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "names.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(VocabularyError, match=message):
        Vocabulary.from_file(path)


@pytest.mark.slow
@settings(max_examples=2000)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.text(max_size=30).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.text(max_size=30, alphabet="ab,\n\t ").map(lambda text: text.encode("utf-16")),
    )
)
def test_a_file_of_any_bytes_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed_names.txt"
    path.write_bytes(content)
    try:
        vocabulary = Vocabulary.from_file(path)
    except VocabularyError:
        return
    assert len(vocabulary.sha256) == 64
    assert all(name and name == name.strip() for name in vocabulary)


def test_a_missing_file_and_an_unknown_name_are_told(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no vocabulary file at .*one class name per line"):
        Vocabulary.from_file(tmp_path / "nowhere.txt")
    with pytest.raises(VocabularyError, match="'dog' is not among the 1 names"):
        Vocabulary(("cat",)).index_of("dog")
