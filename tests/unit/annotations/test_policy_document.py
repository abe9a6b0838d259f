"""docs/data.md says what becomes of bad annotations; every reason of the code stands there."""

from pathlib import Path

import pytest

from regionspot.annotations import FORMATS, Reason

DOCUMENT = Path(__file__).parents[3] / "docs" / "data.md"


@pytest.fixture(scope="module")
def text() -> str:
    return DOCUMENT.read_text(encoding="utf-8")


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_stands_in_the_document(reason: Reason, text: str) -> None:
    assert f"| {reason} |" in text


def test_every_format_stands_in_the_document(text: str) -> None:
    for name in FORMATS:
        assert f"| `{name}` |" in text
