"""The Markdown pages hold together: links lead somewhere, every page is listed, lines are short."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/**/*.md")])
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^()\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")
HEADING = re.compile(r"^#{1,6} (.+?)\s*$", re.MULTILINE)
ELSEWHERE = ("http://", "https://", "mailto:")
MAX_COLUMNS = 100
MAX_README_LINES = 120


def anchor_of(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")


def anchors_of(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    return {anchor_of(heading) for heading in HEADING.findall(text)}


def links_of(page: Path) -> Iterator[str]:
    text = page.read_text(encoding="utf-8")
    for found in LINK.finditer(CODE.sub(lambda code: "x" * bool(code[0].strip("`")), text)):
        target = found[1] or found[2]
        if not target.startswith(ELSEWHERE):
            yield target


@pytest.mark.parametrize(
    ("heading", "anchor"),  # as github.com renders them
    [
        ("Where to find what", "where-to-find-what"),
        ("text_banks.h5 (sealed HDF5)", "text_banksh5-sealed-hdf5"),
        ("The paper's recipe", "the-papers-recipe"),
        ("Average of the weights (EMA)", "average-of-the-weights-ema"),
        ("Before the run: `regionspot cache plan`", "before-the-run-regionspot-cache-plan"),
    ],
)
def test_an_anchor_is_what_github_makes_of_a_heading(heading: str, anchor: str) -> None:
    assert anchor_of(heading) == anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file_and_every_anchor_to_a_heading(page: Path) -> None:
    broken = []
    for link in links_of(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        is_found = target.is_relative_to(ROOT) and target.exists()
        if not is_found or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    assert broken == []


def test_the_index_of_the_docs_lists_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    listed = {(index.parent / link.partition("#")[0]).resolve() for link in links_of(index)}
    pages = {page for page in PAGES if not page.is_relative_to(ROOT / "tests")}
    assert pages - listed - {index} == set()


def test_readme_fits_on_a_few_screens() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_README_LINES


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name != "CHANGELOG.md" and "tests" not in page.parts],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_prose_is_wrapped(page: Path) -> None:
    """Tables and indented or fenced blocks may be wider; they cannot be wrapped."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    too_long = [
        line
        for line in text.splitlines()
        if len(line) > MAX_COLUMNS and not line.startswith(("|", "    ", "!["))
    ]
    assert too_long == []
