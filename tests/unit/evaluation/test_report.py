import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typing_extensions import override

from regionspot.core.errors import ConfigError
from regionspot.evaluation.report import ReportContent, render_report, write_report
from regionspot.evaluation.report_parts import (
    ImageAttention,
    NamesByMethod,
    RegionAttention,
    RegionPicture,
    ReportPicture,
)
from regionspot.scoring import CategoryScore, ClassGroup, LvisScores
from regionspot.scoring.results import (
    EvaluatedData,
    EvaluationResult,
    MethodResult,
    format_table,
    write_metrics,
    write_per_category,
)
from regionspot.viz import NamedRegion, RegionPhoto, RegionShape

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PICTURE = ReportPicture(data=PNG, alt="a <dot>", caption="one & only")


def region_picture(*names: NamedRegion, title: str = "Image 7", outline: str = "") -> RegionPicture:
    """A picture of one region, named by as many methods as there are names."""
    shape = RegionShape(box=(1, 2, 31, 22), label=(1, 0, 9, 2), outline=outline)
    photo = RegionPhoto(data=PNG, size_wh=(40, 30), font_size=8, shapes=(shape,))
    methods = tuple(
        NamesByMethod(method=f"method{number}", regions=(one,)) for number, one in enumerate(names)
    )
    return RegionPicture(title=title, photo=photo, names=methods)


def called(name: str, true_name: str | None = "cat") -> NamedRegion:
    return NamedRegion(box_xyxy=(0, 0, 1, 1), name=name, true_name=true_name)


CAT = region_picture(called("cat"))
ATTENTION = ImageAttention(
    title="Image <7>",
    scale=PICTURE,
    regions=(RegionAttention(picture=PICTURE, region=called("dog")),),
)


def scores(ap: float) -> LvisScores:
    categories = tuple(
        CategoryScore(
            category_id=number, name=name, frequency="r", num_annotations=number - 1, AP=one
        )
        for number, (name, one) in enumerate([("<none>", None), ("low", 1.0), ("high", 99.0)], 1)
    )
    return LvisScores(
        AP=ap,
        AP50=ap,
        AP75=ap,
        APs=ap,
        APm=ap,
        APl=None,
        APr=ap,
        APc=None,
        APf=None,
        AR=ap,
        ARs=ap,
        ARm=ap,
        ARl=ap,
        num_categories={"r": 2, "c": 0, "f": 0},
        per_category=categories,
    )


def method(name: str, ap: float) -> MethodResult:
    return MethodResult(
        name=name,
        description=f"What {name} does.",
        scores=scores(ap),
        region_figures={"top1_accuracy": ap / 2},
    )


@pytest.fixture
def result() -> EvaluationResult:
    return EvaluationResult(
        methods=(method("fusion_head", 60.25), method("clip_box_crop", 54.75)),
        protocol="flattened_top300",
        metric="lvis",
        scorer="hotcoco",
        templates="ensemble81",
        data=EvaluatedData(
            name="toy",
            num_images=500,
            num_missing_images=0,
            num_regions=2000,
            num_cached_regions=2000,
            proposals=None,
            num_classes=164,
            is_subset=False,
            annotation_sha256="ab" * 32,
        ),
        timings_s={"train": 150.0, "evaluate": 3.0},
        provenance={"localizer": "tiny"},
    )


class Outline(HTMLParser):
    """Checks that tags nest, and collects anchors and links."""

    VOID = frozenset({"meta", "img", "br", "input"})
    """Elements without an end tag; those of SVG end in "/>"."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.links: set[str] = set()

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id" and value:
                self.ids.add(value)
            if name == "href" and value:
                self.links.add(value)

    @override
    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in {"rect", "path"}

    @override
    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def outline_of(html: str) -> Outline:
    outline = Outline()
    outline.feed(html)
    assert outline.open == []
    return outline


def test_the_page_is_well_formed_and_its_links_lead_somewhere(result: EvaluationResult) -> None:
    content = ReportContent(
        title="Title",
        result=result,
        ap_bars=PICTURE,
        training_curves=(PICTURE,),
        sampled=(CAT, CAT),
        mistakes=(CAT,),
        attention=(ATTENTION,),
        commands=("python evaluate.py --title 'a > b'",),
    )
    html = render_report(content)
    outline = outline_of(html)
    assert {link.removeprefix("#") for link in outline.links} == outline.ids
    assert len(outline.ids) == 9
    assert html.count("data:image/png;base64,") == 2 + 2 + 1 + 2
    assert "a &gt; b" in html
    assert "a &lt;dot&gt;" in html
    assert "one &amp; only" in html


def test_sections_without_content_are_left_out(result: EvaluationResult) -> None:
    bare = replace(result, timings_s={}, provenance={})
    outline = outline_of(render_report(ReportContent(title="Title", result=bare)))
    assert outline.ids == {"results", "reading", "classes"}


def test_the_page_asks_for_nothing_from_outside(result: EvaluationResult) -> None:
    html = render_report(ReportContent(title="T", result=result, sampled=(CAT,)))
    assert not re.search(r"https?:|@import|url\(|<script |<link", html)
    assert html.count("<script>") == 1, "our own, for sorting and filtering"


def test_the_best_of_a_column_is_marked_and_undefined_figures_are_dashes(
    result: EvaluationResult,
) -> None:
    html = render_report(ReportContent(title="T", result=result))
    assert '<td data-name="AP" class="best">60.2</td>' in html
    assert '<td data-name="AP">54.8</td>' in html
    assert '<td data-name="APc">-</td>' in html
    assert "<b>+5.5</b>" in html


def test_names_from_files_cannot_inject_markup(result: EvaluationResult) -> None:
    odd = replace(result.methods[0], name="<img src=x>", description="</table>")
    content = ReportContent(title="<b>", result=replace(result, methods=(odd,)), notes=("<i>",))
    html = render_report(content)
    outline_of(html)
    assert "<img src=x>" not in html
    assert "<i>" not in html


def test_class_names_cannot_inject_markup(result: EvaluationResult) -> None:
    region = NamedRegion(box_xyxy=(0, 0, 1, 1), name="<script>", true_name="</ol>", score=0.126)
    picture = region_picture(region, title='" onload="x')
    html = render_report(ReportContent(title="T", result=result, sampled=(picture,)))
    outline_of(html)
    assert html.count("<script") == 1, "none but our own"
    assert 'onload="' not in html
    assert "&lt;script&gt; <small>13%</small>" in html
    assert "true name: &lt;/ol&gt;" in html


@pytest.mark.parametrize(
    ("true_name", "mark", "kind"),
    [("cat", "1\u2713", "right"), ("dog", "1\u2717", "wrong"), (None, "1", "unknown")],
)
def test_names_below_a_picture_are_marked_right_or_wrong(
    result: EvaluationResult, true_name: str | None, mark: str, kind: str
) -> None:
    region = NamedRegion(box_xyxy=(0, 0, 1, 1), name="cat", true_name=true_name)
    content = ReportContent(title="T", result=result, sampled=(region_picture(region),))
    html = render_report(content)
    assert f'<g class="region v0-{kind}">' in html
    assert f'<li class="{kind}"><b>{mark}</b>\n<span>cat' in html
    assert ("true name: dog" in html) == (kind == "wrong")


def test_a_picture_has_one_image_and_the_names_and_verdicts_of_every_method(
    result: EvaluationResult,
) -> None:
    picture = region_picture(called("cat"), called("dog"), called("cow", None))
    html = render_report(ReportContent(title="T", result=result, sampled=(picture,)))
    assert html.count("data:image/png") == 1
    assert html.count('<rect class="box" x="1" y="2" width="30.0" height="20.0"/>') == 1
    assert '<g class="region v0-right v1-wrong v2-unknown">' in html
    for number, count in enumerate(["1 of 1 right", "0 of 1 right", "1 regions"]):
        assert f'<span class="by">method{number}: {count}</span>' in html
    assert html.count('<input type="radio" name="sampled1"') == 3
    assert html.count(" checked>") == 1


def test_one_method_has_no_switch(result: EvaluationResult) -> None:
    html = render_report(ReportContent(title="T", result=result, sampled=(CAT,)))
    assert 'type="radio"' not in html
    assert "<span>cat" in html


def test_masks_are_drawn_as_outlines(result: EvaluationResult) -> None:
    picture = region_picture(called("cat"), outline="M1 2 3 4 5 6Z")
    html = render_report(ReportContent(title="T", result=result, sampled=(picture,)))
    assert '<g class="region v0-right masked">' in html
    assert '<path class="outline" d="M1 2 3 4 5 6Z"/>' in html


def test_attention_says_whether_the_name_is_right(result: EvaluationResult) -> None:
    html = render_report(ReportContent(title="T", result=result, attention=(ATTENTION,)))
    assert "<h3>Image &lt;7&gt;</h3>" in html
    assert '<b class="wrong">\u2717 dog</b>' in html
    assert "true name: cat" in html


def test_groups_of_classes_have_a_row_each_and_stand_in_metrics(result: EvaluationResult) -> None:
    groups = (
        ClassGroup(name="unseen", classes=("low", "high")),
        ClassGroup(name="<b>", classes=("high",)),
    )
    grouped = replace(result, class_groups=groups)
    html = render_report(ReportContent(title="T", result=grouped))
    outline_of(html)
    cells = (
        '<td data-name="number">{}</td><td data-name="fusion_head">{}</td>'
        '<td data-name="clip_box_crop">{}</td></tr>'
    )
    assert f"<tr><td>unseen</td>{cells.format(2, 50.0, 50.0)}" in html
    assert f"<tr><td>&lt;b&gt;</td>{cells.format(1, 99.0, 99.0)}" in html
    assert "no head was trained on" in html
    metrics = json.loads(grouped.to_json())
    assert metrics["class_groups"] == {"unseen": ["low", "high"], "<b>": ["high"]}
    assert metrics["methods"]["clip_box_crop"]["class_groups"] == {"unseen": 50.0, "<b>": 99.0}


def test_a_subset_is_warned_of(result: EvaluationResult) -> None:
    partial = replace(result, data=replace(result.data, is_subset=True, num_missing_images=4))
    html = render_report(ReportContent(title="T", result=partial))
    assert 'class="warning"' in html
    assert "when the cache was made: 4" in html


def test_a_report_of_nothing_or_of_unknown_pictures_is_refused(result: EvaluationResult) -> None:
    with pytest.raises(ConfigError, match="no method"):
        render_report(ReportContent(title="T", result=replace(result, methods=())))
    gif = ReportPicture(data=b"GIF89a", alt="moving")
    with pytest.raises(ConfigError, match="'moving' is neither PNG nor JPEG"):
        render_report(ReportContent(title="T", result=result, ap_bars=gif))


def test_the_report_is_written_below_the_folder(result: EvaluationResult, tmp_path: Path) -> None:
    path = write_report(tmp_path / "new", ReportContent(title="T", result=result))
    assert path == tmp_path / "new" / "report.html"
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [one.name for one in path.parent.iterdir()] == ["report.html"]


def test_metrics_are_in_percent_with_null_for_undefined(
    result: EvaluationResult, tmp_path: Path
) -> None:
    write_metrics(tmp_path / "metrics.json", result)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["methods"]["fusion_head"]["AP"] == 60.25
    assert metrics["methods"]["fusion_head"]["APc"] is None
    assert metrics["methods"]["clip_box_crop"]["top1_accuracy"] == 27.375
    assert metrics["timings_s"] == {"train": 150.0, "evaluate": 3.0}
    assert metrics["data"]["num_images"] == 500


def test_categories_are_listed_by_method(result: EvaluationResult, tmp_path: Path) -> None:
    write_per_category(tmp_path / "per_category.csv", result.methods)
    assert (tmp_path / "per_category.csv").read_text() == (
        "category_id,name,frequency,num_annotations,fusion_head,clip_box_crop\n"
        "1,<none>,r,0,,\n"
        "2,low,r,1,1.0,1.0\n"
        "3,high,r,2,99.0,99.0\n"
    )


def test_the_printed_table_is_aligned(result: EvaluationResult) -> None:
    assert format_table(result.methods).splitlines() == [
        "method             AP     APr     APc     APf    AP50   top-1",
        "fusion_head      60.2    60.2       -       -    60.2    30.1",
        "clip_box_crop    54.8    54.8       -       -    54.8    27.4",
    ]


@pytest.mark.parametrize(
    ("known", "text"), [(True, "is missed, by every method"), (False, "not scored: the ground")]
)
def test_missing_images_are_missed_only_where_their_regions_are_known(
    result: EvaluationResult,
    known: bool,  # noqa: FBT001 - a parameter
    text: str,
) -> None:
    data = replace(result.data, num_missing_images=4, knows_missing_regions=known)
    html = render_report(ReportContent(title="Title", result=replace(result, data=data)))
    assert text in html
