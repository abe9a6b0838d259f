"""Values and JSON texts of unknown origin."""

import json
from typing import Any

import pytest

from regionspot.core.json_text import load_json
from regionspot.core.shown import shown


@pytest.mark.parametrize("text", ["[" * 100_000, b"\xff", "9" * 5000, '{"a": }', ""])
def test_whatever_is_wrong_with_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        load_json(text)


def test_json_is_otherwise_as_json_reads_it() -> None:
    text = '{"a": [1, NaN, "\\u00e9"], "a": {"b": null}}'
    assert load_json(text) == json.loads(text)
    assert load_json(text, object_pairs_hook=len) == 2


def test_values_that_repr_cannot_show_are_shown() -> None:
    wide: list[Any] = [0]
    deep: list[Any] = []
    for _ in range(50):
        wide = [wide] * 9
    for _ in range(5000):
        deep = [deep]
    assert shown(wide).startswith("[[[")
    assert shown(deep).startswith("[[[")
    assert shown([10**5000]) == "a list too large to show"
    assert shown("a" * 10**6, 20) == "'aaaaaaaaaaaaaaaaaaa"
    assert shown({"a": 1}) == "{'a': 1}"
