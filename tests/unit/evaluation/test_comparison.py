"""A comparison of evaluations, written by `write_metrics`, and of trainings, as Lightning logs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from regionspot.cli.main import main
from regionspot.core.errors import ConfigError, MissingFileError
from regionspot.evaluation import write_comparison
from regionspot.evaluation.comparison import are_comparable, compare_classes, compare_figures
from regionspot.evaluation.past_runs import names_of, read_past_run
from regionspot.scoring import CategoryScore, ClassGroup, LvisScores
from regionspot.scoring.results import (
    EvaluatedData,
    EvaluationResult,
    MethodResult,
    write_metrics,
    write_per_category,
)

CLASSES = ("cat", "dog", "sea egg", "lamp")


def method(name: str, ap: Sequence[float | None]) -> MethodResult:
    known = [one for one in ap if one is not None]
    mean = sum(known) / len(known)
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR", "ARs", "ARm", "ARl", "APr", "APc")
    scores = LvisScores(
        **dict.fromkeys(names, mean),
        APf=None,
        num_categories={"r": 2, "c": 2, "f": 0},
        per_category=tuple(
            CategoryScore(category_id=number, name=one, frequency="r", num_annotations=7, AP=value)
            for number, (one, value) in enumerate(zip(CLASSES, ap, strict=True))
        ),
        precision50=(),
    )
    return MethodResult(name=name, description="", scores=scores, region_figures={})


def write_run(
    folder: Path,
    methods: Mapping[str, Sequence[float | None]],
    *,
    groups: tuple[ClassGroup, ...] = (),
    **options: Any,
) -> Path:
    data = {"annotation_sha256": "ab" * 32, "num_images": 5, "is_subset": False}
    found = tuple(method(name, ap) for name, ap in methods.items())
    result = EvaluationResult(
        methods=found,
        protocol=options.get("protocol", "flattened_top300"),
        metric="lvis",
        scorer="hotcoco",
        templates=options.get("templates", "ensemble81"),
        class_groups=groups,
        data=EvaluatedData(
            name="toy",
            num_missing_images=0,
            num_regions=20,
            num_cached_regions=20,
            proposals=None,
            num_classes=4,
            **{**data, **options.get("data", {})},
        ),
        provenance={"feature cache": f"caches/{folder.name}"},
    )
    write_metrics(folder / "metrics.json", result)
    write_per_category(folder / "per_category.csv", found)
    return folder


def write_training(folder: Path, losses: Sequence[float]) -> Path:
    log = folder / "csv" / "version_0" / "metrics.csv"
    log.parent.mkdir(parents=True)
    rows = [f"0,{step},{loss}" for step, loss in enumerate(losses)]
    log.write_text("\n".join(["epoch,step,train/loss", *rows]) + "\n")
    return folder


def test_figures_differ_from_the_method_of_the_same_name_or_the_first(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / "a", {"head": [10, 20, 30, None], "crop": [1, 2, 3, None]}),
        write_run(tmp_path / "b", {"crop": [2, 3, 4, None], "other": [40, 50, 60, None]}),
    ]
    runs = [read_past_run(folder, folder.name) for folder in folders]
    columns, rows = compare_figures(runs)
    assert columns[:2] == ("AP", "APr")
    shown = {(row.run, row.method): (row.cells[0].text, row.cells[0].difference) for row in rows}
    assert shown == {
        ("a", "head"): ("20.0", ""),
        ("a", "crop"): ("2.0", ""),
        ("b", "crop"): ("3.0", "+1.0"),
        ("b", "other"): ("50.0", "+30.0"),
    }


def test_classes_are_ranked_by_their_change(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", {"head": [10.0, 50.0, 30.0, None]})
    other = write_run(tmp_path / "b", {"head": [35.0, 45.0, 90.0, None]})
    changes = compare_classes(read_past_run(first, "a"), read_past_run(other, "b"))
    assert changes is not None
    assert changes.gains == (
        ("sea egg", "7", "30.0", "90.0", "+60.0"),
        ("cat", "7", "10.0", "35.0", "+25.0"),
    )
    assert changes.losses == (("dog", "7", "50.0", "45.0", "-5.0"),)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"protocol": "top1"}, "protocol differs: flattened_top300 in a, top1 in b"),
        ({"data": {"annotation_sha256": "cd" * 32}}, "data: annotation_sha256 differs"),
        ({"data": {"num_images": 4}}, "data: num_images differs: 5 in a, 4 in b"),
    ],
)
def test_runs_that_differ_in_what_decides_are_not_subtracted(
    tmp_path: Path, options: dict[str, Any], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_run(tmp_path / "a", {"head": [10, 50, 30, None]})
    other = write_run(tmp_path / "b", {"head": [35, 45, 90, None]}, **options)
    runs = [read_past_run(folder, folder.name) for folder in (first, other)]
    assert not are_comparable(*runs)
    assert compare_classes(*runs) is None
    assert not any(row.is_compared for row in compare_figures(runs)[1])
    page = tmp_path / "page.html"
    main(["report", str(first), str(other), "--output", str(page)])
    assert f"not comparable: {what}" in capsys.readouterr().err
    html = page.read_text()
    assert html.index("Not comparable") < html.index("<table"), "on top"
    assert what in html
    assert "Largest gains" not in html


def test_what_may_differ_is_marked_and_figures_are_subtracted(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", {"head": [10, 50, 30, None]})
    other = write_run(tmp_path / "b", {"head": [35, 45, 90, None]}, templates="none")
    page = tmp_path / "page.html"
    assert write_comparison([first, other], page) == ()
    html = page.read_text()
    assert '<tr class="differs"><td>templates</td><td class="text">ensemble81</td>' in html
    assert '<tr><td>protocol</td><td class="text" colspan="2">flattened_top300</td></tr>' in html
    assert "caches/b" in html
    assert "Largest gains" in html


def test_groups_are_compared_where_they_mean_the_same(tmp_path: Path) -> None:
    pets = ClassGroup(name="pets", classes=("cat", "dog"))
    folders = [
        write_run(
            tmp_path / name,
            {"head": [ap, 50.0, 30.0, None]},
            groups=(pets, ClassGroup(name="unseen", classes=unseen)),
        )
        for name, ap, unseen in (("a", 10.0, ("lamp",)), ("b", 30.0, ("sea egg",)))
    ]
    columns, rows = compare_figures([read_past_run(one, one.name) for one in folders])
    assert columns[-1] == "AP pets"
    assert [(row.cells[-1].text, row.cells[-1].difference) for row in rows] == [
        ("30.0", ""),
        ("40.0", "+10.0"),
    ]
    write_comparison(folders, tmp_path / "page.html")
    assert "&#39;unseen&#39; is left out" in (tmp_path / "page.html").read_text()


def test_trainings_share_a_chart_alone_or_in_a_folder_of_runs(tmp_path: Path) -> None:
    alone = write_training(tmp_path / "alone", [3.0, 2.0])
    for name in ("one", "two"):
        write_training(tmp_path / "runs" / name, [1.0, 0.5])
    (tmp_path / "runs" / "notes").mkdir()
    write_comparison([alone, tmp_path / "runs"], tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert "Trainings: alone, one, two." in html
    assert 'alt="Training loss by optimizer step of alone, one, two"' in html
    assert html.count("<img") == 1
    assert "Figures</h2>" not in html


def test_names_from_files_cannot_inject_markup(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "<b>", {"<script>": [1, 2, 3, None]})
    other = write_run(tmp_path / "c", {"</table>": [2, 3, 1, None]})
    write_comparison([folder, other], tmp_path / "page.html", title="<i>")
    html = (tmp_path / "page.html").read_text()
    for name in ("<b>&lt;script&gt;</b>", "&lt;b&gt;", "&lt;i&gt;", "&lt;/table&gt;"):
        assert name in html
    assert html.count("<script") == 1, "none but our own"


def test_runs_of_the_same_name_are_shown_by_path(tmp_path: Path) -> None:
    folders = [tmp_path / "a" / "eval", tmp_path / "b" / "eval"]
    assert names_of(folders) == [str(folder) for folder in folders]
    assert names_of([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
    with pytest.raises(ConfigError, match="given twice"):
        names_of([tmp_path / "a", tmp_path / "b" / ".." / "a"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "schema_version 99"),
        ({"methods": {}}, "or no methods"),
        ({"data": {}}, "no complete evaluation .KeyError"),
        ({"methods": {"head": {"AP": 1.0}, "lost": 3}}, "no complete evaluation"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = write_run(tmp_path / "a", {"head": [10, 50, 30, None]})
    path = folder / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError, match=message):
        write_comparison([folder], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_missing_folders_and_files_are_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", {"head": [10, 50, 30, None]})
    (folder / "per_category.csv").unlink()
    for wanted, message in (
        (folder, "has no per_category.csv"),
        (tmp_path / "nowhere", "there is no folder"),
        (tmp_path, "neither an evaluation"),
    ):
        with pytest.raises(MissingFileError, match=message):
            write_comparison([wanted], tmp_path / "page.html")
    path = tmp_path / "b" / "metrics.json"
    path.parent.mkdir()
    path.write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        write_comparison([path.parent], tmp_path / "page.html")
