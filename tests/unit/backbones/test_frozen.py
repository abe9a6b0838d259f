"""Both models together, and their identity."""

import dataclasses

import pytest
import torch

from regionspot.backbones import (
    FrozenModels,
    LoadedClip,
    ModelsConfig,
    OpenClipEncoder,
    SamLocalizer,
    load_frozen_models,
    load_sam,
    state_sha256,
)
from regionspot.core.errors import ConfigError


@pytest.fixture
def frozen(localizer: SamLocalizer, loaded_clip: LoadedClip) -> FrozenModels:
    return FrozenModels(localizer=localizer, encoder=OpenClipEncoder(loaded_clip))


def test_the_fingerprint_holds_all_that_decides_the_numbers(
    frozen: FrozenModels, localizer: SamLocalizer, loaded_clip: LoadedClip
) -> None:
    assert dataclasses.asdict(frozen.fingerprint(exif_policy="ignore")) == {
        "sam_model": "small",
        "sam_weights_sha256": state_sha256(localizer.sam),
        "sam_image_size": 64,
        "sam_resize": SamLocalizer.resize_rule,
        "clip_model": "small",
        "clip_weights_sha256": state_sha256(loaded_clip.model),
        "clip_image_size": 32,
        "clip_activation": "gelu",
        "clip_mean": (0.5, 0.4, 0.3),
        "clip_std": (0.2, 0.2, 0.2),
        "clip_resize": OpenClipEncoder.resize_rule,
        "clip_first_token": "class token",
        "exif_policy": "ignore",
        "token_site": "transformer",
        "token_dim": 32,
        "feature_dim": 32,
        "num_feature_tokens": 17,
        "text_dim": 24,
    }
    for word in ("bilinear", "antialias", "squash"):
        assert word in OpenClipEncoder.resize_rule
    assert "bilinear" in SamLocalizer.resize_rule


def test_the_identity_is_taken_before_anything_is_cast(loaded_clip: LoadedClip) -> None:
    sam = load_sam("tiny", "random")
    localizer = SamLocalizer(sam, token_site="mlp", model_name="tiny")  # noqa: S106
    frozen = FrozenModels(localizer=localizer, encoder=OpenClipEncoder(loaded_clip))
    before = state_sha256(sam)
    sam.half()
    assert frozen.fingerprint().sam_weights_sha256 == before


def test_names_are_embedded_as_open_clip_embeds_their_sentences(loaded_clip: LoadedClip) -> None:
    ours = OpenClipEncoder(loaded_clip).text_bank(["red star", "blue egg"], "single")
    ids = loaded_clip.tokenizer(["a photo of a red star.", "a photo of a blue egg."])
    with torch.no_grad():
        theirs = loaded_clip.model.encode_text(ids, normalize=True)
    torch.testing.assert_close(ours, theirs)


def test_the_toy_preset_loads_what_is_shipped_and_repeats_itself() -> None:
    config = ModelsConfig(preset="toy", token_site="prompt_encoder")  # noqa: S106
    frozen = load_frozen_models(config, device="cpu")
    fingerprint = frozen.fingerprint()
    assert (fingerprint.sam_model, fingerprint.clip_model) == ("tiny", "tiny")
    assert (fingerprint.token_site, fingerprint.token_dim) == ("prompt_encoder", 256)
    assert load_frozen_models(config).fingerprint() == fingerprint
    assert frozen.localizer.device == frozen.encoder.device == torch.device("cpu")


def test_mistakes_are_found_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigError, match="preset"):
        load_frozen_models(ModelsConfig(preset="huge"))
    with pytest.raises(ConfigError, match=r"no model 'ViT-H14'. Did you mean .*ViT-H-14 "):
        load_frozen_models(ModelsConfig(clip="ViT-H14"))  # which has no default weights either
    with pytest.raises(ConfigError, match=r"'ViT-H-14' has no default weights"):
        load_frozen_models(ModelsConfig(clip="ViT-H-14"))
    with pytest.raises(ConfigError, match="device"):
        load_frozen_models(ModelsConfig(preset="toy"), device="gpu")
