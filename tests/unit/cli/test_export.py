"""``regionspot export`` of a head, and what it refuses before it loads anything."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from regionspot.cli.main import main
from regionspot.inference import head_program
from regionspot.model import (
    FusionHead,
    HeadCard,
    HeadSpec,
    RegionClassifier,
    TrainedHead,
    load_trained_head,
    save_trained_head,
)

SPEC = HeadSpec(token_dim=4, feature_dim=8, text_dim=6, num_heads=2, num_blocks=1, ffn_dim=8)


@pytest.fixture
def head_folder(tmp_path: Path) -> Path:
    """A random head that knows that a feature map has 5 tokens."""
    card = HeadCard(head=SPEC, scale=20.0, bias=-1.0, fingerprint={"num_feature_tokens": 5})
    head = TrainedHead(head=FusionHead(SPEC), classifier=RegionClassifier(20.0, -1.0), card=card)
    save_trained_head(tmp_path / "head", head)
    return tmp_path / "head"


def error_of(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as exit_info:
        main(["export", *words])
    assert exit_info.value.code == 2
    return capsys.readouterr().err


def test_a_head_becomes_one_checked_file_with_its_card(head_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "head.onnx"
    main(["export", str(head_folder), "--output", str(path)])
    onnx.checker.check_model(str(path), full_check=True)
    metadata = {one.key: one.value for one in onnx.load(path).metadata_props}
    card = HeadCard.from_json(metadata["regionspot_head_card"], where=str(path))
    assert card == load_trained_head(head_folder).card
    assert str(Path(__file__).parents[3]).encode() not in path.read_bytes()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs = {
        "position_tokens": np.ones((1, 2, 4), np.float32),
        "feature_map": np.ones((1, 5, 8), np.float32),
        "region_mask": np.ones((1, 2), np.bool_),
        "text": np.eye(3, 6, dtype=np.float32),
    }
    logits, probabilities, _ = session.run(None, inputs)
    with torch.no_grad():
        module = head_program(load_trained_head(head_folder), 5).module
        eager = module(*map(torch.from_numpy, inputs.values()))
    np.testing.assert_allclose(logits, eager[0].numpy(), atol=1e-4)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    np.testing.assert_allclose(probabilities, powers / powers.sum(-1, keepdims=True), atol=1e-6)
    assert [one.name for one in path.parent.iterdir()] == ["head.onnx"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "head.pt"], "wanted a file name that ends in .onnx for the head"),
        (["--output", "folder"], "or --chain true, which writes a folder"),
        (["--chain", "true"], "--chain true --output head.onnx: wanted the name of a folder"),
        (["--vocabulary", "cat, dog"], "--vocabulary: the head alone holds neither names"),
        (["--output", "a.npz", "--templates", "many"], "many"),
        (["--output", "a.npz", "--vocabulary", "missing.txt"], "no vocabulary file at missing.txt"),
        ([], "no trained head at nowhere"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in error_of(capsys, "nowhere", *words)


def test_a_head_of_an_unknown_clip_is_refused(
    head_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = load_trained_head(head_folder)
    save_trained_head(head_folder, replace(head, card=replace(head.card, fingerprint={})))
    path = tmp_path / "head.onnx"
    message = error_of(capsys, str(head_folder), "--output", str(path))
    assert "regionspot convert released.pth heads/bl --models.preset bl" in message
    assert not path.exists()


def test_a_missing_package_is_named_with_its_extra(
    head_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    message = error_of(capsys, str(head_folder))
    assert 'pip install "regionspot[onnx]"' in message
