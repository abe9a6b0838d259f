"""The Python examples of the documentation print what it says, on what the quickstart leaves.

``.ci/run`` runs this after the quickstart; ``make test`` has no trained head to run it with.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PERCENT_TOLERANCE = 15
"""Training differs a little from one processor to another."""
REGION = re.compile(r"  (.+) (\d+)% at \((.+)\)")

pytestmark = pytest.mark.quickstart


def test_the_documented_python_prints_what_the_documentation_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A reader comes from the first page to the second, whose examples go on with its names.
    pages = [ROOT / "README.md", ROOT / "docs" / "recognition.md"]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    examples = re.findall(r"```python\n(.*?)```(?:\s*```text\n(.*?)```)?", text, re.DOTALL)
    assert len(examples) >= 2
    (tmp_path / "runs").symlink_to(ROOT / "runs")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code, shown in examples:
        exec(code, names)  # noqa: S102 - it is ours
        printed = capsys.readouterr().out
        head, *regions = printed.splitlines() or [""]
        if "recognize_everything" in code:  # regions so close that their order depends on training
            assert head == "Regions(3 regions of a 144x144 image, 144 names)", printed
        if not shown:
            continue
        shown_head, *shown_regions = shown.splitlines()
        assert head == shown_head, printed
        assert len(regions) == len(shown_regions), printed
        for line, shown_line in zip(regions, shown_regions, strict=True):
            found, wanted = REGION.fullmatch(line), REGION.fullmatch(shown_line)
            assert found is not None
            assert wanted is not None
            assert (found[1], found[3]) == (wanted[1], wanted[3]), printed
            assert abs(int(found[2]) - int(wanted[2])) <= PERCENT_TOLERANCE, printed
    assert (tmp_path / "named.png").is_file()
