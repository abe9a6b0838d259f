"""Images behind URLs, from a real server on this machine."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import override

from regionspot.core.errors import ConfigError, MissingFileError
from regionspot.inference import ImageError, load_image
from regionspot.inference.fetch_image import fetch_image
from regionspot.storage import StorageError

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def server(pixels: Pixels) -> Iterator[str]:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    picture = buffer.getvalue()
    done = threading.Event()

    whole = {"Content-Length": str(len(picture))}
    answers: dict[str, tuple[int, bytes, dict[str, str]]] = {
        "/moved": (302, b"", {"Location": "/picture.png?key=a%20b"}),
        "/to-a-file": (302, b"", {"Location": "ftp://127.0.0.1/picture.png"}),
        "/picture.png": (200, picture, whole),
        "/short": (200, picture[:50], whole),
        "/slow": (200, picture[:50], whole),
        "/text": (200, b"no picture", {}),
        "/secret": (403, b"", {}),
    }

    class Pictures(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            self._answer(*answers.get(path, (404, b"", {})))
            if path == "/slow":
                done.wait(20)

        def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        @override
        def log_message(self, format: str, *args: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Pictures)
    listening.daemon_threads = True
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}"
    done.set()
    listening.shutdown()
    listening.server_close()


@pytest.mark.parametrize("path", ["picture.png", "picture.png?signature=a%2Fb", "moved"])
def test_an_image_behind_a_url_is_the_image(server: str, pixels: Pixels, path: str) -> None:
    np.testing.assert_array_equal(load_image(f"{server}/{path}"), pixels)


def test_an_image_that_is_not_there_or_is_none_is_refused(server: str) -> None:
    with pytest.raises(MissingFileError, match=r"no image at http.*/nothing \(HTTP 404\)"):
        load_image(f"{server}/nothing")
    with pytest.raises(StorageError, match="HTTP 403"):
        load_image(f"{server}/secret")
    with pytest.raises(ImageError, match=r"^http.*/text "):
        load_image(f"{server}/text")
    with pytest.raises(StorageError, match="bytes are missing"):
        load_image(f"{server}/short")


def test_a_server_that_does_not_answer_is_told() -> None:
    with pytest.raises(StorageError, match="cannot be downloaded.*refused"):
        load_image("http://127.0.0.1:9/picture.png")


def test_a_download_ends_at_its_limits(server: str) -> None:
    with pytest.raises(StorageError, match=r"larger than 1\.0 kB: download it yourself"):
        fetch_image(f"{server}/picture.png", max_bytes=1000)
    with pytest.raises(StorageError, match="cannot be downloaded.*timed out"):
        fetch_image(f"{server}/slow", timeout_s=0.2)


def test_other_schemes_are_refused_also_behind_a_redirect(server: str) -> None:
    with pytest.raises(ConfigError, match="starts with http:// or https://"):
        load_image("ftp://127.0.0.1/picture.png")
    with pytest.raises(StorageError, match="unknown url type: ftp"):
        load_image(f"{server}/to-a-file")
