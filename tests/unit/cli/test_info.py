"""``regionspot info``: the numbers of small genuine caches, heads and runs, known beforehand."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regionspot.cli.main import main
from regionspot.model import (
    FusionHead,
    HeadCard,
    HeadSpec,
    RegionClassifier,
    TrainedHead,
    save_trained_head,
)

MakeCache = Callable[..., Path]


@pytest.fixture
def head_dir(tmp_path: Path) -> Path:
    spec = HeadSpec(token_dim=8, feature_dim=16, text_dim=6, num_blocks=2, num_heads=4, ffn_dim=32)
    card = HeadCard(
        head=spec,
        scale=20.0,
        bias=-1.5,
        vocabulary=("lemon", "sea egg"),
        templates="single",
        training={"steps": 12, "caches": ["mine"]},
    )
    trained = TrainedHead(head=FusionHead(spec), classifier=RegionClassifier(20.0, -1.5), card=card)
    save_trained_head(tmp_path / "run" / "head", trained)
    return tmp_path / "run" / "head"


def infos(text: str) -> list[dict[str, Any]]:
    found, decoder = [], json.JSONDecoder()
    while text.strip():
        value, end = decoder.raw_decode(text.lstrip())
        found.append(value)
        text = text.lstrip()[end:]
    return found


def test_a_cache_is_described(make_cache: MakeCache, capsys: pytest.CaptureFixture[str]) -> None:
    cache = make_cache(num_images=7, empty=[0])
    main(["info", "--json", str(cache)])
    (info,) = infos(capsys.readouterr().out)
    assert (info["path"], info["kind"]) == (str(cache), "cache")
    assert info["num_images"] == 7
    assert info["num_regions"] == 2 + 3 + 4 + 1 + 2 + 3
    assert info["names"] == ["lemon", "tennis ball", "sea egg"]
    assert info["models"] == "SAM tiny at 64 px, CLIP tiny at 32 px"
    assert info["num_bytes"] == sum(f.stat().st_size for f in cache.rglob("*") if f.is_file())
    main(["info", str(cache)])
    text = capsys.readouterr().out
    assert text.startswith(f"{cache}: cache\n")
    assert "lemon, tennis ball, sea egg" in text


def test_caches_of_the_same_models_have_the_same_fingerprint(
    make_cache: MakeCache, capsys: pytest.CaptureFixture[str]
) -> None:
    caches = [make_cache("a"), make_cache("b", seed=1), make_cache("c", clip_model="other")]
    main(["info", "--json", *map(str, caches)])
    first, second, other = (info["fingerprint"] for info in infos(capsys.readouterr().out))
    assert first == second != other


def test_a_head_is_described(head_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = head_dir / "head.safetensors"
    for path in (head_dir, head_dir.parent, weights):
        main(["info", "--json", str(path)])
        (info,) = infos(capsys.readouterr().out)
        assert (info["path"], info["kind"]) == (str(weights), "head")
        assert info["widths"] == {"token": 8, "feature": 16, "text": 6, "ffn": 32}
        assert (info["num_blocks"], info["num_heads"], info["bias"]) == (2, 4, -1.5)
        assert info["training"] == {"steps": 12, "caches": ["mine"]}
        assert info["models"] is None
        assert info["num_bytes"] == weights.stat().st_size


def test_a_run_is_described_with_its_head(
    head_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = head_dir.parent
    (run / "config.yaml").write_text("seed_everything: 0\n")
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").write_bytes(b"12345")
    main(["info", "--json", str(run)])
    unfinished, head = infos(capsys.readouterr().out)
    assert (unfinished["kind"], head["kind"]) == ("run", "head")
    assert (unfinished["is_finished"], unfinished["checkpoints"]) == (False, ["last.ckpt"])
    (run / "summary.json").write_text('{"steps": 12, "AP": 55.5}')
    main(["info", str(run)])
    text = capsys.readouterr().out
    assert "  AP           55.5\n" in text
    assert "  is finished  yes\n" in text


def test_an_evaluation_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {
        "schema_version": 1,
        "methods": {"fusion_head": {"AP": 90.5, "APr": None, "AR": 1.0, "top1_accuracy": 70.0}},
        "metric": "coco",
        "data": {"name": "mine", "num_images": 3},
    }
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    main(["info", "--json", str(tmp_path)])
    (info,) = infos(capsys.readouterr().out)
    assert info["kind"] == "evaluation"
    assert info["figures"] == {"fusion_head": {"AP": 90.5, "top1_accuracy": 70.0}}
    assert info["data"]["num_images"] == 3
    main(["info", str(tmp_path)])
    assert "    fusion_head: AP 90.5, top1_accuracy 70\n" in capsys.readouterr().out


def test_what_is_nothing_or_damaged_exits_with_2_and_the_rest_is_described(
    make_cache: MakeCache, head_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(head_dir, damaged)
    data = bytearray((damaged / "head.safetensors").read_bytes())
    data[-1] ^= 1
    (damaged / "head.safetensors").write_bytes(data)
    with pytest.raises(SystemExit) as exit_info:
        main(["info", "--json", str(tmp_path), str(damaged), str(head_dir)])
    assert exit_info.value.code == 2
    captured = capsys.readouterr()
    assert [info["kind"] for info in infos(captured.out)] == ["head"]
    errors = captured.err.splitlines()
    assert f"no cache, head, checkpoint, run or evaluation at {tmp_path}" in errors[0]
    assert "damaged/head.safetensors" in errors[1]
