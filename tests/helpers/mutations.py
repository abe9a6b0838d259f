"""Files that are almost right: genuine ones, changed in their structure or in their bytes."""

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

DEEP = "@deep@"
LONG = "@long@"
"""Stand for what ``json`` cannot write: see `as_json`."""

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 1.5, -0.0, 1e308, float("nan"), float("inf"), float("-inf")),
    *(2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64, 10**400, LONG, DEEP),
    *("", " ", "a", "0", "1", "caf\u00e9", "\ud800", "\x00", "a\nb", "../..", "x" * 300),
    *([], {}, [[]], [None], [1], [1, 2, 3, 4], [{}], {"": 0}, {"a": {"b": [1]}}),
)

_HOSTILE_BYTES = (
    *(b"", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\r\n", b"\x85", b"\xe2\x80\xa8", b"\xc3", b"\n\n"),
    *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u", b"NaN", b"-", b"e999", b"\t"),
)


def as_json(value: object) -> bytes:
    """Write a value, lone surrogates and what Python would not read included."""
    text = json.dumps(value, ensure_ascii=False)
    text = text.replace(f'"{LONG}"', "9" * 5000).replace(f'"{DEEP}"', "[" * 2000 + "]" * 2000)
    return text.encode("utf-8", "surrogatepass")


@st.composite
def changed_values(draw: st.DrawFn, genuine: object) -> Any:
    """A JSON value with one to four of its parts replaced, removed, renamed or repeated."""
    holder = [deepcopy(genuine)]
    for _ in range(draw(st.integers(1, 4))):
        place, key = draw(st.sampled_from(_places(holder)))
        change = draw(st.sampled_from(("replace", "replace", "remove", "repeat", "rename", "move")))
        if change == "replace":
            place[key] = deepcopy(draw(st.sampled_from(ODD)))
        elif change == "remove" and place is not holder:
            del place[key]
        elif change == "repeat" and isinstance(place, list) and place is not holder:
            place.insert(key, deepcopy(place[key]))
        elif change == "rename" and isinstance(place, dict):
            place[draw(st.sampled_from(("", "id", "name", "x\u00e9", "image_id")))] = place.pop(key)
        elif change == "move":
            other, its_key = draw(st.sampled_from(_places(holder)))
            place[key] = deepcopy(other[its_key])
    return holder[0]


def _places(holder: list[Any]) -> list[tuple[Any, Any]]:
    places: list[tuple[Any, Any]] = []
    waiting: list[Any] = [holder]
    while waiting:
        place = waiting.pop()
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        for key in keys:
            places.append((place, key))
            if isinstance(place[key], dict | list):
                waiting.append(place[key])
    return places


@st.composite
def changed_bytes(draw: st.DrawFn, genuine: bytes) -> bytes:
    """Bytes that were cut, flipped, shortened, doubled or added to in a few places."""
    data = genuine
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        stop = draw(st.integers(start, min(len(data), start + 40)))
        change = draw(st.sampled_from(("cut", "flip", "replace", "remove", "double", "random")))
        if change == "cut":
            data = data[:start]
        elif change == "flip" and start < len(data):
            flipped = data[start] ^ 1 << draw(st.integers(0, 7))
            data = data[:start] + bytes([flipped]) + data[start + 1 :]
        elif change == "replace":
            data = data[:start] + draw(st.sampled_from(_HOSTILE_BYTES)) + data[stop:]
        elif change == "remove":
            data = data[:start] + data[stop:]
        elif change == "double":
            data = data[:stop] + data[start:stop] * draw(st.integers(1, 3)) + data[stop:]
        elif change == "random":
            data = data[:start] + draw(st.binary(max_size=12)) + data[stop:]
    return data


def changed_json(
    genuine: object, write: Callable[[Any], bytes] = as_json
) -> st.SearchStrategy[bytes]:
    """Files of a JSON value, wrong in their structure or in their bytes.

    Args:
        genuine: The value.
        write: Makes a file of a value.
    """
    return st.one_of(changed_values(genuine).map(write), changed_bytes(write(genuine)))
