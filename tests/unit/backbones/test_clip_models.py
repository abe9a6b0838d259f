"""Which CLIP is built, which weights it gets, and which pairs are refused."""

import logging
from pathlib import Path

import huggingface_hub
import open_clip
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import save_file

from regionspot.backbones import (
    LoadedClip,
    OpenClipEncoder,
    WordTokenizer,
    describe_clip,
    load_clip,
    state_sha256,
)
from regionspot.core.errors import ConfigError, MissingFileError, WeightsError


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr("open_clip.factory.download_pretrained", refuse)


def test_the_shipped_clip_is_described_by_its_file() -> None:
    loaded = load_clip("tiny", "shipped")
    assert type(loaded.model) is CLIP
    assert (loaded.name, loaded.activation) == ("tiny", "gelu")
    assert (loaded.image_size, loaded.width, loaded.num_tokens) == (96, 128, 145)
    assert loaded.text_dim == 128
    assert loaded.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert loaded.logit_scale == pytest.approx(float(loaded.model.logit_scale.exp()))
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


def test_random_weights_are_loud_and_the_same_every_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = load_clip("tiny", "random"), load_clip("tiny", "random")
    assert state_sha256(first.model) == state_sha256(second.model)
    assert caplog.text.count("CLIP tiny has RANDOM weights") == 2


def test_weights_can_be_a_file(tmp_path: Path) -> None:
    random = load_clip("tiny", "random")
    save_file(random.model.state_dict(), tmp_path / "clip.safetensors")
    loaded = load_clip("tiny", str(tmp_path / "clip.safetensors"))
    assert state_sha256(loaded.model) == state_sha256(random.model)
    with pytest.raises(MissingFileError):
        load_clip("tiny", str(tmp_path / "gone.safetensors"))


def test_weights_of_another_input_size_are_refused_and_not_resized(tmp_path: Path) -> None:
    state = load_clip("tiny", "random").model.state_dict()
    state["visual.positional_embedding"] = torch.zeros(50, 128)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(
        WeightsError, match=r"visual\.positional_embedding \(50, 128\) instead of \(145, 128\)"
    ):
        load_clip("tiny", str(tmp_path / "other.safetensors"))


def test_unknown_models_and_weights_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="no model 'ViT-X'"):
        load_clip("ViT-X", "random")
    with pytest.raises(WeightsError, match="no weights 'openai' for CLIP tiny; give shipped"):
        load_clip("tiny", "openai")
    with pytest.raises(WeightsError, match="no pretrained tag 'opnai' for ViT-B-16; give one of"):
        load_clip("ViT-B-16", "opnai")


@pytest.mark.parametrize(
    ("model", "tag", "remedy"),
    [
        ("ViT-B-16", "openai", r"trained with QuickGELU.*models\.clip=ViT-B-16-quickgelu"),
        ("ViT-L-14", "openai", r"trained with QuickGELU.*models\.clip=ViT-L-14-quickgelu"),
    ],
)
def test_openai_weights_need_quickgelu(no_network: None, model: str, tag: str, remedy: str) -> None:
    with pytest.raises(WeightsError, match=remedy):
        load_clip(model, tag)


def test_the_quickgelu_mismatch_is_seen_the_other_way_round_too(
    no_network: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = {**open_clip.get_pretrained_cfg("ViT-B-16", "laion2b_s34b_b88k")}
    assert not card.get("quick_gelu")
    tags = {"laion2b_s34b_b88k": card}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "ViT-B-16-quickgelu", tags)
    with pytest.raises(WeightsError, match=r"trained with GELU.*models\.clip=ViT-B-16\."):
        load_clip("ViT-B-16-quickgelu", "laion2b_s34b_b88k")


def test_offline_the_message_says_what_to_fetch_and_which_option_to_give(no_network: None) -> None:
    with pytest.raises(WeightsError) as error:
        load_clip("ViT-B-16-quickgelu", "openai")
    assert "Without network access" in str(error.value)
    assert "https://huggingface.co/timm/vit_base_patch16_clip_224.openai)" in str(error.value)
    assert ".pt)" not in str(error.value)
    assert "--models.clip_weights /path/to/" in str(error.value)


def test_a_file_called_openais_is_refused_in_a_gelu_model(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"models\.clip=ViT-B-16-quickgelu"):
        load_clip("ViT-B-16", str(tmp_path / "ViT-B-16-openai.safetensors"))


def test_a_file_of_unknown_activation_in_a_gelu_model_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(MissingFileError):
        load_clip("ViT-B-16", str(tmp_path / "mine.safetensors"))
    assert "ViT-B-16 uses GELU" in caplog.text


def _clip(**vision: object) -> CLIP:
    return CLIP(
        embed_dim=8,
        vision_cfg=CLIPVisionCfg(layers=1, width=16, head_width=8, patch_size=8, **vision),
        text_cfg=CLIPTextCfg(context_length=8, vocab_size=20, width=16, heads=2, layers=1),
    )


@pytest.mark.parametrize("vision", [{"pool_type": "avg"}, {"attentional_pool": True}])
def test_vits_that_pool_otherwise_still_have_a_class_token_but_project_no_patches(
    vision: dict[str, object],
) -> None:
    tokenizer = WordTokenizer(["red"], context_length=8)
    loaded = describe_clip(_clip(image_size=16, **vision), tokenizer=tokenizer, name="odd")
    assert (loaded.first_token, loaded.num_tokens, loaded.width) == ("class token", 5, 16)
    with pytest.raises(ConfigError, match="cannot project single patches"):
        OpenClipEncoder(loaded).project(torch.zeros(1, 5, 16))


def test_an_input_that_is_not_square_is_refused() -> None:
    tokenizer = WordTokenizer(["red"], context_length=8)
    with pytest.raises(ConfigError, match="16 x 24 pixels; only square"):
        describe_clip(_clip(image_size=(16, 24)), tokenizer=tokenizer, name="odd")


def test_a_model_in_memory_may_have_been_cast_already() -> None:
    tokenizer = WordTokenizer(["red"], context_length=8)
    loaded = describe_clip(_clip(image_size=16).double(), tokenizer=tokenizer, name="double")
    assert (loaded.num_tokens, loaded.width, loaded.text_dim) == (5, 16, 8)


@pytest.mark.slow
def test_a_file_for_a_model_whose_weights_are_of_two_kinds_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loaded = load_clip("ViT-L-14", "random")  # laion2b_s32b_b82k has the mean 0.5
    assert loaded.mean == open_clip.OPENAI_DATASET_MEAN
    assert "normalised as for openai" in caplog.text


def test_a_text_tower_from_the_hub_that_cannot_be_had_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As HF_HUB_OFFLINE=1 in the environment; without it the hub's client tries for a minute.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        WeightsError, match=r"(?s)text tower of CLIP roberta-ViT-B-32.*hf download roberta"
    ):
        load_clip("roberta-ViT-B-32", "random")


def test_a_model_in_memory_is_described(loaded_clip: LoadedClip) -> None:
    assert (loaded_clip.image_size, loaded_clip.num_tokens) == (32, 17)
    assert (loaded_clip.width, loaded_clip.text_dim) == (32, 24)
    assert loaded_clip.mean == (0.5, 0.4, 0.3)
    assert loaded_clip.logit_scale == pytest.approx(1 / 0.07)
