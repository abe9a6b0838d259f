"""A section of the GPU benchmark that fails, hangs or dies costs no other its figures."""

import json
from pathlib import Path

import pytest
from card.table import Results
from card.worker import Section
from on_gpu import on_gpu, run_sections


def section(name: str, limit_s: float = 60) -> Section:
    return Section(letter="a", name=name, function=f"helpers.sections:{name}", limit_s=limit_s)


def outcomes(results: Results) -> dict[str, tuple[str, str, list[str]]]:
    return {
        one.name: (one.status, one.reason, [row.what for row in one.rows])
        for one in results.sections
    }


@pytest.mark.slow
def test_all_that_was_measured_is_kept_and_all_that_was_not_is_told(tmp_path: Path) -> None:
    sections = [
        section("badly"),
        section("never", limit_s=3),
        section("suddenly"),
        section("without_a_number"),
        section("with_nothing"),
        section("well"),
    ]
    results = run_sections(sections, size="tiny", device="cpu", budget_s=300, output_dir=tmp_path)
    wanted = {
        "badly": ("failed", "MemoryError: out of memory", ["before the failure"]),
        "never": ("failed", "it took too long, and was ended", ["before the wait"]),
        "suddenly": ("failed", "its process ended with exit code 7", []),
        "without_a_number": (
            "failed",
            "ValueError: a rate is inf, ratio None; not finite.",
            [],
        ),
        "with_nothing": ("failed", "it has measured nothing", []),
        "well": ("done", "", ["figures before"]),
    }
    assert outcomes(results) == wanted
    assert results.failed == list(wanted)[:-1]
    assert results.sections[-1].rows[0].figure == 2  # one of badly, one of never
    written = (tmp_path / "results.json").read_text(encoding="utf-8")
    assert outcomes(Results.from_json(written)) == wanted
    assert json.loads(written)["sections"][0]["rows"] == [
        {
            "what": "before the failure",
            "figure": 1,
            "unit": "figure",
            "peer": "cpu",
            "ratio": 0.5,
        }
    ]
    table = (tmp_path / "table.md").read_text(encoding="utf-8").splitlines()
    assert "| before the failure | 1 | figure | cpu | 0.5 |" in table
    assert any("**(a) badly**" in line and "failed, MemoryError" in line for line in table)


@pytest.mark.slow
def test_what_there_is_no_time_for_is_skipped_and_told(tmp_path: Path) -> None:
    sections = [section("well"), section("badly")]
    results = run_sections(sections, size="tiny", device="cpu", budget_s=1, output_dir=tmp_path)
    reason = "the 1 s of this run were used up by the sections above"
    assert outcomes(results) == {
        "well": ("skipped", reason, []),
        "badly": ("skipped", reason, []),
    }
    assert results.failed == []


@pytest.mark.slow
def test_the_command_ends_with_an_error_where_a_section_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("on_gpu.SECTIONS", (section("badly"), section("well")))
    with pytest.raises(SystemExit) as ended:
        on_gpu(size="tiny", device="cpu", output_dir=tmp_path)
    assert ended.value.code == "error: failed: badly; the table says why"  # exit code 1
    assert "| figures before | 1 | figures |" in capsys.readouterr().out


def test_a_device_that_is_not_there_is_told_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SystemExit, match=r"^error: ConfigError: device 'cuda' was asked for"):
        on_gpu(device="cuda", output_dir=tmp_path)
    with pytest.raises(SystemExit, match=r"^error: no section 'cashing'; there are caching, head"):
        on_gpu(device="cpu", sections=["cashing"], output_dir=tmp_path)
