"""What a reader sees of a report and can do with it, on a wide screen and on a phone."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser

WIDTHS = (1400, 390)
METHODS = ("fusion_head", "pooled_patches", "clip_box_crop")
RIGHT, WRONG = "rgb(20, 128, 74)", "rgb(198, 40, 40)"

OpenPage = Callable[..., Any]


@pytest.fixture(params=WIDTHS)
def width(request: pytest.FixtureRequest) -> int:
    found: int = request.param
    return found


@pytest.fixture
def open_page(browser: Any, width: int) -> Iterator[OpenPage]:
    """Open a page at the width; at the end there was no error and no request beyond the page."""
    contexts, problems = [], []

    def open_it(path: Path, *, with_script: bool = True) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, java_script_enabled=with_script, offline=True
        )
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda line: problems.append(line.text))
        page.on("request", lambda one: problems.append(one.url) if is_foreign(one.url) else None)

        def is_foreign(url: str) -> bool:
            return not url.startswith("data:") and url != path.as_uri()

        page.goto(path.as_uri())
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert problems == []


def figures(page: Any) -> Any:
    return page.locator("form.filter + .grid > figure")


def visible_names(figure: Any) -> list[str]:
    found: list[str] = figure.locator(".names li:visible").evaluate_all(
        "items => items.map(item => item.className)"
    )
    return found


def colours(figure: Any) -> list[str]:
    """Return the colour in which each region is drawn."""
    found: list[str] = figure.locator(".region .box").evaluate_all(
        "boxes => boxes.map(box => getComputedStyle(box).stroke)"
    )
    return found


def marks(figure: Any) -> list[str]:
    """Return the mark beside each number in the picture."""
    found: list[str] = figure.locator(".region text").evaluate_all(
        "texts => texts.map(text => [...text.children]"
        ".filter(part => getComputedStyle(part).display !== 'none')"
        ".map(part => part.textContent).join(''))"
    )
    return found


def assert_shows(figure: Any, method: int) -> None:
    """Check that a picture shows the names of one method, and their verdicts in the image."""
    by = figure.locator(f".names.n{method}")
    assert by.is_visible()
    assert figure.locator(".names:visible").count() == 1
    verdicts = visible_names(figure)
    assert verdicts == by.locator("li").evaluate_all("items => items.map(item => item.className)")
    assert colours(figure) == [{"right": RIGHT, "wrong": WRONG}[one] for one in verdicts]
    assert marks(figure) == [{"right": "\u2713", "wrong": "\u2717"}[one] for one in verdicts]
    count = f"{verdicts.count('right')} of {len(verdicts)} right"
    assert count in figure.locator("label").nth(method).inner_text()


def assert_fits(page: Any, width: int) -> None:
    """Check that no part of the page is cut off or makes it scroll sideways."""
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    beyond = page.evaluate(
        """width => [...document.querySelectorAll("body *")].filter(part =>
             !part.closest(".scroll, nav, svg") && part.getBoundingClientRect().right > width + 1
           ).map(part => part.outerHTML.slice(0, 80))""",
        width,
    )
    assert beyond == []


def test_the_report_fits_the_screen(open_page: OpenPage, report: Path, width: int) -> None:
    page = open_page(report)
    page.locator("details").first.evaluate("part => part.open = true")
    assert_fits(page, width)
    assert page.locator("h1").is_visible()
    for name in ("results", "images", "attention"):
        page.locator(f"#{name}").scroll_into_view_if_needed()
        assert page.locator(f"#{name} h2").is_visible()
    assert page.locator("#results td", has_text="context").is_visible()


def test_every_picture_loads_when_it_is_scrolled_to(open_page: OpenPage, report: Path) -> None:
    page = open_page(report)
    pictures = page.locator("img")
    for number in range(pictures.count()):
        pictures.nth(number).scroll_into_view_if_needed()
    page.wait_for_function(
        "[...document.images].every(one => one.complete && one.naturalWidth > 1)"
    )


def test_the_switch_of_a_picture_shows_another_method_there_only(
    open_page: OpenPage, report: Path
) -> None:
    page = open_page(report)
    first, second = figures(page).nth(0), figures(page).nth(1)
    for method, name in enumerate(METHODS):
        first.get_by_label(name).check()
        assert_shows(first, method)
        assert_shows(second, 0)
    before = page.locator("figure img").count()
    assert first.locator("img").count() == 1, "one image for all methods"
    assert page.locator("figure img").count() == before


def test_regions_are_drawn_over_their_image(open_page: OpenPage, report: Path) -> None:
    page = open_page(report)
    photo = figures(page).nth(0).locator(".photo")
    image, drawing = (photo.locator(kind).bounding_box() for kind in ("img", "svg"))
    assert image == drawing
    assert photo.locator("path.outline").count() == photo.locator(".region").count(), "masks"
    boxes = photo.locator(".region .box").evaluate_all(
        "boxes => boxes.map(box => { const r = box.getBoundingClientRect();"
        " return [r.left, r.top, r.right, r.bottom] })"
    )
    for left, top, right, bottom in boxes:
        assert image["x"] - 2 <= left <= right <= image["x"] + image["width"] + 2
        assert image["y"] - 2 <= top <= bottom <= image["y"] + image["height"] + 2


def test_names_by_switches_every_picture(open_page: OpenPage, report: Path) -> None:
    page = open_page(report)
    page.get_by_label("names by").first.select_option(label="clip_box_crop")
    everywhere = page.locator("figure.regions")
    assert everywhere.count() > figures(page).count(), "those of mistakes as well"
    for number in range(everywhere.count()):
        assert_shows(everywhere.nth(number), 2)


def test_the_filter_hides_pictures_without_such_names(open_page: OpenPage, report: Path) -> None:
    page = open_page(report)
    shown = figures(page)
    total = shown.count()
    count = page.locator("form.filter output")
    assert count.inner_text() == f"{total} of {total} pictures"
    for kind in ("right", "wrong"):
        page.get_by_label("show").select_option(kind)
        expected = [kind in figure_kinds(shown.nth(number)) for number in range(total)]
        assert [shown.nth(number).is_visible() for number in range(total)] == expected
        assert count.inner_text() == f"{sum(expected)} of {total} pictures"
    page.get_by_label("show").select_option("all")
    word = shown.nth(0).locator(".names.n0 li span").first.inner_text().split()[0]
    page.get_by_label("with the word").fill(word.upper())
    assert shown.nth(0).is_visible()
    for number in range(total):
        text = shown.nth(number).locator(".names.n0").text_content().lower()
        assert shown.nth(number).is_visible() == (word in text)
    page.get_by_label("with the word").fill("no such word")
    assert [shown.nth(number).is_visible() for number in range(total)] == [False] * total
    assert count.inner_text() == f"0 of {total} pictures"


def figure_kinds(figure: Any) -> set[str]:
    """Return the verdicts on the names of the first method, shown or not."""
    found: list[str] = figure.locator(".names.n0 li").evaluate_all(
        "items => items.map(item => item.className)"
    )
    return set(found)


def test_the_table_of_classes_is_sorted_by_a_click(open_page: OpenPage, report: Path) -> None:
    page = open_page(report)
    page.get_by_text("All classes (").click()
    table = page.locator("table.sortable")
    headings = table.locator("th").all_inner_texts()

    def column(name: str) -> list[str]:
        number = headings.index(name)
        found: list[str] = table.locator(f"tbody td:nth-child({number + 1})").all_inner_texts()
        return found

    table.get_by_role("button", name="class", exact=True).click()
    assert column("class") == sorted(column("class"))
    for is_descending in (False, True):
        table.get_by_role("button", name="fusion_head").click()
        texts = column("fusion_head")
        numbers = [float(text) for text in texts if text != "-"]
        assert numbers == sorted(numbers, reverse=is_descending)
        assert texts[len(numbers) :] == ["-"] * (len(texts) - len(numbers)), "undefined last"


def test_without_javascript_all_is_there_and_the_switch_works(
    open_page: OpenPage, report: Path
) -> None:
    page = open_page(report, with_script=False)
    assert not page.locator("form.filter").is_visible()
    assert figures(page).first.is_visible()
    first = figures(page).first
    first.get_by_label("pooled_patches").check()
    assert_shows(first, 1)


def test_a_comparison_fits_and_starts_with_what_differs(
    open_page: OpenPage, comparison: Path, width: int
) -> None:
    page = open_page(comparison)
    assert_fits(page, width)
    warning = page.locator(".warning")
    assert "protocol differs: flattened_top300 in evaluation, top1 in other" in warning.inner_text()
    table = page.locator("table.methods")
    assert warning.bounding_box()["y"] < table.bounding_box()["y"]
    assert table.locator("tbody tr").count() == 2 * len(METHODS)
