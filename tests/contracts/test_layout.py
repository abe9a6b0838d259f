"""The layout that README and design promise."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("script", ["cache_features.py", "train.py", "evaluate.py"])
def test_an_entry_script_is_a_docstring_one_import_and_main(script: str) -> None:
    docstring, imported, guard = ast.parse((ROOT / script).read_text(encoding="utf-8")).body
    assert isinstance(docstring, ast.Expr)
    assert isinstance(imported, ast.ImportFrom)
    assert [alias.asname for alias in imported.names] == ["main"]
    assert ast.unparse(guard) == "if __name__ == '__main__':\n    main()"


def test_nothing_committed_names_a_package_registry() -> None:
    pattern = re.compile(r"https?://[a-z.]*(pypi\.org|pythonhosted\.org|npmjs\.org|debian\.org)")
    texts = [
        path
        for folder in ("src", "tests", "docs", "configs", "benchmarks", "tools", ".")
        for path in (ROOT / folder).glob("**/*" if folder != "." else "*")
        if path.suffix in {".py", ".md", ".toml", ".txt", ".yaml", ".json", ""} and path.is_file()
    ]
    assert len(texts) > 20
    assert [
        p for p in texts if pattern.search(p.read_text(encoding="utf-8", errors="ignore"))
    ] == []


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        wanted += extra
    pinned = {
        re.split("==", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    names = {re.split(r"[\[<>=~ ]", one)[0].lower().replace("_", "-") for one in wanted}
    assert names - {"regionspot"} - pinned == set()


def test_shipped_weights_stay_below_five_mebibytes() -> None:
    files = list((ROOT / "src" / "regionspot").glob("**/*.safetensors"))
    assert files
    assert sum(path.stat().st_size for path in files) < 5 * 2**20
