"""Assembles the sources of the documentation site in a folder; `make docs` builds the site from it.

The pages are written for a git forge: they link to files of the repository and lie in its root and
in ``docs/``. A site has only pages. This script therefore copies the pages, rewrites their links,
turns notebooks into pages, adds a page of the API for each public package, and writes the
configuration (``mkdocs.yml``, with the order of ``docs/README.md``).

    python tools/docs_site.py build
"""

import json
import posixpath
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import yaml

ROOT = Path(__file__).parents[1]
OVERVIEW = "docs/README.md"
"""The page that lists all others, in sections."""

PLACES = {
    "README.md": "index.md",
    OVERVIEW: "contents.md",
    "SECURITY.md": "project/security.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changelog.md",
}
"""Where pages are on the site whose place is not that below ``docs/``."""

FACES = {
    "regionspot.inference": "Recognition and search",
    "regionspot.cache": "Feature cache",
    "regionspot.data": "Batches",
    "regionspot.model": "Fusion head",
    "regionspot.training": "Training",
    "regionspot.evaluation": "Evaluation",
    "regionspot.scoring": "Metrics",
    "regionspot.extraction": "Caching",
    "regionspot.backbones": "SAM and CLIP",
    "regionspot.annotations": "Annotations",
}
"""Packages with a page of the API, and its title."""

_API_PAGE = """# {title}

::: {face}
    options:
      show_root_heading: false
      show_root_toc_entry: false
"""
_SECTION = re.compile(r"^## (.+)$|^- \[[^\]]*\]\(([^)#]+)\)", re.MULTILINE)
_FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_PAGES = {".md", ".ipynb"}
_ELSEWHERE = ("http://", "https://", "mailto:", "#")


def place_of(path: str) -> str | None:
    """Return where a file of the repository is on the site, or None if it is not there.

    Args:
        path: relative to the repository, such as ``docs/data.md``.
    """
    if path in PLACES:
        return PLACES[path]
    if not path.startswith("docs/"):
        return None
    return path.removeprefix("docs/").replace(".ipynb", ".md")


def rewrite_links(text: str, *, path: str, repo_url: str | None, titles: Mapping[str, str]) -> str:
    """Return a page with its links as the site needs them.

    Links to pages lead to their place on the site, and show its title instead of a file name. Links
    to other files of the repository lead to ``repo_url``; without one, only their text remains.
    Code is not changed.

    Args:
        text: Markdown.
        path: of the page, relative to the repository.
        repo_url: address of a file of the repository without its path, or None.
        titles: titles of pages by their path, relative to the repository.
    """

    def rewritten(link: re.Match[str]) -> str:
        mark, shown, target = link.groups()
        if target.startswith(_ELSEWHERE):
            return link[0]
        name, _, anchor = target.partition("#")
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
        place = place_of(wanted)
        if place is None:
            return f"[{shown}]({repo_url}/{wanted})" if repo_url else shown
        here = posixpath.dirname(cast("str", place_of(path)))
        found = posixpath.relpath(place, here or ".")
        if shown.endswith(posixpath.basename(wanted)):
            shown = titles.get(wanted, shown)
        return f"{mark}[{shown}]({found}{'#' * bool(anchor)}{anchor})"

    parts = _FENCE.split(text)  # text and code take turns
    parts[::2] = [_LINK.sub(rewritten, part) for part in parts[::2]]
    return "".join(parts)


def navigation(overview: str) -> list[dict[str, Any]]:
    """Return the order of the pages, by section, as ``mkdocs.yml`` states it.

    Args:
        overview: the text of ``docs/README.md``.
    """
    sections: list[dict[str, Any]] = [{"Overview": ["index.md", "contents.md"]}]
    for found in _SECTION.finditer(overview):
        if found[1]:
            sections.append({found[1]: []})
            continue
        wanted = posixpath.normpath(posixpath.join("docs", found[2]))
        next(iter(sections[-1].values())).append(place_of(wanted))
    sections.append({"API": [{face: f"api/{face}.md"} for face in FACES]})
    return sections


def page_text(source: Path) -> str:
    """Return the Markdown of a page, or that of a notebook (``.ipynb``)."""
    text = source.read_text(encoding="utf-8")
    if source.suffix == ".md":
        return text
    cells = []
    for cell in json.loads(text)["cells"]:
        body = "".join(cell["source"]).strip()
        cells.append(body if cell["cell_type"] == "markdown" else f"```python\n{body}\n```")
    return "\n\n".join(cells) + "\n"


def assemble(folder: Path) -> None:
    """Write pages and pictures into ``folder/docs``, anew, and ``folder/mkdocs.yml``."""
    shutil.rmtree(folder / "docs", ignore_errors=True)
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    sources = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.*"))]
    files = {one.relative_to(ROOT).as_posix(): one for one in sources if one.is_file()}
    pages = {path: page_text(one) for path, one in files.items() if one.suffix in _PAGES}
    titles = {path: text.partition("\n")[0].removeprefix("# ") for path, text in pages.items()}
    for path, source in files.items():
        place = place_of(path)
        if place is None:
            continue
        target = folder / "docs" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if path not in pages:
            shutil.copyfile(source, target)
            continue
        text = rewrite_links(pages[path], path=path, repo_url=config.get("repo_url"), titles=titles)
        target.write_text(text, encoding="utf-8")
    (folder / "docs" / "api").mkdir()
    for face, title in FACES.items():
        page = _API_PAGE.format(title=title, face=face)
        (folder / "docs" / "api" / f"{face}.md").write_text(page, encoding="utf-8")
    config["nav"] = navigation((ROOT / OVERVIEW).read_text(encoding="utf-8"))
    (folder / "mkdocs.yml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


if __name__ == "__main__":
    assemble(Path(sys.argv[1]))
