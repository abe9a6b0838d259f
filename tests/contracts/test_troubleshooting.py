"""The messages that docs/troubleshooting.md explains are those of the code.

The page quotes parts of messages as headings; "…" stands for what the code fills in.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
QUOTED = re.findall(r"^### `(.+)`$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
FILLED_IN = "…"


def messages(tree: ast.AST) -> list[str]:
    """Return all texts of a module, with the mark in place of what is filled in."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [one.value if isinstance(one, ast.Constant) else "%s" for one in node.values]
            found.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return [re.sub(r"%[sdg]", FILLED_IN, text) for text in found]


@pytest.fixture(scope="module")
def code() -> list[str]:
    paths = (ROOT / "src").rglob("*.py")
    return [one for path in paths for one in messages(ast.parse(path.read_text(encoding="utf-8")))]


def test_the_page_explains_the_most_likely_messages() -> None:
    assert len(QUOTED) >= 15
    assert len(set(QUOTED)) == len(QUOTED)


@pytest.mark.parametrize("quoted", QUOTED)
def test_a_quoted_message_is_in_the_code(code: list[str], quoted: str) -> None:
    assert any(quoted in text for text in code)
