"""What follows from a CLIP's name: tokenizer and normalisation; all by configuration."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from regionspot.backbones import LoadedClip, load_clip, text_bank
from regionspot.backbones.clip_registry import usual_preprocessing
from regionspot.core.errors import WeightsError

WORDS = ["<pad>", "<unk>", "a", "photo", "of", "red", "star", "."]


def _local_tokenizer(folder: Path) -> str:
    """A tokenizer of ``transformers``, as on the hub, in a folder."""
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)  # type: ignore[no-untyped-call]
    fast.save_pretrained(str(folder))
    return str(folder)


def _register(folder: Path, name: str, hub: str) -> None:
    """Make a small model in the manner of SigLIP 2 known to open_clip, by a configuration file."""
    siglip = open_clip.get_model_config("ViT-B-16-SigLIP2")
    config = {
        **siglip,
        "embed_dim": 96,
        "vision_cfg": {**siglip["vision_cfg"], "timm_model_name": "test_vit3", "image_size": 160},
        "text_cfg": {
            **siglip["text_cfg"],
            "context_length": 8,
            "vocab_size": len(WORDS),
            "hf_tokenizer_name": hub,
            "width": 96,
            "heads": 2,
            "layers": 1,
        },
    }
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


@pytest.fixture
def small_siglip2(tmp_path: Path) -> LoadedClip:
    _register(tmp_path, "small-SigLIP2", _local_tokenizer(tmp_path / "tokenizer"))
    return load_clip("small-SigLIP2", "random")


def test_a_siglip_is_loaded_by_its_name_with_its_own_tokenizer(small_siglip2: LoadedClip) -> None:
    assert (small_siglip2.first_token, small_siglip2.num_tokens) == ("pooled embedding", 101)
    ids = small_siglip2.tokenizer(["a photo of a red star."])
    assert ids.tolist() == [[2, 3, 4, 2, 5, 6, 0, 0]]  # SigLIP 2 takes the full stop away
    assert small_siglip2.logit_scale == pytest.approx(1 / 0.07)  # its bias is not in it


def test_text_banks_of_custom_text_towers_are_what_encode_text_gives(
    small_siglip2: LoadedClip,
) -> None:
    model, tokenizer = small_siglip2.model, small_siglip2.tokenizer
    with torch.no_grad():
        theirs = model.encode_text(tokenizer(["a photo of a red star."]), normalize=True)
    ours = text_bank(model, tokenizer, ["red star"], "single")
    torch.testing.assert_close(ours, theirs)


def test_a_tokenizer_that_cannot_be_had_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    _register(tmp_path, "far-SigLIP2", "timm/ViT-B-16-SigLIP2-not-in-any-cache")
    with pytest.raises(WeightsError) as error:
        load_clip("far-SigLIP2", "random")
    for part in ("tokenizer of CLIP far-SigLIP2", "hf download timm/ViT-B-16-SigLIP2", "HF_HOME"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("ViT-B-16-SigLIP2", (0.5, 0.5, 0.5)),
        ("PE-Core-B-16", (0.5, 0.5, 0.5)),
        ("ViT-B-16-quickgelu", (0.48145466, 0.4578275, 0.40821073)),
        ("MobileCLIP-B", (0.0, 0.0, 0.0)),
    ],
)
def test_weights_from_a_file_are_fed_as_the_released_ones_of_their_model(
    name: str, mean: tuple[float, float, float]
) -> None:
    assert usual_preprocessing(name)["mean"] == mean


def test_where_released_weights_differ_openais_normalisation_is_taken_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert usual_preprocessing("ViT-L-14") == {}
    assert "released weights of CLIP ViT-L-14 differ" in caplog.text
