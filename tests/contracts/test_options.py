"""The options that the pages name exist: the help of a command lists them."""

import re
from pathlib import Path

import pytest

from regionspot.cli.help_texts import rendered_help, stored_help
from regionspot.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/**/*.ipynb")])
# Groups whose options all stand in a help. Other tools, such as torchrun, have no dots in theirs.
OPTION = re.compile(r"--(?:annotations|data|grid|limits|model|models|ray)\.[\w.]*\w")


@pytest.fixture(scope="module")
def known() -> set[str]:
    texts = [*map(stored_help, COMMANDS), rendered_help("fit")]
    return {option for text in texts for option in OPTION.findall(text)}


def test_the_pages_name_many_options() -> None:
    assert sum(len(OPTION.findall(page.read_text(encoding="utf-8"))) for page in PAGES) > 50


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_options_that_a_page_names_exist(page: Path, known: set[str]) -> None:
    assert set(OPTION.findall(page.read_text(encoding="utf-8"))) - known == set()
