"""What a visitor of ``regionspot demo`` sees and can do, in a browser and by gradio's client."""

import io
import json
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.heads import random_head
from regionspot.backbones import ModelsConfig, load_frozen_models
from regionspot.demo import Answers, Limits, write_toy_pictures
from regionspot.inference import RegionSpot

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
PORT = 7868
PATIENCE_MS = 120_000


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The address of a page whose head nobody trained."""
    from regionspot.demo.page import Page
    from regionspot.demo.server import serving

    models = load_frozen_models(ModelsConfig(preset="toy"))
    head = random_head(models, seed=3, normalize_inputs=True, templates="single")
    limits = Limits(max_upload_mb=1, max_pixels=1_000_000)
    with tempfile.TemporaryDirectory() as name:
        page = Page(
            Answers(RegionSpot(head, models), limits=limits),
            words=WORDS,
            pictures=write_toy_pictures(Path(name), count=2),
            folder=Path(name),
        )
        with serving(page, host="127.0.0.1", port=PORT, limits=limits) as found:
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
    problems: list[str] = []
    opened = browser.new_page(viewport={"width": request.param, "height": 900})
    opened.set_default_timeout(PATIENCE_MS)
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on(
        "request",
        lambda one: (
            None if one.url.startswith((url, "data:", "blob:")) else problems.append(one.url)
        ),
    )
    opened.goto(url, wait_until="domcontentloaded")
    yield opened
    opened.close()
    assert problems == []


def drag_a_box(page: Any) -> None:
    canvas = page.locator("#drawing canvas")
    canvas.scroll_into_view_if_needed()
    place = canvas.bounding_box()
    x, y, width, height = (place[side] for side in ("x", "y", "width", "height"))
    page.mouse.move(x + 0.3 * width, y + 0.3 * height)
    page.mouse.down()
    page.mouse.move(x + 0.7 * width, y + 0.7 * height, steps=5)
    page.mouse.up()


def wait_for_name(page: Any, names: tuple[str, ...]) -> None:
    page.wait_for_function(
        "names => names.some(name => document.querySelector('#names').innerText.includes(name))",
        arg=list(names),
        timeout=PATIENCE_MS,
    )


def test_a_box_drawn_by_mouse_gets_a_name_and_other_words_another(page: Any) -> None:
    page.locator("#pictures button img").first.click()
    page.locator("#named img").wait_for()
    drag_a_box(page)
    wait_for_name(page, WORDS)
    page.locator("#attention img").wait_for()
    page.locator("#words textarea").fill("sea egg")
    page.locator("#again").click()
    wait_for_name(page, ("sea egg",))
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_unknown_words_are_explained(page: Any) -> None:
    page.locator("#pictures button img").first.click()
    page.locator("#named img").wait_for()
    page.locator("#words textarea").fill("zeppelin")
    page.locator("#again").click()
    page.get_by_text("does not know").wait_for()


def test_many_requests_at_once_are_all_answered(url: str, photo: Path) -> None:
    from gradio_client import Client, handle_file

    client = Client(url, verbose=False)

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


def encoded(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "no image that Pillow can open"),
        (encoded(Image.new("1", (1001, 1000))), "1001 x 1000 pixels; wanted at most 1,000,000"),
    ],
)
def test_wrong_files_are_explained(url: str, tmp_path: Path, content: bytes, message: str) -> None:
    from gradio_client import Client, handle_file

    path = tmp_path / "photo.png"
    path.write_bytes(content)
    drawing = {"image": handle_file(str(path)), "boxes": []}
    with pytest.raises(Exception, match=message):
        Client(url, verbose=False).predict(drawing, "sea egg", api_name="/name_boxes")


def test_a_file_over_the_limit_is_not_stored(url: str, tmp_path: Path) -> None:
    import httpx

    files = {"files": ("large.png", bytes(1_100_000))}
    answer = httpx.post(f"{url.rstrip('/')}/gradio_api/upload", files=files)
    assert answer.status_code == 413


def test_a_port_in_use_is_an_error(url: str) -> None:
    from regionspot.core.errors import ConfigError
    from regionspot.demo.server import _check_free

    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{PORT}"):
        _check_free("127.0.0.1", PORT)
