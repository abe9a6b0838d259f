"""What a visitor of ``regionspot demo`` sees and can do, in a browser and by gradio's client."""

import io
import json
import re
import signal
import socket
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.heads import random_head
from helpers.processes import start_regionspot
from regionspot.backbones import ModelsConfig, load_frozen_models
from regionspot.cli.main import main
from regionspot.demo import Answers, Limits, write_toy_pictures
from regionspot.inference import RegionSpot
from regionspot.toy import generate_world

pytestmark = [
    pytest.mark.browser,
    # gradio's and its client's own.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

WIDTHS = (1400, 390)
WORDS = ("red striped circle", "blue plain square", "plain green ring")
NUM_PARALLEL = 50
PATIENCE_MS = 60_000
NAME_CELLS = "#names [role=gridcell][aria-colindex='2']"
CACHE_CONFIG = Path(__file__).parents[2] / "configs" / "toy" / "cache.yaml"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def model() -> RegionSpot:
    """The tiny models with a head that nobody trained."""
    models = load_frozen_models(ModelsConfig(preset="toy"))
    head = random_head(models, seed=3, normalize_inputs=True, vocabulary=WORDS, templates="single")
    return RegionSpot(head, models)


@pytest.fixture(scope="module")
def url(model: RegionSpot) -> Iterator[str]:
    """The address of a page."""
    from regionspot.demo.page import Page
    from regionspot.demo.server import serving

    limits = Limits(max_upload_mb=1, max_pixels=1_000_000)
    with tempfile.TemporaryDirectory() as name:
        page = Page(
            Answers(model, limits=limits),
            words=WORDS,
            pictures=write_toy_pictures(Path(name), count=2),
            folder=Path(name),
        )
        with serving(page, host="127.0.0.1", port=free_port(), limits=limits) as found:
            yield found


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    pixels = np.random.default_rng(7).integers(0, 255, (96, 140, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(params=WIDTHS)
def page(request: pytest.FixtureRequest, browser: Any, url: str) -> Iterator[Any]:
    """The page; at the end there was no error and no request to another server."""
    with opened(browser, url, request.param) as page:
        yield page


@pytest.fixture
def wide_page(browser: Any, url: str) -> Iterator[Any]:
    """The page on a wide screen, as `page`."""
    with opened(browser, url, WIDTHS[0]) as page:
        yield page


@contextmanager
def opened(browser: Any, url: str, width: int) -> Iterator[Any]:
    problems: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(PATIENCE_MS)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request",
        lambda one: (
            None if one.url.startswith((url, "data:", "blob:")) else problems.append(one.url)
        ),
    )
    page.goto(url, wait_until="domcontentloaded")
    yield page
    page.close()
    assert problems == []


def pick_a_picture(page: Any) -> None:
    page.locator("#pictures button img").first.click()
    page.get_by_text("Drag a box over the picture: its name appears here.").wait_for()


def drag_a_box(page: Any, start: float = 0.3, end: float = 0.7) -> None:
    """Drag from one corner to the other, in fractions of the picture's width and height."""
    canvas = page.locator("#drawing canvas")
    canvas.scroll_into_view_if_needed()
    place = canvas.bounding_box()
    x, y, width, height = (place[side] for side in ("x", "y", "width", "height"))
    page.mouse.move(x + start * width, y + start * height)
    page.mouse.down()
    page.mouse.move(x + end * width, y + end * height, steps=5)
    page.mouse.up()


def wait_for_names(page: Any, count: int, names: tuple[str, ...] = WORDS) -> None:
    """Wait until the table has so many rows, each with one of the names."""
    page.wait_for_function(
        """([cells, count, names]) => {
          const found = [...document.querySelectorAll(cells)].map(one => one.innerText.trim());
          return found.length === count && found.every(name => names.includes(name));
        }""",
        arg=[NAME_CELLS, count, list(names)],
    )


def assert_fits(page: Any) -> None:
    """Check that no part of the page is cut off at the right or makes it scroll sideways."""
    beyond = page.evaluate(
        """[...document.querySelectorAll("body *")].filter(part => {
             const place = part.getBoundingClientRect();
             return place.width > 0 && place.right > window.innerWidth + 1;
           }).map(part => part.outerHTML.slice(0, 80))"""
    )
    assert beyond == []
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_box_drawn_by_mouse_gets_a_name_and_other_words_another(page: Any) -> None:
    page.get_by_text("Tiny model of the toy world").wait_for()
    page.locator("#pictures button img").first.wait_for()
    assert_fits(page)
    pick_a_picture(page)
    drag_a_box(page)
    wait_for_names(page, 1)
    page.locator("#words textarea").fill("sea egg")
    page.locator("#again").click()
    wait_for_names(page, 1, ("sea egg",))
    assert_fits(page)


def test_words_that_the_tiny_model_knows_are_listed_and_others_refused(wide_page: Any) -> None:
    page = wide_page
    pick_a_picture(page)
    page.get_by_text("words that it knows").click()
    known = page.locator("#known").inner_text().split(", ")
    assert {"red", "striped", "egg"} <= set(known)
    assert "zeppelin" not in known
    page.locator("#words textarea").fill("<b>zeppelin</b>")
    page.locator("#again").click()
    page.get_by_text("does not know '<b>zeppelin</b>'").wait_for()


def test_clicked_points_are_named_and_a_row_shows_its_attention(wide_page: Any) -> None:
    page = wide_page
    pick_a_picture(page)
    page.get_by_role("tab", name="Points").click()
    picture = page.locator("#clicked img")
    picture.click(position={"x": 80, "y": 80})
    wait_for_names(page, 1)
    picture.click(position={"x": 200, "y": 200})
    wait_for_names(page, 2)
    page.get_by_text("Region 2:").wait_for()
    page.locator("#attention img").scroll_into_view_if_needed()
    second = shown_pixels(page, "#attention img")
    page.locator(NAME_CELLS).first.click()
    page.get_by_text("Region 1:").wait_for()
    assert shown_pixels(page, "#attention img") != second
    page.get_by_role("button", name="Remove the points").click()


def shown_pixels(page: Any, selector: str) -> str:
    """Return the pixels of a picture on the page, as soon as it is loaded."""
    page.wait_for_function(
        "selector => { const one = document.querySelector(selector);"
        " return one.complete && one.naturalWidth > 1 }",
        arg=selector,
    )
    pixels: str = page.evaluate(
        """selector => {
          const one = document.querySelector(selector), canvas = document.createElement("canvas");
          [canvas.width, canvas.height] = [one.naturalWidth, one.naturalHeight];
          canvas.getContext("2d").drawImage(one, 0, 0);
          return canvas.toDataURL();
        }""",
        selector,
    )
    return pixels


def test_sam_proposes_regions_which_are_named(wide_page: Any) -> None:
    page = wide_page
    pick_a_picture(page)
    page.locator("#everything").click()
    page.get_by_text("of its attention").wait_for()
    names = page.locator(NAME_CELLS).all_inner_texts()
    assert len(names) > 1
    assert {name.strip() for name in names} <= set(WORDS)


def test_a_region_added_as_an_example_gives_its_name(wide_page: Any) -> None:
    page = wide_page
    pick_a_picture(page)
    drag_a_box(page)
    wait_for_names(page, 1)
    page.get_by_text("Names by example").click()
    page.get_by_label("Name of the selected region").fill("my own thing")
    page.get_by_role("button", name="Add as an example").click()
    wait_for_names(page, 1, ("my own thing",))
    page.get_by_role("button", name="Remove the examples").click()
    wait_for_names(page, 1)


def test_answers_are_downloaded_as_json_coco_and_picture(wide_page: Any, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    page = wide_page
    pick_a_picture(page)
    drag_a_box(page, 0.5, 0.8)
    wait_for_names(page, 1)
    drag_a_box(page, 0.1, 0.4)
    wait_for_names(page, 2)
    paths = {kind: tmp_path / kind for kind in ("JSON", "COCO", "Picture")}
    for kind, path in paths.items():
        with page.expect_download() as download:
            page.get_by_role("button", name=kind, exact=True).click()
        download.value.save_as(path)
    answer = json.loads(paths["JSON"].read_text(encoding="utf-8"))
    size_whwh = np.array([answer["width"], answer["height"]] * 2)
    boxes = [region["box_xyxy"] for region in answer["regions"]]
    wanted = np.array([[0.1] * 2 + [0.4] * 2, [0.5] * 2 + [0.8] * 2])  # newest first
    np.testing.assert_allclose(boxes / size_whwh, wanted, atol=0.02)
    coco = COCO(str(paths["COCO"]))
    for region, annotation in zip(answer["regions"], coco.loadAnns(coco.getAnnIds()), strict=True):
        (category,) = coco.loadCats(annotation["category_id"])
        assert category["name"] == region["label"]
        x, y, width, height = annotation["bbox"]
        np.testing.assert_allclose([x, y, x + width, y + height], region["box_xyxy"], atol=1e-3)
        assert coco.annToMask(annotation).sum() == annotation["area"] > 0
    with Image.open(paths["Picture"]) as picture:
        assert picture.format == "PNG"


def test_the_command_serves_a_search_of_a_cache_until_ctrl_c(
    browser: Any, model: RegionSpot, tmp_path: Path
) -> None:
    world, cache, head = tmp_path / "world", tmp_path / "cache", tmp_path / "head"
    generate_world(world, seed=3, num_val=4, num_train=1)
    main(
        [
            *("cache", "--config", str(CACHE_CONFIG), "--templates", "[single]"),
            *("--annotations.path", str(world / "val.json")),
            *("--annotations.images_dir", str(world), "--output_dir", str(cache)),
        ]
    )
    model.save_pretrained(head)
    command = start_regionspot(
        [
            *("demo", "--model", str(head), "--port", str(free_port())),
            *("--cache", str(cache), "--images_dir", str(world)),
        ]
    )
    assert command.stdout is not None
    assert command.stderr is not None
    try:
        printed = ""
        while "Ctrl-C" not in printed:
            printed = command.stdout.readline()
            assert printed, command.stderr.read()
        with opened(browser, printed.split()[0], WIDTHS[1]) as page:
            page.get_by_role("tab", name="Search a cache").click()
            page.locator("#query textarea, #query input").fill("red striped circle")
            page.get_by_role("button", name="Search").click()
            page.locator("#hits tbody tr").first.wait_for()
            page.locator("#sheet img").scroll_into_view_if_needed()
            shown_pixels(page, "#sheet img")
            assert_fits(page)
            rows = page.locator("#hits tbody tr")
            found = [rows.nth(row).locator("td").all_inner_texts() for row in range(rows.count())]
        command.send_signal(signal.SIGINT)
        assert command.wait(30) == 130
    finally:
        command.kill()
        command.communicate()
    regions = json.loads((world / "val.json").read_text())["annotations"]
    assert len(found) == min(20, len(regions))
    scores = [float(score) for _, _, score, _ in found]
    assert scores == sorted(scores, reverse=True)
    assert len({region for _, region, _, _ in found}) == len(found)


def test_many_requests_at_once_are_all_answered(url: str, photo: Path) -> None:
    from gradio_client import handle_file

    client = patient_client(url)

    def ask(number: int) -> str:
        box = {"xmin": number, "ymin": 10, "xmax": number + 30, "ymax": 60}
        word = WORDS[number % len(WORDS)]
        drawing = {"image": handle_file(str(photo)), "boxes": [box]}
        _, table, *rest = client.predict(drawing, word, api_name="/name_boxes")
        written = json.loads(Path(rest[3]).read_text(encoding="utf-8"))
        assert len(table["data"]) == 1
        assert written["regions"][0]["box_xyxy"][0] == number
        return str(table["data"][0][1])

    with ThreadPoolExecutor(NUM_PARALLEL) as pool:
        names = list(pool.map(ask, range(NUM_PARALLEL)))
    assert names == [WORDS[number % len(WORDS)] for number in range(NUM_PARALLEL)]


def patient_client(url: str) -> Any:
    """Return gradio's client, which by default gives up after 5 s: too soon on a busy machine."""
    from gradio_client import Client

    return Client(url, verbose=False, httpx_kwargs={"timeout": PATIENCE_MS / 1000})


def encoded(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "no picture that can be read"),
        (encoded(Image.new("1", (1001, 1000))), "1001 x 1000 pixels; wanted at most 1,000,000"),
    ],
)
def test_wrong_files_are_explained(url: str, tmp_path: Path, content: bytes, message: str) -> None:
    from gradio_client import handle_file

    path = tmp_path / "photo.png"
    path.write_bytes(content)
    drawing = {"image": handle_file(str(path)), "boxes": []}
    with pytest.raises(Exception, match=message):
        patient_client(url).predict(drawing, "sea egg", api_name="/name_boxes")


def test_a_file_over_the_limit_is_not_stored(url: str, tmp_path: Path) -> None:
    import httpx

    files = {"files": ("large.png", bytes(1_100_000))}
    answer = httpx.post(f"{url.rstrip('/')}/gradio_api/upload", files=files, timeout=PATIENCE_MS)
    assert answer.status_code == 413


def test_no_request_passes_the_queue_by(url: str) -> None:
    import httpx

    address = f"{url.rstrip('/')}/gradio_api/api/name_boxes"
    answer = httpx.post(address, json={"data": [None, ""]}, timeout=PATIENCE_MS)
    assert answer.status_code == 404
    assert "join the queue" in answer.text


def test_a_port_in_use_is_reported_at_once(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    (port,) = re.findall(r":(\d+)/", url)
    with pytest.raises(SystemExit):
        main(["demo", "--model", "mine", "--port", port])
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err
