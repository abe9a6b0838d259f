"""The commands of docs/start.md that name regions print what the page shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REGION = re.compile(r"^ +\d+ +(\d+ +\d+ +\d+ +\d+)  (.+?) \d", re.MULTILINE)
"""A row of the table: the box, and the best name; the percentage depends on the processor."""

pytestmark = pytest.mark.quickstart


def test_the_shell_and_python_of_the_first_page_name_the_same_regions(tmp_path: Path) -> None:
    (tmp_path / "runs").symlink_to(ROOT / "runs")
    page = (ROOT / "docs" / "start.md").read_text(encoding="utf-8")
    section = page.partition("## Name regions")[2].partition("\n## ")[0]
    blocks = re.findall(r"```(bash|python|text)\n(.*?)```", section, re.DOTALL)
    assert [kind for kind, _ in blocks] == ["bash", "text", "python", "bash"]
    (_, table), (_, shown), (_, code), (_, several) = blocks
    printed = run(["bash", "-eu", "-c", table], tmp_path)
    assert REGION.findall(printed) == REGION.findall(shown)
    names = [name for _, name in REGION.findall(shown)]
    assert len(names) == 2
    assert (tmp_path / "named.png").is_file()
    assert str(names)[1:-1] in run([sys.executable, "-c", code], tmp_path)
    assert len(run(["bash", "-eu", "-c", several], tmp_path).splitlines()) == 2


def run(command: list[str], folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, stdout=subprocess.PIPE, check=True
    )
    return done.stdout.decode()
