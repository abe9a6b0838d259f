"""Weights files: no code, no forgiveness, identity by content."""

import logging
import pickle
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typing_extensions import override

from regionspot.backbones import state_sha256
from regionspot.backbones.weights import build_frozen, freeze, is_path, read_state_dict
from regionspot.core.errors import MissingFileError, WeightsError
from regionspot.core.state_dict import load_strictly


def _model(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


@pytest.mark.parametrize(
    ("weights", "wanted"),
    [
        ("openai", False),
        ("laion2b_s34b_b88k", False),
        ("sam_vit_b_01ec64", False),
        ("sam_vit_b_01ec64.pth", True),
        ("folder/x", True),
        ("./sam.safetensors", True),
    ],
)
def test_a_path_is_told_from_a_name(weights: str, wanted: bool) -> None:  # noqa: FBT001
    assert is_path(weights) is wanted


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
def test_every_format_reads_back_the_same_tensors(tmp_path: Path, suffix: str) -> None:
    state = _model().state_dict()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    found = read_state_dict(path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_checkpoints_are_unwrapped(tmp_path: Path, wrapper: str) -> None:
    state = {f"module.{key}": value for key, value in _model().state_dict().items()}
    torch.save({"epoch": 3, wrapper: state}, tmp_path / "checkpoint.pt")
    assert read_state_dict(tmp_path / "checkpoint.pt").keys() == _model().state_dict().keys()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no weights file at .*gone\.pth"):
        read_state_dict(tmp_path / "gone.pth")


class _Bomb:
    @override
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (Path.touch, (Path("exploded"),))  # type: ignore[return-value]


def test_a_file_that_would_run_code_is_refused_and_runs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": _Bomb()}, "bomb.pth")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(_Bomb(), protocol=2))
    for name in ("bomb.pth", "raw.pt"):
        with pytest.raises(WeightsError, match=f"{name} cannot be read as weights"):
            read_state_dict(Path(name))
    assert not Path("exploded").exists()


def test_a_cut_or_foreign_file_is_refused(tmp_path: Path) -> None:
    for suffix in (".pth", ".safetensors"):
        whole = tmp_path / f"whole{suffix}"
        if suffix == ".pth":
            torch.save(_model().state_dict(), whole)
        else:
            save_file(_model().state_dict(), whole)
        for number, data in enumerate([whole.read_bytes()[:-100], b"", b"<html>not found</html>"]):
            path = tmp_path / f"broken{number}{suffix}"
            path.write_bytes(data)
            with pytest.raises(WeightsError, match="cannot be read as weights"):
                read_state_dict(path)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ([1, 2], "holds list; wanted tensors"),
        ({}, "wanted tensors by name"),
        ({"weight": torch.ones(1), "epoch": 3}, "more than tensors: epoch"),
    ],
)
def test_a_file_without_a_state_dict_is_refused(
    tmp_path: Path, content: object, match: str
) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match=match):
        read_state_dict(tmp_path / "odd.pth")


def test_loading_names_missing_unexpected_and_reshaped_keys() -> None:
    state = _model().state_dict()
    state["0.extra"] = state.pop("0.bias")
    state["1.weight"] = torch.ones(7)
    with pytest.raises(
        WeightsError,
        match=(
            r"file\.pth does not fit Sequential.*missing 0\.bias; unexpected 0\.extra;"
            r" of another shape 1\.weight \(7,\) instead of \(4,\)"
        ),
    ):
        load_strictly(_model(1), state, source="file.pth")


def test_many_wrong_keys_are_counted_and_not_all_printed() -> None:
    state = {f"key{index:02}": torch.ones(1) for index in range(20)}
    with pytest.raises(WeightsError, match="key00, key01, key02, key03, key04 and 15 more"):
        load_strictly(nn.Identity(), state, source="x")


def test_half_precision_weights_load_into_a_float_model() -> None:
    model, state = _model(1), _model().state_dict()
    load_strictly(model, {key: value.half() for key, value in state.items()}, source="x")
    loaded = model.state_dict()["0.weight"]
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded, state["0.weight"].half().float())


def test_random_weights_repeat_warn_and_leave_the_callers_numbers_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    models = []
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            build = partial(nn.Linear, 3, 3)
            model = build_frozen(build, None, what="SAM vit_b", option="models.sam_weights")
            models.append(model)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(models[0].weight, models[1].weight)
    assert "SAM vit_b has RANDOM weights, because of models.sam_weights=random" in caplog.text


def test_the_identity_follows_every_value_name_shape_and_dtype() -> None:
    base = state_sha256(_model())
    assert len(base) == 64
    assert state_sha256(_model()) == base
    assert state_sha256(_model(1)) != base
    nudged = _model()
    nudged.state_dict()["1.running_mean"][3] += 1e-6  # a buffer
    assert state_sha256(nudged) != base
    assert state_sha256(_model().half()) != base
    assert state_sha256(nn.Sequential(nn.Identity(), *_model())) != base  # other names
    linear, reshaped = nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False)
    reshaped.weight.data = linear.weight.data.reshape(2, 3)
    assert state_sha256(linear) != state_sha256(reshaped)


def test_the_identity_does_not_follow_memory_layout_or_training_flags() -> None:
    model, other = _model(), _model()
    freeze(other)
    weight = other.get_parameter("0.weight")
    weight.data = weight.data.T.contiguous().T
    assert not weight.is_contiguous()
    assert state_sha256(model) == state_sha256(other)


def test_the_identity_is_a_known_number() -> None:
    # By hand: sha256 over "weight torch.float32 [2] <sha256 of the two floats' bytes>".
    module = nn.ParameterDict({"weight": nn.Parameter(torch.tensor([1.0, 2.0]))})
    assert (
        state_sha256(module) == "b2b6c7dc6a4f598da019837ef7ec243dcdcbaa808e84d528b6e7415ec3f109f3"
    )
