"""Which SAM is built, and which weights it gets."""

import dataclasses
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from segment_anything.modeling import Sam

from regionspot.backbones import SAM_RELEASES, ReleasedFile, load_sam, state_sha256
from regionspot.core.errors import ConfigError, MissingFileError, WeightsError
from regionspot.core.files import sha256_file


def test_the_shipped_sam_is_a_genuine_frozen_one() -> None:
    sam = load_sam("tiny", "shipped")
    assert type(sam) is Sam
    assert not sam.training
    assert not any(parameter.requires_grad for parameter in sam.parameters())
    assert {parameter.dtype for parameter in sam.parameters()} == {torch.float32}
    assert sam.image_encoder.img_size == 128


def test_random_weights_are_loud_and_the_same_every_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = load_sam("tiny", "random"), load_sam("tiny", "random")
    assert state_sha256(first) == state_sha256(second) != state_sha256(load_sam("tiny", "shipped"))
    assert caplog.text.count("RANDOM") == 2


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_can_be_a_file(tmp_path: Path, suffix: str) -> None:
    sam = load_sam("tiny", "random")
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(sam.state_dict(), path)
    else:
        save_file(sam.state_dict(), path)
    assert state_sha256(load_sam("tiny", str(path))) == state_sha256(sam)


def test_a_file_of_another_sam_is_refused_naming_keys(tmp_path: Path) -> None:
    state = load_sam("tiny", "random").state_dict()
    del state["mask_decoder.iou_token.weight"]
    state["stray"] = torch.ones(1)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(
        WeightsError, match=r"missing mask_decoder\.iou_token\.weight; unexpected stray"
    ):
        load_sam("tiny", str(tmp_path / "other.pth"))


def test_what_does_not_exist_is_refused_before_a_model_is_built(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no SAM 'vit_x'.*vit_b, vit_l, vit_h, tiny"):
        load_sam("vit_x", "random")
    with pytest.raises(WeightsError, match="no weights 'openai' for SAM vit_b; give sam_vit_b_01"):
        load_sam("vit_b", "openai")
    with pytest.raises(WeightsError, match="no weights 'shipped' for SAM vit_b"):
        load_sam("vit_b", "shipped")
    with pytest.raises(WeightsError, match=r"SAM vit_b goes with sam_vit_b_01ec64"):
        load_sam("vit_b", "sam_vit_h_4b8939")
    with pytest.raises(MissingFileError, match=r"gone\.pth"):
        load_sam("tiny", str(tmp_path / "gone.pth"))


@pytest.mark.slow
def test_a_released_file_is_fetched_by_name_and_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logging.getLogger("regionspot").setLevel(logging.ERROR)
    random = load_sam("vit_b", "random")
    torch.save(random.state_dict(), tmp_path / "server.pth")
    released: ReleasedFile = dataclasses.replace(
        SAM_RELEASES["sam_vit_b_01ec64"],
        url=(tmp_path / "server.pth").as_uri(),
        sha256_prefix=sha256_file(tmp_path / "server.pth")[:6],
    )
    monkeypatch.setitem(SAM_RELEASES, "sam_vit_b_01ec64", released)
    monkeypatch.setenv("REGIONSPOT_HOME", str(tmp_path / "home"))
    loaded = load_sam("vit_b", "sam_vit_b_01ec64")
    assert state_sha256(loaded) == state_sha256(random)
    assert (tmp_path / "home" / "sam_vit_b_01ec64.pth").is_file()
