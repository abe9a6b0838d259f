"""Cutting JSON into pieces; the oracle is ``json.loads`` on the whole text."""

import hashlib
import json
import re
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from regionspot.annotations.json_lists import JsonFile
from regionspot.core.errors import AnnotationError

TEXT = st.one_of(
    st.text(alphabet=st.sampled_from('{}[],:"\\ nu0a/\t\u00e9\u65e5\U0001f34b\ud800'), max_size=6),
    st.text(max_size=4),
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=20,
)
ANNOTATION_LIKE = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("annotations", "images", "categories", "info", ""), VALUES)
)
DOCUMENTS = st.one_of(ANNOTATION_LIKE, VALUES)


def whole(path: Path, piece_bytes: int) -> Any:
    """Put a file together again from its pieces."""
    file = JsonFile(path, piece_bytes=piece_bytes)
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    loaded: dict[str | None, Any] = {}
    for container in file.containers:
        pieces: list[Any] = [piece.load() for piece in container.pieces()]
        loaded[container.name] = list(chain(*pieces)) if container.is_list else pieces[0]
        assert container.is_list or len(pieces) == 1
        entries = loaded[container.name] if container.is_list else None
        assert repr(container.first()) == repr(entries[0] if entries else None)  # NaN != NaN
    if isinstance(file.skeleton, list):
        return loaded[None]
    if isinstance(file.skeleton, dict):
        return {
            key: loaded[key] if isinstance(value, (list, dict)) else value
            for key, value in file.skeleton.items()
        }
    return file.skeleton


def has_repeated_key(text: str) -> bool:
    """Say whether the outermost object of a JSON text has a key twice."""
    pairs = json.loads(text, object_pairs_hook=tuple)
    if not isinstance(pairs, tuple):
        return False
    return len({key for key, _ in pairs}) < len(pairs)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("json") / "a.json"


@given(
    value=DOCUMENTS,
    piece_bytes=st.integers(1, 40),
    indent=st.sampled_from([None, 1]),
    separators=st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t: ")]),
    is_ascii=st.booleans(),
)
@example(
    value={"images": [{"a": '}, {"'}, {"b": "\\"}], "a\\": {}},
    piece_bytes=1,
    indent=None,
    separators=(",", ":"),
    is_ascii=True,
)
def test_the_pieces_together_are_what_json_reads(
    path: Path,
    value: Any,
    piece_bytes: int,
    indent: int | None,
    separators: tuple[str, str],
    is_ascii: bool,  # noqa: FBT001 - drawn
) -> None:
    text = json.dumps(value, indent=indent, separators=separators, ensure_ascii=is_ascii)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert whole(path, piece_bytes) == json.loads(text) == value


@given(
    DOCUMENTS,
    st.data(),
    st.integers(1, 30),
    st.sampled_from(["cut", "delete", "insert", "replace", "repeat"]),
)
def test_what_json_refuses_is_refused_and_nothing_else(
    path: Path, value: Any, data: st.DataObject, piece_bytes: int, change: str
) -> None:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    place = data.draw(st.integers(0, len(text)))
    character = data.draw(st.sampled_from(list('{}[],:"\\ \n\x0b0a-.e\x00\u00e9')))
    changed = {
        "cut": text[:place],
        "delete": text[:place] + text[place + 1 :],
        "insert": text[:place] + character + text[place:],
        "replace": text[:place] + character + text[place + 1 :],
        "repeat": text + text[place:],
    }[change]
    path.write_bytes(changed.encode("utf-8", "surrogatepass"))
    try:
        wanted = json.loads(changed)
    except json.JSONDecodeError:
        with pytest.raises(AnnotationError):
            whole(path, piece_bytes)
        return
    if has_repeated_key(changed):
        with pytest.raises(AnnotationError, match=r"has the key .* twice, at line"):
            whole(path, piece_bytes)
    else:
        assert whole(path, piece_bytes) == wanted


@pytest.mark.parametrize("piece_bytes", [1, 5, 1000])
@pytest.mark.parametrize(
    "text",
    [
        '{"images": [}',
        '{"images": [{"id": 1}}',
        '{"images": [{}, {"id": 01}]}',
        '{"images": [{}\n,\n{"\u00e9": x}]}',
        '{"images": [{}, ]}',
        '{"images": [, {}]}',
        '{"images": [] "annotations": []}',
        '{"images": [{}]\n"annotations": []}',
        '{"images": []}\n{"images": []}',
        '{"images": []}\x0b',
        '{"\\q": [1]}',
        "[1, 2]]",
        '[{"a": NaN}, {"a": nan}]',
        '{"a": "\t"}',
        '{"\u00e9": 1,\n\n "\u00e9": nope}',
        '{"info": {"a": 1,}}',
        "ImageID,Source",
    ],
)
def test_what_is_wrong_is_named_as_json_does_with_its_place_in_the_file(
    path: Path, text: str, piece_bytes: int
) -> None:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(json.JSONDecodeError) as theirs:
        json.loads(text)
    where = theirs.value
    near = text[where.pos :][:40]
    place = f"line {where.lineno}, column {where.colno} (character {where.pos}), near {near!r}"
    with pytest.raises(AnnotationError, match=rf"is not JSON: .*{re.escape(place)}"):
        whole(path, piece_bytes)


def test_an_openimages_file_given_as_json_is_recognised(path: Path) -> None:
    path.write_text("ImageID,Source,LabelName")
    with pytest.raises(AnnotationError, match=r"is not JSON.*type --annotations.format openimages"):
        whole(path, 100)


@pytest.mark.parametrize("piece_bytes", [1, 7, 1000])
@pytest.mark.parametrize(
    "text",
    [
        '{"images": [{"id": 1}, {"id"',
        '{"images": [{"id": 1}, {"id',
        '{"images": [{"id": 1}',
        '{"images": [{"id": 1},',
        '{"images": [{"id": 1}]',
        '{"images": [{"id": 1}], "annotations": [',
        '{"images": [],\n "anno',
        '{"\u00e9\u00e9": ["\u00e9",',
        '{"info": {"a": 1',
        '{"info": {"a": 1, "b',
        "[",
    ],
)
def test_a_cut_file_says_where_it_ends_and_where_json_stumbles(
    path: Path, text: str, piece_bytes: int
) -> None:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(json.JSONDecodeError) as theirs:
        json.loads(text)
    where = theirs.value
    place = f"line {where.lineno}, column {where.colno} (character {where.pos})"
    ends = f"it ends after {len(text)} characters"
    with pytest.raises(AnnotationError, match=rf"is cut off: {ends} .*{re.escape(place)}"):
        whole(path, piece_bytes)


@pytest.mark.parametrize("piece_bytes", [1, 9, 1000])
@pytest.mark.parametrize(
    ("data", "byte"),
    [
        (b"\xff\xd8\xff", 0),
        (b'{"images": [{"a": "\xe9"}]}', 19),
        (b'{"images": [{}], "\xe9": 1}', 18),
        (b'{"images": [{}, {"a": "\xe9', 23),
        (b'\xff\xfe{\x00"\x00', 0),  # UTF-16
    ],
)
def test_what_is_not_utf8_says_which_byte(
    path: Path, data: bytes, byte: int, piece_bytes: int
) -> None:
    path.write_bytes(data)
    with pytest.raises(AnnotationError, match=rf"byte {byte} is not UTF-8 text. It starts with b"):
        whole(path, piece_bytes)


@pytest.mark.parametrize("piece_bytes", [1, 1000])
def test_a_byte_order_mark_and_white_space_around_are_no_part_of_it(
    path: Path, piece_bytes: int
) -> None:
    path.write_bytes(b'\xef\xbb\xbf \n\t{"images": [{}, {}]}\r\n \n')
    assert whole(path, piece_bytes) == {"images": [{}, {}]}
    path.write_bytes(b'\xef\xbb\xbf{"images": [x]}')
    with pytest.raises(AnnotationError, match=r"line 1, column 13 \(character 12\), near 'x\]}'"):
        whole(path, piece_bytes)


@pytest.mark.parametrize("piece_bytes", [1, 7, 1000])
@pytest.mark.parametrize(
    ("text", "key", "places"),
    [
        ('{"images": [1, 2],\n "images": [3]}', "images", [(1, 2), (2, 2)]),
        ('{"images": [1, 2], "annotations": null, "annotations": [3]}', "annotations", [20, 41]),
        ('{"info": "\\"info\\":", "info": {}}', "info", [2, 23]),
        ('{"\\u0069nfo": {"info": {"info": 3}}, "info": 4}', "info", [2, 38]),
    ],
)
def test_a_key_that_is_there_twice_is_an_error_with_both_places(
    path: Path, piece_bytes: int, text: str, key: str, places: list[Any]
) -> None:
    path.write_text(text)
    first, second = (place if isinstance(place, tuple) else (1, place) for place in places)
    wanted = (
        rf"has the key '{key}' twice, at line {first[0]}, column {first[1]} .*"
        rf" and at line {second[0]}, column {second[1]} "
    )
    with pytest.raises(AnnotationError, match=wanted):
        whole(path, piece_bytes)


@pytest.mark.parametrize("end", ["]}", ""])
def test_too_deep_a_nest_is_an_error_of_the_file(path: Path, end: str) -> None:
    path.write_text('{"images": [' + "[" * 10**5 + "]" * 10**5 + end)
    with pytest.raises(AnnotationError, match=r"json cannot be decoded \(maximum recursion depth"):
        whole(path, 1 << 20)


@pytest.mark.parametrize("piece_bytes", [1, 20, 50, 1000])
@pytest.mark.parametrize("odd", ["NaN", "[Infinity, -Infinity]", '"\\ud800"', '"\u65e5}, {"'])
def test_what_only_json_accepts_is_cut_into_pieces_like_the_rest(
    path: Path, odd: str, piece_bytes: int
) -> None:
    entries = [f'{{"id": {number}, "of": [{{"a": 1}}, {{"a": {odd}}}]}}' for number in range(9)]
    text = f'{{"\u00e9": [{", ".join(entries)}], "b": [{odd}], "c": {odd}}}'
    path.write_text(text, encoding="utf-8")
    assert repr(whole(path, piece_bytes)) == repr(json.loads(text))  # NaN != NaN
    named = JsonFile(path, piece_bytes=piece_bytes).containers[0]
    assert len(list(named.pieces())) == {1: 9, 20: 9, 50: 9, 1000: 1}[piece_bytes]


@pytest.mark.parametrize("piece_bytes", [1, 1000])
def test_a_file_of_white_space_is_empty(path: Path, piece_bytes: int) -> None:
    path.write_text(" \n\t \n")
    with pytest.raises(AnnotationError, match=r"is empty \(5 bytes\)"):
        whole(path, piece_bytes)


def test_too_long_a_number_is_an_error_of_the_file(path: Path) -> None:
    for start, end in (('{"images": [', "]}"), ('{"a": ', "}")):
        path.write_text(start + "9" * 5000 + end)
        with pytest.raises(AnnotationError, match=r"(images|a number) cannot .*4300 digits"):
            whole(path, 1 << 20)


def test_pieces_are_no_longer_than_asked_for(path: Path) -> None:
    value = {"images": [{"id": number, "name": "}" * (number % 9)} for number in range(500)]}
    path.write_text(json.dumps(value))
    (images,) = JsonFile(path, piece_bytes=300).containers
    sizes = [len(piece.document) for piece in images.pieces()]
    assert len(sizes) > 40
    assert max(sizes) <= 300 + len("[]")
