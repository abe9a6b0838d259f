"""Heads on the Hub, which a server on this machine stands in for.

It speaks the few endpoints that the Hub's own client uses, and stores what is uploaded.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants
from numpy.typing import NDArray
from typing_extensions import override

from regionspot.cli.main import main
from regionspot.core.errors import ConfigError, MissingFileError, WeightsError
from regionspot.inference import RegionSpot
from regionspot.model import TrainedHead, load_trained_head
from regionspot.storage import StorageError

Pixels = NDArray[np.uint8]
COMMIT = "c" * 40
API = "/api/models/owner/head"


class Hub:
    """Repositories in memory: files by name, all in one commit."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.tokens: set[str | None] = set()
        self.url = ""

    def get(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        if re.fullmatch(f"{API}(/revision/(main|v1|{COMMIT}))?", path):
            siblings = [{"rfilename": name} for name in self.files]
            return answer({"id": "owner/head", "sha": COMMIT, "siblings": siblings})
        if path.startswith(f"{API}/tree/"):
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": etag_of(data)}
                for name, data in self.files.items()
            ]
            return answer(entries)
        found = re.fullmatch(rf"/owner/head/resolve/{COMMIT}/(.+)", path)
        if found and found[1] in self.files:
            data = self.files[found[1]]
            return 200, data, {"ETag": f'"{etag_of(data)}"', "X-Repo-Commit": COMMIT}
        if path.startswith("/api/models/owner/secret"):
            return 403, b"", {"X-Error-Message": "forbidden"}
        if path.startswith(f"{API}/revision/"):
            return 404, b"", {"X-Error-Code": "RevisionNotFound"}
        return 404, b"", {"X-Error-Code": "RepoNotFound"}

    def post(self, path: str, content: bytes) -> tuple[int, bytes, dict[str, str]]:
        if path == "/api/repos/create":
            return answer({"url": f"{self.url}/owner/head"})
        if path == "/api/validate-yaml":
            return answer({"errors": [], "warnings": []})
        if path == f"{API}/preupload/main":
            files = json.loads(content)["files"]
            modes = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in files
            ]
            return answer({"files": modes})
        if path == f"{API}/commit/main":
            for line in map(json.loads, content.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return answer(
                {
                    "success": True,
                    "commitOid": COMMIT,
                    "commitUrl": f"{self.url}/owner/head/commit/{COMMIT}",
                }
            )
        return 404, b"", {}


def etag_of(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def answer(content: Any) -> tuple[int, bytes, dict[str, str]]:
    return 200, json.dumps(content).encode(), {"Content-Type": "application/json"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()

    class Requests(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(*hub.get(self.path.partition("?")[0]))

        def do_HEAD(self) -> None:
            self._answer(*hub.get(self.path.partition("?")[0]))

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._answer(*hub.post(self.path.partition("?")[0], content))

        def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            hub.tokens.add(self.headers.get("Authorization"))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        @override
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        hub.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield hub
    huggingface_hub.close_session()
    server.shutdown()
    server.server_close()


def test_a_head_that_was_uploaded_is_downloaded_and_answers_as_before(
    hub: Hub,
    model: RegionSpot,
    pixels: Pixels,
    boxes: NDArray[np.float32],
    tmp_path: Path,
) -> None:
    url = model.push_to_hub("owner/head", token="hf_secret", weights_license="mit")  # noqa: S106
    assert url == f"{hub.url}/owner/head/commit/{COMMIT}"
    assert sorted(hub.files) == ["README.md", "head.json", "head.safetensors"]
    assert 'from_pretrained("hf://owner/head")' in hub.files["README.md"].decode()
    assert "Bearer hf_secret" in hub.tokens
    hub.files["pytorch_model.bin"] = b"a pickle"
    loaded = RegionSpot.from_pretrained("hf://owner/head", device="cpu", cache_dir=tmp_path)
    ours = loaded.recognize(pixels, boxes, top_k=4)
    theirs = model.recognize(pixels, boxes, top_k=4)
    np.testing.assert_array_equal(ours.top_scores, theirs.top_scores)
    assert not list(tmp_path.rglob("*.bin"))
    asked = len(hub.requests)
    again = RegionSpot.from_pretrained(
        "hf://owner/head", device="cpu", cache_dir=tmp_path, local_files_only=True
    )
    assert again.vocabulary == model.vocabulary
    assert len(hub.requests) == asked


def test_a_revision_may_be_chosen_and_damage_is_detected(
    hub: Hub, model: RegionSpot, tmp_path: Path
) -> None:
    model.push_to_hub("owner/head", token="hf_secret")  # noqa: S106
    options: dict[str, Any] = {"device": "cpu", "cache_dir": tmp_path}
    tagged = RegionSpot.from_pretrained("hf://owner/head", revision="v1", **options)
    assert tagged.vocabulary == model.vocabulary
    with pytest.raises(MissingFileError, match="no such revision"):
        RegionSpot.from_pretrained("hf://owner/head", revision="v2", **options)
    weights = bytearray(hub.files["head.safetensors"])
    weights[-1] ^= 1
    hub.files["head.safetensors"] = bytes(weights)
    with pytest.raises(WeightsError, match="is damaged"):
        RegionSpot.from_pretrained("hf://owner/head", device="cpu", cache_dir=tmp_path / "other")


def test_commands_take_a_head_from_the_hub(
    hub: Hub,
    model: RegionSpot,
    trained_head: TrainedHead,
    picture_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", tmp_path / "downloads")
    model.push_to_hub("owner/head", token="hf_secret")  # noqa: S106
    assert load_trained_head("hf://owner/head").sha256 == trained_head.sha256
    model.save_pretrained(tmp_path / "head")
    printed = []
    for name in ("hf://owner/head", str(tmp_path / "head")):
        image = [str(picture_path), "--boxes", "16,20,57,61", "--device", "cpu"]
        main(["recognize", "--model", name, *image])
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    with pytest.raises(SystemExit):
        main(["export", "hf://owner/nothing", "--output", str(tmp_path / "head.onnx")])
    assert "the Hub has no hf://owner/nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("hf://owner/nothing", {}, MissingFileError, "the Hub has no hf://owner/nothing"),
        ("hf://owner/secret", {}, StorageError, "hf://owner/secret cannot be downloaded .*403"),
        ("hf://a/b/c", {}, ConfigError, "hf://a/b/c is no name on the Hub"),
        (
            "hf://owner/head",
            {"local_files_only": True},
            MissingFileError,
            "was not downloaded before",
        ),
        ("runs/head", {"revision": "v1"}, ConfigError, "is a local path.*give hf://owner/name"),
        ("runs/head", {}, MissingFileError, "no trained head at"),
    ],
)
def test_a_head_that_cannot_be_had_is_explained(
    hub: Hub,
    tmp_path: Path,
    name: str,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    if name.startswith("hf://"):
        options = {"cache_dir": tmp_path, **options}
    with pytest.raises(error, match=message):
        RegionSpot.from_pretrained(name, device="cpu", **options)
