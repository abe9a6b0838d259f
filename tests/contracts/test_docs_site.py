"""What the documentation site is made of: the order of its pages, and links that work on it.

`make docs` builds it, with broken links as errors; here nothing is built.
"""

import json
from pathlib import Path

import pytest
import yaml

from docs_site import FACES, OVERVIEW, ROOT, navigation, page_text, place_of, rewrite_links

TITLES = {"docs/data.md": "Annotations", "SECURITY.md": "Security"}


@pytest.mark.parametrize(
    ("path", "link", "wanted"),
    [
        ("docs/a.md", "[data.md](data.md#yolo)", "[Annotations](data.md#yolo)"),
        ("docs/a.md", "[formats](data.md)", "[formats](data.md)"),
        ("README.md", "![A map](docs/images/map.svg)", "![A map](images/map.svg)"),
        ("docs/a.md", "[SECURITY.md](../SECURITY.md)", "[Security](project/security.md)"),
        ("SECURITY.md", "[caches](docs/data.md)", "[caches](../data.md)"),
        ("docs/a.md", "[first](notebooks/first.ipynb)", "[first](notebooks/first.md)"),
        ("docs/a.md", "[paper](https://example.org/a.md)", "[paper](https://example.org/a.md)"),
        ("docs/a.md", "[below](#below)", "[below](#below)"),
        ("docs/a.md", "[`core`](../src/core)", "`core`"),
        ("docs/a.md", "```text\n[data.md](data.md)\n```", "```text\n[data.md](data.md)\n```"),
    ],
)
def test_a_link_leads_to_the_place_of_its_target_on_the_site(
    path: str, link: str, wanted: str
) -> None:
    assert rewrite_links(link, path=path, repo_url=None, titles=TITLES) == wanted


def test_a_link_to_a_source_file_leads_to_the_repository_if_it_has_an_address() -> None:
    found = rewrite_links(
        "[`core`](../src/core)", path="docs/a.md", repo_url="https://example.org/tree", titles={}
    )
    assert found == "[`core`](https://example.org/tree/src/core)"


def test_the_order_of_the_site_is_that_of_the_overview() -> None:
    text = "# Docs\n\n## Start\n\n- [a.md](a.md): first.\n- [b](../SECURITY.md): then.\n"
    assert navigation(text)[1] == {"Start": ["a.md", "project/security.md"]}


def test_every_page_is_on_the_site() -> None:
    sections = navigation((ROOT / OVERVIEW).read_text(encoding="utf-8"))
    listed = [page for section in sections[:-1] for page in next(iter(section.values()))]
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.ipynb")]
    assert sorted(listed) == sorted(
        place_of(page.relative_to(ROOT).as_posix()) or "none" for page in pages
    )


def test_every_public_package_has_a_page_of_the_api() -> None:
    folders = {path.parent.name for path in ROOT.glob("src/regionspot/*/__init__.py")}
    internal = {"cli", "core", "demo", "storage", "toy", "viz"}
    assert {face.removeprefix("regionspot.") for face in FACES} == folders - internal


def test_a_notebook_becomes_a_page(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "\n", "Text."]},
        {"cell_type": "code", "source": ["x = 1\n", "x"], "outputs": []},
    ]
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    assert page_text(path) == "# Title\n\nText.\n\n```python\nx = 1\nx\n```\n"


def test_the_site_asks_no_other_server_for_fonts() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert config["theme"]["font"] is False
