"""``regionspot index`` and ``regionspot search`` on a cache of the toy towers."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from helpers.files import flip_bit
from helpers.format3 import as_format3
from helpers.heads import random_head
from helpers.worlds import cache_options, write_world
from regionspot.backbones import FrozenModels, ModelsConfig, load_frozen_models
from regionspot.cli.main import main
from regionspot.model import save_trained_head

NUM_IMAGES = 7


@pytest.fixture(scope="module")
def models() -> FrozenModels:
    torch.set_num_threads(1)
    return load_frozen_models(ModelsConfig(preset="toy"))


@pytest.fixture(scope="module")
def made(models: FrozenModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``cache``, its ``cache.index``, ``head`` and ``other_head``."""
    folder = write_world(tmp_path_factory.mktemp("world"), NUM_IMAGES)
    main(["cache", *cache_options(folder / "own.csv", folder, folder / "cache")])
    for name, seed in (("head", 1), ("other_head", 2)):
        save_trained_head(folder / name, random_head(models, seed=seed, templates="single"))
    main(["index", f"{folder}/cache", "--head", f"{folder}/head", "--device", "cpu"])
    return folder


@pytest.fixture
def search(made: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs the command and returns what it prints."""

    def run(*words: object) -> str:
        capsys.readouterr()
        main(["search", *map(str, words), "--device", "cpu"])
        return capsys.readouterr().out

    return run


@pytest.fixture
def refused(search: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs the command, which must fail, and returns the message."""

    def run(*words: object) -> str:
        with pytest.raises(SystemExit) as exit_info:
            search(*words)
        assert exit_info.value.code == 2
        return capsys.readouterr().err

    return run


def test_table_and_json_list_the_same_regions(made: Path, search: Callable[..., str]) -> None:
    lines = search(made / "cache", "sea egg", "--top", 3).splitlines()
    found = json.loads(search(made / "cache", "sea egg", "--top", 3, "--json"))
    assert lines[0].split() == ["rank", "region", "score", "x1", "y1", "x2", "y2", "label"]
    assert len(lines) == 4
    for rank, (line, hit) in enumerate(zip(lines[1:], found, strict=True), start=1):
        box = [f"{value:.0f}" for value in hit["box_xyxy"]]
        name, score = f"{hit['key']}:{hit['region']}", f"{hit['confidence']:.3f}"
        assert line.split() == [str(rank), name, score, *box, *hit["label"].split()]
        assert hit["file_name"] == f"{hit['image_id']}.png"


def test_an_index_alone_the_cache_and_a_temporary_index_answer_alike(
    made: Path, search: Callable[..., str], tmp_path: Path
) -> None:
    wanted = search(made / "cache", "sea egg")
    assert search(made / "cache.index", "sea egg") == wanted
    assert search(made / "cache.index", "sea egg", "--head", made / "head") == wanted
    (tmp_path / "elsewhere").symlink_to(made / "cache")  # without an index beside it
    assert search(tmp_path / "elsewhere", "sea egg", "--head", made / "head") == wanted
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere"]
    index = made / "cache.index"
    assert search(tmp_path / "elsewhere", "sea egg", "--index", index) == wanted


def test_regions_like_one_and_filters(made: Path, search: Callable[..., str]) -> None:
    everything = json.loads(search(made / "cache", "--like", "3-2epng:0", "--top", 99, "--json"))
    assert len(everything) == NUM_IMAGES - 1
    assert all(hit["confidence"] is None for hit in everything)
    least = everything[2]["cosine"]
    more = ("--not_labelled", "class 0", "--images", "0-2epng,1-2epng,5-2epng")
    some = json.loads(
        search(made / "cache", "--like", "3-2epng:0", "--json", *more, "--min_score", least)
    )
    assert some == [
        hit for hit in everything[:3] if hit["label"] == "class 1" and hit["image_id"] in {0, 1, 5}
    ]
    assert "no regions found" in search(made / "cache", "sea egg", "--min_score", "1")


def test_the_contact_sheet_shows_the_hits_in_order(
    made: Path, search: Callable[..., str], tmp_path: Path
) -> None:
    comment = ""
    for name in ("top.png", "top.jpg"):
        path = tmp_path / "new" / name
        out = search(made / "cache", "sea egg", "--top", 6, "--save", path, "--images_dir", made)
        assert f"picture: {path}" in out
        with Image.open(io.BytesIO(path.read_bytes())) as sheet:
            assert sheet.format == {".png": "PNG", ".jpg": "JPEG"}[path.suffix]
            assert sheet.height > 2 * (1400 / 5 - 32)  # two rows
            comment = sheet.info.get("comment", b"").decode()
    hits = json.loads(search(made / "cache", "sea egg", "--top", 6, "--json"))
    titles = [f"{rank}: {hit['confidence']:.3f}" for rank, hit in enumerate(hits, start=1)]
    assert comment.splitlines()[::2] == titles


def test_images_of_other_names_than_their_keys_are_found_by_the_stored_names(
    made: Path, search: Callable[..., str], refused: Callable[..., str], tmp_path: Path
) -> None:
    images = [
        {"id": 7 - number, "file_name": f"{number}.png", "height": 30, "width": 40}
        for number in range(2)
    ]
    boxes = [
        {"id": one["id"], "image_id": one["id"], "category_id": 1, "bbox": [1, 2, 8, 18]}
        for one in images
    ]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "own.json").write_text(json.dumps(content))
    options = cache_options(tmp_path / "own.json", made, tmp_path / "cache")
    main(["cache", *options, "--annotations.format", "coco"])
    words = ("sea egg", "--head", made / "head", "--json")
    saving = ("--save", tmp_path / "top.png", "--images_dir", made)
    hits = json.loads(search(tmp_path / "cache", *words, *saving))
    assert {hit["image_id"]: hit["file_name"] for hit in hits} == {7: "0.png", 6: "1.png"}
    assert (tmp_path / "top.png").is_file()
    older = as_format3(tmp_path / "cache", tmp_path / "older")
    assert {hit["file_name"] for hit in json.loads(search(older, *words))} == {None}
    assert "lacks 2 of 2 images" in refused(older, *words, *saving)


def test_faiss_finds_what_exact_search_finds_if_it_looks_everywhere(
    made: Path,
    search: Callable[..., str],
    refused: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["index", f"{made}/cache", "--head", f"{made}/head", "--device", "cpu"]
    assert "--faiss" in refused(made / "cache", "sea egg", "--backend", "faiss")
    main([*words, "--output", f"{tmp_path}/index", "--faiss", "IVF2,SQfp16"])
    wanted = json.loads(search(made / "cache", "sea egg", "--json"))
    found = json.loads(search(tmp_path / "index", "sea egg", "--json", "--backend", "faiss"))
    assert [hit["key"] for hit in found] == [hit["key"] for hit in wanted]
    assert [hit["cosine"] for hit in found] == pytest.approx([hit["cosine"] for hit in wanted])
    assert "--backend exact" in refused(
        tmp_path / "index", "sea egg", "--backend", "faiss", "--images", "0-2epng"
    )
    flip_bit(tmp_path / "index" / "faiss.index", 1000)
    assert "damaged" in refused(tmp_path / "index", "sea egg", "--backend", "faiss")
    for factory, message in [("IVF999,Flat", "fewer clusters"), ("Nothing", "factory strings")]:
        with pytest.raises(SystemExit):
            main([*words, "--faiss", factory])
        assert message in capsys.readouterr().err


def test_mistakes_are_explained(made: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    cache = made / "cache"
    for words, message in [
        ((cache,), "found neither"),
        ((cache, "sea egg", "--like", "3-2epng:0"), "found both"),
        ((cache, "--like", "3-2epng"), "KEY:REGION"),
        ((cache, "a red lantern"), "'lantern'"),
        ((cache, "sea egg", "--save", "top.png"), "--images_dir"),
        ((cache, "sea egg", "--save", "top.webp", "--images_dir", made), ".png or .jpg"),
        (
            (cache, "sea egg", "--save", tmp_path / "a.png", "--images_dir", tmp_path),
            "lacks 7 of 7 images",
        ),
        ((cache, "sea egg", "--templates", "all"), "all"),
        ((cache, "sea egg", "--head", made / "other_head"), "another head"),
        ((cache, "sea egg", "--index", tmp_path), f"--output {tmp_path}"),
        ((made / "nowhere", "sea egg"), "no feature cache"),
        (("s3://bucket/cache", "sea egg"), "s3://bucket/cache"),
    ]:
        assert message in refused(*words), words
    (tmp_path / "elsewhere").symlink_to(cache)
    message = refused(tmp_path / "elsewhere", "sea egg")
    assert f"regionspot index {tmp_path}/elsewhere --head" in message


def test_the_page_shows_what_works(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(__file__).parents[2] / "docs" / "search.md"
    (code,) = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)
    (tmp_path / "runs" / "quickstart" / "cache").mkdir(parents=True)
    (tmp_path / "runs" / "quickstart" / "cache" / "val.index").symlink_to(made / "cache.index")
    monkeypatch.chdir(tmp_path)
    # Here are other classes than those of the quickstart.
    names: dict[str, Any] = {}
    exec(code.replace('not_labelled=["sea egg"]', 'not_labelled=["class 0"]'), names)  # noqa: S102
    assert len(names["hits"]) == len(names["neighbours"]) == 5
    assert {hit.label for hit in names["suspects"]} == {"class 1"}


def test_verify_reports_damage_of_an_index(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["verify", str(made / "cache.index")])
    assert "whole" in capsys.readouterr().out
    path = made / "cache.index" / "parts" / "000001.npy"
    content = path.read_bytes()
    flip_bit(path, 200)
    with pytest.raises(SystemExit) as exit_info:
        main(["verify", str(made / "cache.index")])
    assert exit_info.value.code == 1
    assert "000001.npy is damaged" in capsys.readouterr().out
    path.write_bytes(content)
