"""Weights of SAM 2: from every place they may lie in, strictly; the oracle is ``transformers``."""

import logging
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Sam2Model, Sam2VideoConfig, Sam2VideoModel

from regionspot.backbones import ModelsConfig, load_localizer, load_sam2, resolve, state_sha256
from regionspot.backbones import sam2 as module
from regionspot.core.errors import ConfigError, MissingFileError, WeightsError

TINY, REPOSITORY = "sam2.1_hiera_tiny", "facebook/sam2.1-hiera-tiny"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the image encoder of "tiny" smaller than tiny; the rest is as released."""
    size = module.Hiera(8, 1, (1, 1, 1, 1), (4, 2, 2, 2), (1, 2, 3), 4)
    monkeypatch.setitem(module.SIZES, "tiny", size)


@pytest.fixture
def random(small: None) -> Sam2Model:
    return load_sam2(TINY, "random")


def test_random_weights_repeat_themselves_and_say_that_they_are_random(
    random: Sam2Model, caplog: pytest.LogCaptureFixture
) -> None:
    again = load_sam2(TINY, "random")
    assert state_sha256(again) == state_sha256(random)
    assert "RANDOM weights" in caplog.text
    assert not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())


@pytest.mark.parametrize("where", ["folder", "w.safetensors", "w.pt", "w.pth"])
def test_weights_are_read_from_a_folder_or_file(
    random: Sam2Model, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if where == "folder":
        random.save_pretrained(where)
    elif where.endswith("safetensors"):
        save_file(random.state_dict(), where)
    else:
        torch.save(random.state_dict(), where)
    assert state_sha256(load_sam2(TINY, where)) == state_sha256(random)
    theirs = load_sam2(TINY, str(tmp_path / where))
    assert state_sha256(theirs) == state_sha256(random)


def video_state() -> dict[str, Tensor]:
    """What released repositories hold: a model for videos, saved by transformers."""
    config = load_sam2(TINY, "random").config
    torch.manual_seed(0)
    video = Sam2VideoModel(
        Sam2VideoConfig(vision_config=config.vision_config, memory_attention_num_layers=1)
    )
    return {key: value.clone() for key, value in video.state_dict().items()}


def test_a_model_for_videos_gives_what_transformers_reads_from_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = video_state()
    save_file(state, tmp_path / "model.safetensors")
    config = load_sam2(TINY, "random").config
    config.save_pretrained(tmp_path)
    with caplog.at_level(logging.INFO, logger="regionspot"):
        ours = load_sam2(TINY, str(tmp_path))
    theirs = Sam2Model.from_pretrained(tmp_path)
    assert state_sha256(ours) == state_sha256(theirs)
    ignored = {key.partition(".")[0] for key in state} - {
        key.partition(".")[0] for key in ours.state_dict()
    }
    assert ignored
    assert f"ignored {', '.join(sorted(ignored))}, which are for videos" in caplog.text


def test_a_tensor_with_two_names_may_be_saved_under_one(random: Sam2Model, tmp_path: Path) -> None:
    state = random.state_dict()
    shared = state["shared_image_embedding.positional_embedding"]
    state["prompt_encoder.shared_embedding.positional_embedding"] = shared
    random.load_state_dict(state)
    del state["prompt_encoder.shared_embedding.positional_embedding"]
    save_file(state, tmp_path / "w.safetensors")
    assert state_sha256(load_sam2(TINY, str(tmp_path / "w.safetensors"))) == state_sha256(random)


def test_weights_that_do_not_fit_are_refused_with_their_keys(
    random: Sam2Model, tmp_path: Path
) -> None:
    state = random.state_dict()
    del state["mask_decoder.obj_score_token.weight"]
    state["stray"] = torch.zeros(1)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(
        WeightsError, match=r"missing mask_decoder\.obj_score_token\.weight; unexpected stray"
    ):
        load_sam2(TINY, str(tmp_path / "w.pt"))


def test_the_names_of_the_original_repository_are_told_apart(tmp_path: Path) -> None:
    torch.save({"model": {"image_encoder.trunk.pos_embed": torch.zeros(1)}}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"names of SAM 2's own repository.*model\.safetensors"):
        load_sam2(TINY, str(tmp_path / "w.pt"))


def test_what_does_not_exist_is_refused_before_a_model_is_built(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no SAM 2 'sam2_vit'.*sam2\.1_hiera_large"):
        load_sam2("sam2_vit", "random")
    with pytest.raises(WeightsError, match=rf"no weights 'shipped' for SAM 2 .*give {REPOSITORY}"):
        load_sam2(TINY, "shipped")
    with pytest.raises(WeightsError, match=rf"facebook/sam2-hiera-tiny was .* with {REPOSITORY}"):
        load_sam2(TINY, "facebook/sam2-hiera-tiny")
    with pytest.raises(MissingFileError, match=r"gone\.safetensors"):
        load_sam2(TINY, str(tmp_path / "gone.safetensors"))
    with pytest.raises(MissingFileError, match=r"model\.safetensors"):
        load_sam2(TINY, str(tmp_path))


def test_the_released_repository_is_taken_from_the_hubs_own_cache(
    random: Sam2Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(
        WeightsError,
        match=rf"{REPOSITORY} could not be downloaded.*download https://huggingface\.co/{REPOSITORY}"
        r"/resolve/main/model\.safetensors.*--models\.sam_weights /path/to/model\.safetensors",
    ):
        load_localizer(TINY, resolve(ModelsConfig(sam=TINY)).sam_weights)
    revision = "0" * 40
    cached = tmp_path / "hub" / "models--facebook--sam2.1-hiera-tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(revision, encoding="utf-8")
    random.save_pretrained(tmp_path / "saved")
    (cached / "snapshots" / revision).mkdir(parents=True)
    shutil.copy(tmp_path / "saved" / "model.safetensors", cached / "snapshots" / revision)
    found = load_localizer(TINY, REPOSITORY, token_site="mlp")  # noqa: S106 - no password
    assert state_sha256(found.module) == state_sha256(random)
    assert (found.model_name, found.token_site, found.token_dim) == (TINY, "mlp", 32)
    assert load_file(tmp_path / "saved" / "model.safetensors").keys() == random.state_dict().keys()
