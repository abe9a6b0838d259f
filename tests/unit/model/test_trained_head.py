import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from regionspot.core.errors import MissingFileError, WeightsError
from regionspot.core.files import canonical_json
from regionspot.model import (
    CHECKPOINT_CARD_KEY,
    FusionHead,
    HeadCard,
    HeadSpec,
    RegionClassifier,
    TrainedHead,
    load_trained_head,
    save_trained_head,
)

SPEC = HeadSpec(token_dim=6, feature_dim=8, text_dim=4, num_blocks=1, num_heads=2, ffn_dim=12)


@pytest.fixture
def trained() -> TrainedHead:
    torch.manual_seed(0)
    card = HeadCard(
        head=SPEC,
        scale=20.0,
        bias=-8.0,
        fingerprint={"sam_model": "tiny", "clip_mean": [0.5, 0.5, 0.5]},
        vocabulary=("lemon", "caf\u00e9 table"),
        templates="single",
        library_version="0.1",
        training={"steps": 3},
    )
    return TrainedHead(head=FusionHead(SPEC), classifier=RegionClassifier(20.0, -8.0), card=card)


def assert_same(found: TrainedHead, wanted: TrainedHead) -> None:
    assert found.card == wanted.card
    for name, tensor in wanted.head.state_dict().items():
        assert found.head.state_dict()[name].equal(tensor), name
    for name, tensor in wanted.classifier.state_dict().items():
        assert found.classifier.state_dict()[name].equal(tensor), name
    assert not found.head.training


def write_checkpoint(path: Path, trained: TrainedHead) -> None:
    state = {f"head.{name}": tensor for name, tensor in trained.head.state_dict().items()}
    state |= {f"classifier.{n}": t for n, t in trained.classifier.state_dict().items()}
    torch.save({"state_dict": state, CHECKPOINT_CARD_KEY: trained.card.to_json()}, path)


def test_a_saved_head_comes_back(tmp_path: Path, trained: TrainedHead) -> None:
    save_trained_head(tmp_path / "run" / "head", trained)
    assert_same(load_trained_head(tmp_path / "run" / "head"), trained)
    assert_same(load_trained_head(tmp_path / "run"), trained)
    assert_same(load_trained_head(str(tmp_path / "run" / "head" / "head.safetensors")), trained)


def test_a_checkpoint_gives_the_same_head(tmp_path: Path, trained: TrainedHead) -> None:
    write_checkpoint(tmp_path / "last.ckpt", trained)
    assert_same(load_trained_head(tmp_path / "last.ckpt"), trained)


def test_the_files_are_readable_without_this_library(tmp_path: Path, trained: TrainedHead) -> None:
    save_trained_head(tmp_path, trained)
    tensors = safetensors.torch.load_file(tmp_path / "head.safetensors")
    assert set(tensors) == {
        *trained.head.state_dict(),
        "classifier.log_scale",
        "classifier.bias",
    }
    card = json.loads((tmp_path / "head.json").read_text(encoding="utf-8"))
    assert card["vocabulary"] == ["lemon", "caf\u00e9 table"]
    assert card["head"]["feature_dim"] == 8


def test_saving_twice_gives_the_same_bytes(tmp_path: Path, trained: TrainedHead) -> None:
    for name in ("a", "b"):
        save_trained_head(tmp_path / name, trained)
    for file in ("head.safetensors", "head.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_weights_of_another_head_are_refused_by_name(tmp_path: Path, trained: TrainedHead) -> None:
    card = replace(trained.card, head=replace(SPEC, num_blocks=2))
    save_trained_head(
        tmp_path, TrainedHead(head=trained.head, classifier=trained.classifier, card=card)
    )
    with pytest.raises(WeightsError, match=r"18 tensors differ.*missing decoder\.layers\.1"):
        load_trained_head(tmp_path)
    card = replace(trained.card, head=replace(SPEC, text_dim=5))
    save_trained_head(
        tmp_path, TrainedHead(head=trained.head, classifier=trained.classifier, card=card)
    )
    with pytest.raises(WeightsError, match=r"projector\.weight \(4, 8\) instead of \(5, 8\)"):
        load_trained_head(tmp_path)


def test_a_run_whose_head_was_removed_is_told_where_it_was_and_how_to_make_it_again(
    tmp_path: Path,
) -> None:
    with pytest.raises(MissingFileError) as error:
        load_trained_head(tmp_path)
    for told in (f"{tmp_path}/head/head.safetensors", f"{tmp_path}/head.safetensors", "--fresh"):
        assert told in str(error.value)


def test_missing_files_are_named(tmp_path: Path, trained: TrainedHead) -> None:
    with pytest.raises(MissingFileError, match="no trained head at .*nowhere"):
        load_trained_head(tmp_path / "nowhere")
    save_trained_head(tmp_path, trained)
    (tmp_path / "head.json").unlink()
    with pytest.raises(MissingFileError, match=r"head\.json is missing"):
        load_trained_head(tmp_path)


def without_seal(folder: Path) -> None:
    """Make the card what versions before seals wrote."""
    path = folder / "head.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    del card["sha256"], card["weights_sha256"]
    path.write_text(canonical_json(card) + "\n", encoding="utf-8")


def test_a_cut_file_is_refused(tmp_path: Path, trained: TrainedHead) -> None:
    save_trained_head(tmp_path, trained)
    path = tmp_path / "head.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(WeightsError, match=r"head\.safetensors is damaged"):
        load_trained_head(tmp_path)
    without_seal(tmp_path)
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        load_trained_head(tmp_path)


def test_the_card_names_the_sha256_of_both_files(tmp_path: Path, trained: TrainedHead) -> None:
    save_trained_head(tmp_path, trained)
    text = (tmp_path / "head.json").read_bytes()
    card = json.loads(text)
    weights = (tmp_path / "head.safetensors").read_bytes()
    assert card["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    body = text[: text.rindex(b',\n"sha256"')]
    assert card["sha256"] == hashlib.sha256(body).hexdigest()


def test_a_head_without_a_seal_loads_with_a_warning(
    tmp_path: Path, trained: TrainedHead, caplog: pytest.LogCaptureFixture
) -> None:
    save_trained_head(tmp_path, trained)
    assert_same(load_trained_head(tmp_path), trained)
    assert caplog.messages == []
    without_seal(tmp_path)
    assert_same(load_trained_head(tmp_path), trained)
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path} has no checksum")


def test_weights_and_card_of_two_trainings_are_no_head(
    tmp_path: Path, trained: TrainedHead
) -> None:
    save_trained_head(tmp_path / "a", trained)
    with torch.no_grad():
        trained.head.projector.bias.add_(1)
    save_trained_head(tmp_path / "b", trained)
    (tmp_path / "a" / "head.json").write_bytes((tmp_path / "b" / "head.json").read_bytes())
    with pytest.raises(WeightsError, match="of another head than"):
        load_trained_head(tmp_path / "a")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_in_every_file(
    value: float, tmp_path: Path, trained: TrainedHead
) -> None:
    with torch.no_grad():
        trained.head.projector.bias[1] = value
    save_trained_head(tmp_path, trained)
    write_checkpoint(tmp_path / "last.ckpt", trained)
    for path in (tmp_path, tmp_path / "last.ckpt"):
        with pytest.raises(WeightsError, match=r"NaN or infinite .*projector\.bias"):
            load_trained_head(path)


def test_a_card_that_speaks_of_a_huge_head_takes_no_memory(
    tmp_path: Path, trained: TrainedHead
) -> None:
    save_trained_head(tmp_path, trained)
    without_seal(tmp_path)
    card = json.loads((tmp_path / "head.json").read_text(encoding="utf-8"))
    for change in ({"num_blocks": 10**9}, {"ffn_dim": 10**12}, {"ffn_dim": 10**30}):
        forged = card | {"head": card["head"] | change}
        (tmp_path / "head.json").write_text(json.dumps(forged), encoding="utf-8")
        with pytest.raises(WeightsError, match=r"cannot be built|tensors differ"):
            load_trained_head(tmp_path)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": Path("x")}, tmp_path / "evil.ckpt")
    with pytest.raises(WeightsError, match="plain tensors"):
        load_trained_head(tmp_path / "evil.ckpt")


def test_foreign_files_are_refused(tmp_path: Path, trained: TrainedHead) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(WeightsError, match=r"not written by RegionSpot's train\.py"):
        load_trained_head(tmp_path / "other.ckpt")
    (tmp_path / "head.pth").write_bytes(b"")
    with pytest.raises(WeightsError, match="regionspot convert"):
        load_trained_head(tmp_path / "head.pth")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not the card"),
        ("[]", "is not the card"),
        ('{"card_version": 1}', "is not the card"),
        ("[" * 100_000, "is not the card"),
        ('{"card_version": ' + "9" * 5000 + "}", "is not the card"),
        ('{"card_version": 2, "library_version": "9"}', "version 2, wanted 1.*'9'"),
    ],
)
def test_broken_cards_are_refused(text: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        HeadCard.from_json(text, where="head.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scale", "20"),
        ("bias", True),
        ("scale", None),
        ("vocabulary", [1]),
        ("fingerprint", 3),
        ("training", []),
    ],
)
def test_a_value_of_another_kind_is_refused(
    field: str, value: object, trained: TrainedHead
) -> None:
    fields = json.loads(trained.card.to_json()) | {field: value}
    with pytest.raises(WeightsError, match=field):
        HeadCard.from_json(json.dumps(fields), where="head.json")


def test_a_card_with_an_unknown_field_is_refused(trained: TrainedHead) -> None:
    fields = json.loads(trained.card.to_json()) | {"colour": "red"}
    with pytest.raises(WeightsError, match="colour"):
        HeadCard.from_json(json.dumps(fields), where="head.json")
