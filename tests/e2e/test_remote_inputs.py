"""Annotations and images behind URLs: what is missing is told apart from what cannot be reached."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from s3fs import S3FileSystem
from typing_extensions import override

from helpers.files import tree
from helpers.worlds import cache_options, draw_images, write_own_csv
from regionspot.cli.main import main

NUM_IMAGES = 7


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    # Names that a URL cannot hold as they are.
    names = [f"photo #{number}.png" for number in range(NUM_IMAGES)]
    draw_images(folder, names)
    rows = [f"{name},1,2,{9 + n},20,class {n % 2}" for n, name in enumerate(names)]
    write_own_csv(folder, rows)
    return folder


class Server:
    """Serves a folder over HTTP, and does what it is told to a while."""

    def __init__(self, folder: Path) -> None:
        self.requests: list[str] = []
        self.status_of: dict[str, list[int]] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self, folder, with_body=True)

            def do_HEAD(self) -> None:
                server.answer(self, folder, with_body=False)

            @override
            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def answer(self, handler: BaseHTTPRequestHandler, folder: Path, *, with_body: bool) -> None:
        name = unquote(handler.path.removeprefix("/"))
        self.requests.append(f"{handler.command} {name}")
        path = folder / name
        statuses = self.status_of.get(name, [])
        status = statuses.pop(0) if statuses else (200 if path.is_file() else 404)
        content = path.read_bytes() if status == 200 else b""
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(content)))
        handler.send_header("ETag", f'"{path.stat().st_mtime_ns if path.is_file() else 0}"')
        handler.end_headers()
        if with_body:
            handler.wfile.write(content)

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server(world: Path) -> Iterator[Server]:
    server = Server(world)
    yield server
    server.close()


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGIONSPOT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("REGIONSPOT_RETRY_SECONDS", "2")


def words(annotations: str, images: str, cache: Path, *more: str) -> list[str]:
    return ["cache", *cache_options(annotations, images, cache, *more)]


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    cache = tmp_path_factory.mktemp("local") / "cache"
    main(words(str(world / "own.csv"), str(world), cache))
    return tree(cache)


def test_images_and_annotations_over_http_give_the_bytes_of_local_ones(
    server: Server, finished: dict[str, bytes], tmp_path: Path
) -> None:
    main(words(f"{server.url}/own.csv", server.url, tmp_path / "cache"))
    assert tree(tmp_path / "cache") == finished
    assert server.requests.count("GET own.csv") == 1
    assert server.requests.count("GET photo #3.png") == 1


def test_annotations_are_fetched_again_only_when_they_changed(
    server: Server, world: Path, tmp_path: Path
) -> None:
    url = f"{server.url}/own.csv"
    for _ in range(2):
        main(words(url, str(world), tmp_path / "cache"))
    assert server.requests.count("GET own.csv") == 1
    text = (world / "own.csv").read_text()
    try:
        (world / "own.csv").write_text(text + "\n")
        with pytest.raises(SystemExit):  # other annotations, so another cache
            main(words(url, str(world), tmp_path / "cache"))
    finally:
        (world / "own.csv").write_text(text)
    assert server.requests.count("GET own.csv") == 2


def test_images_in_a_bucket_give_the_bytes_of_local_ones(
    bucket: str, world: Path, finished: dict[str, bytes], tmp_path: Path
) -> None:
    S3FileSystem().put(f"{world}/", f"{bucket.removeprefix('s3://')}/world", recursive=True)
    url = f"{bucket}/world"
    main(words(f"{url}/own.csv", url, tmp_path / "cache"))
    assert tree(tmp_path / "cache") == finished


def test_a_missing_image_is_left_out_and_a_stumbling_server_is_asked_again(
    server: Server, tmp_path: Path
) -> None:
    server.status_of = {"photo #1.png": [404], "photo #2.png": [503, 500]}
    cache = tmp_path / "cache"
    main(words(f"{server.url}/own.csv", server.url, cache, "--max_quarantined_share", "0.5"))
    (line,) = (cache / "quarantine.jsonl").read_text().splitlines()
    assert '"file_name":"photo #1.png"' in line
    assert '"reason":"does not exist"' in line
    assert server.requests.count("GET photo #2.png") == 3


@pytest.mark.parametrize(
    ("statuses", "message"),
    [
        ([503] * 50, "the server does not answer (ClientResponseError: 503"),
        ([403], "access was refused (ClientResponseError: 403"),
    ],
)
def test_an_outage_stops_the_run_and_quarantines_nothing(
    statuses: list[int],
    message: str,
    server: Server,
    finished: dict[str, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.status_of = {"photo #4.png": statuses}
    arguments = words(f"{server.url}/own.csv", server.url, tmp_path / "cache")
    with pytest.raises(SystemExit) as exit_info:
        main([*arguments, "--max_quarantined_share", "1"])
    assert exit_info.value.code == 2
    errors = capsys.readouterr().err
    assert f"error: {server.url}/photo #4.png: {message}" in errors
    there = tree(tmp_path / "cache")
    assert "quarantine.jsonl" not in there
    assert "shards/000001.json" not in there
    server.status_of = {}
    main(arguments)
    assert tree(tmp_path / "cache") == finished


def test_a_bucket_that_vanishes_quarantines_nothing(
    bucket: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = words(str(world / "own.csv"), "s3://bucket-that-is-gone/world", tmp_path / "cache")
    with pytest.raises(SystemExit) as exit_info:
        main([*arguments, "--max_quarantined_share", "1"])
    assert exit_info.value.code == 2
    assert "there is no such bucket" in capsys.readouterr().err
    assert not (tmp_path / "cache" / "quarantine.jsonl").exists()


def test_missing_annotations_are_told(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(words(f"{server.url}/other.csv", server.url, tmp_path / "cache"))
    assert exit_info.value.code == 2
    assert f"error: {server.url}/other.csv does not exist" in capsys.readouterr().err
