"""``regionspot verify``: one command for caches, heads, checkpoints and whole runs."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.files import flip_bit
from regionspot.cache import FeatureCache, TextBankStore
from regionspot.cli.main import main
from regionspot.core.vocabulary import Vocabulary
from regionspot.model import (
    CHECKPOINT_CARD_KEY,
    FusionHead,
    HeadCard,
    HeadSpec,
    RegionClassifier,
    TrainedHead,
    save_trained_head,
    write_checkpoint,
)

MakeCache = Callable[..., Path]
Capture = pytest.CaptureFixture[str]
SPEC = HeadSpec(token_dim=6, feature_dim=8, text_dim=4, num_blocks=1, num_heads=2, ffn_dim=12)


def write_run(run: Path) -> None:
    """What a training leaves, as far as it is verified."""
    card = HeadCard(head=SPEC, scale=20.0, bias=-8.0)
    head, classifier = FusionHead(SPEC), RegionClassifier(20.0, -8.0)
    save_trained_head(run / "head", TrainedHead(head=head, classifier=classifier, card=card))
    state = {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    state |= {f"classifier.{n}": t for n, t in classifier.state_dict().items()}
    for name in ("best", "last"):
        content = {"state_dict": state, CHECKPOINT_CARD_KEY: card.to_json()}
        write_checkpoint(run / "checkpoints" / f"{name}.ckpt", content)


def exit_code(*words: str) -> int:
    try:
        main(["verify", *words])
    except SystemExit as end:
        return int(str(end.code))
    return 0


def test_what_is_whole_is_called_whole_whatever_it_is(
    make_cache: MakeCache, tmp_path: Path, capsys: Capture
) -> None:
    cache, run = make_cache(), tmp_path / "run"
    write_run(run)
    parts = ["head/head.safetensors", "checkpoints/best.ckpt", "checkpoints/last.ckpt"]
    of_run = [str(run / part) for part in parts]
    for path, found in (
        (cache, [str(cache)]),
        (run, of_run),
        (run / "head", of_run[:1]),
        (run / "head" / "head.safetensors", of_run[:1]),
        (run / "checkpoints" / "last.ckpt", of_run[2:]),
    ):
        assert exit_code(str(path)) == 0
        assert capsys.readouterr().out.splitlines() == [f"{one}: whole" for one in found]


@pytest.mark.parametrize(
    "name",
    ["head/head.safetensors", "head/head.json", "checkpoints/best.ckpt", "checkpoints/last.ckpt"],
)
def test_one_flipped_bit_anywhere_in_a_run_is_named_and_the_exit_code_is_1(
    name: str, make_cache: MakeCache, tmp_path: Path, capsys: Capture
) -> None:
    run = tmp_path / "run"
    write_run(run)
    flip_bit(run / name, 300)
    assert exit_code(str(run), str(make_cache())) == 1
    problem, header, *rows = capsys.readouterr().out.splitlines()
    assert str(run / name) in problem
    assert header.split() == ["path", "problems", "damaged", "shards", "verdict"]
    assert [row.split()[-1] for row in rows].count("damaged") == 1
    assert len(rows) == 4


def test_the_text_bank_of_a_head_is_verified_with_it(
    make_cache: MakeCache, tmp_path: Path, capsys: Capture
) -> None:
    fingerprint = FeatureCache.open(make_cache()).manifest.fingerprint
    card = HeadCard(head=SPEC, scale=20.0, bias=-8.0, fingerprint=fingerprint.to_dict())
    head, classifier = FusionHead(SPEC), RegionClassifier(20.0, -8.0)
    folder = tmp_path / "head"
    save_trained_head(folder, TrainedHead(head=head, classifier=classifier, card=card))
    bank = folder / "text_banks.h5"
    for clip_sha256, problem in (
        (fingerprint.text_encoder_sha256, None),
        ("0" * 64, "Embeddings of two CLIPs cannot be compared"),
    ):
        bank.unlink(missing_ok=True)
        TextBankStore(bank).put(
            Vocabulary(("lemon", "sea egg")),
            np.eye(2, 4, dtype=np.float32),
            templates="single",
            clip_sha256=clip_sha256,
        )
        assert exit_code(str(folder)) == (0 if problem is None else 1)
        assert (problem or "head.safetensors: whole") in capsys.readouterr().out
    flip_bit(bank, 800)
    assert exit_code(str(folder)) == 1
    printed = capsys.readouterr().out
    assert f"{bank} is damaged or was edited" in printed
    assert "Copy it again from the run that wrote it, or remove it" in printed


def test_json_tells_a_script_the_same(
    make_cache: MakeCache, tmp_path: Path, capsys: Capture
) -> None:
    run, cache = tmp_path / "run", make_cache()
    write_run(run)
    last = run / "checkpoints" / "last.ckpt"
    flip_bit(last, 700)
    assert exit_code("--json", str(cache), str(last)) == 1
    text = capsys.readouterr().out
    first, end = json.JSONDecoder().raw_decode(text)
    second = json.loads(text[end:])
    assert first == {"path": str(cache), "kind": "cache", "is_whole": True, "problems": []}
    (problem,) = second.pop("problems")
    assert second == {"path": str(last), "kind": "checkpoint", "is_whole": False}
    assert problem["message"].startswith(f"{last} is not a whole checkpoint")
    assert set(problem) == {"message", "shard", "key", "member", "offset"}


def test_weights_that_are_nan_are_a_problem(tmp_path: Path, capsys: Capture) -> None:
    write_run(tmp_path)
    head = FusionHead(SPEC)
    torch.nn.init.constant_(head.projector.weight, torch.nan)
    card = HeadCard(head=SPEC, scale=20.0, bias=-8.0)
    trained = TrainedHead(head=head, classifier=RegionClassifier(20.0, -8.0), card=card)
    save_trained_head(tmp_path / "head", trained)
    assert exit_code(str(tmp_path / "head")) == 1
    assert "NaN or infinite values" in capsys.readouterr().out


def test_what_is_neither_exits_with_2_and_does_not_keep_from_the_others(
    make_cache: MakeCache, tmp_path: Path, capsys: Capture
) -> None:
    empty, cache = tmp_path / "empty", make_cache()
    empty.mkdir()
    (tmp_path / "notes.txt").touch()
    for path in (empty, tmp_path / "notes.txt", tmp_path / "nothing.ckpt"):
        assert exit_code(str(path), str(cache)) == 2
        out, err = capsys.readouterr()
        assert f"there is no cache, region index, head or checkpoint at {path}" in err
        assert str(cache) in out
