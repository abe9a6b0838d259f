"""Image towers of every make; the oracles are open_clip's and timm's own outputs."""

import contextlib
import json
import math
from pathlib import Path

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from open_clip.timm_model import TimmModel
from timm.models.eva import Eva
from torch import Tensor, nn

from regionspot.annotations import ImageRecord
from regionspot.backbones import (
    FrozenModels,
    LazyTokenizer,
    LoadedClip,
    OpenClipEncoder,
    SamLocalizer,
    describe_clip,
    load_clip,
    load_sam,
)
from regionspot.backbones.image_towers import image_tower
from regionspot.core.errors import ConfigError, WeightsError
from regionspot.extraction import PreparedImage, featurize

TEXT = {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
TOWERS: dict[str, dict[str, object]] = {
    # As SigLIP: no class token, pooled by attention, no projection; with a register token, too.
    "tiny-siglip": {
        "custom_text": True,
        "embed_dim": 96,
        "vision_cfg": {
            "image_size": 160,
            "timm_model_name": "test_vit3",
            "timm_pool": "map",
            "timm_proj": "none",
        },
    },
    # As PE: a class token, pooled by attention, projected by the trunk's own head.
    "tiny-pe": {
        "custom_text": True,
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 160,
            "timm_model_name": "test_vit",
            "timm_pool": "map",
            "timm_proj": None,
        },
    },
    # As EVA-02: a class token, pooled by it.
    "tiny-eva": {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 160,
            "timm_model_name": "test_vit",
            "timm_pool": "token",
            "timm_proj": "linear",
        },
    },
    "tiny-average": {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 160,
            "timm_model_name": "test_vit2",
            "timm_pool": "avg",
            "timm_proj": "linear",
        },
    },
    "tiny-convnext": {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 96,
            "timm_model_name": "test_convnext",
            "timm_pool": "",
            "timm_proj": "linear",
        },
    },
    "tiny-resnet": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 96, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8},
    },
}
FIRST = {
    "tiny-siglip": "pooled embedding",
    "tiny-pe": "class token",
    "tiny-eva": "class token",
    "tiny-average": "pooled embedding",
    "tiny-convnext": "pooled embedding",
    "tiny-resnet": "pooled embedding",
}


@pytest.fixture(scope="module", autouse=True)
def registered(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("configs")
    for name, config in TOWERS.items():
        text = {**TEXT}
        if name == "tiny-resnet":
            text["width"] = 32
        (folder / f"{name}.json").write_text(json.dumps({"text_cfg": text, **config}))
    open_clip.add_model_config(folder)


@pytest.fixture(scope="module", params=list(TOWERS))
def loaded(request: pytest.FixtureRequest) -> LoadedClip:
    return load_clip(request.param, "random")


def pixels_of(loaded: LoadedClip, count: int = 2) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(count, 3, loaded.image_size, loaded.image_size)


def shake_norms(module: nn.Module) -> None:
    """Give norms and biases values, which fresh ones lack: a norm that is left out must show."""
    torch.manual_seed(2)
    for parameter in module.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)


@torch.no_grad()
def last_stage(loaded: LoadedClip, pixels: Tensor) -> Tensor:
    """Listen to what the last block or stage puts out, (B, T, D) with all its prefix tokens."""
    visual, heard = loaded.model.visual, list[Tensor]()
    if isinstance(visual, TimmModel):
        trunk = visual.trunk
        last = trunk.blocks[-1] if hasattr(trunk, "blocks") else trunk.stages[-1]
    else:
        last = visual.layer4
    hook = last.register_forward_hook(lambda _module, _inputs, output: heard.append(output))
    visual(pixels)
    hook.remove()
    (output,) = heard
    return output if output.ndim == 3 else output.flatten(2).transpose(1, 2)


@torch.no_grad()
def test_patches_are_what_the_last_stage_puts_out_row_by_row(loaded: LoadedClip) -> None:
    pixels = pixels_of(loaded)
    found = OpenClipEncoder(loaded).features(pixels)
    assert found.shape == (2, loaded.num_tokens, loaded.width)
    theirs = last_stage(loaded, pixels)[:, -(loaded.num_tokens - 1) :]
    torch.testing.assert_close(found[:, 1:], theirs)


@torch.no_grad()
def test_the_first_token_is_the_class_token_or_what_the_tower_itself_pools(
    loaded: LoadedClip,
) -> None:
    assert loaded.first_token == FIRST[loaded.name]
    pixels = pixels_of(loaded)
    first = OpenClipEncoder(loaded).features(pixels)[:, 0]
    visual = loaded.model.visual
    if loaded.first_token == "class token":  # noqa: S105 - not that kind of token
        theirs = last_stage(loaded, pixels)[:, 0]
    elif isinstance(visual, TimmModel):
        # Projecting the pooled embedding, as the tower does, has to give its image embedding.
        is_projection = isinstance(visual.trunk.head, nn.Linear | nn.Identity)
        projected = visual.trunk.head(first) if is_projection else first
        theirs, first = visual(pixels), visual.head(projected)
    else:
        theirs, first = visual(pixels), visual.attnpool.c_proj(first)
    torch.testing.assert_close(first, theirs)


@torch.no_grad()
def test_embeddings_are_open_clips(loaded: LoadedClip) -> None:
    pixels, encoder = pixels_of(loaded), OpenClipEncoder(loaded)
    theirs = loaded.model.encode_image(pixels, normalize=True)
    torch.testing.assert_close(encoder.embed_images(pixels), theirs)
    assert theirs.shape == (2, loaded.text_dim)


@pytest.mark.parametrize("name", ["tiny-pe", "tiny-average", "tiny-convnext", "tiny-resnet"])
def test_patches_without_a_place_in_the_text_space_are_not_given_one(name: str) -> None:
    loaded = load_clip(name, "random")
    with pytest.raises(ConfigError, match="cannot project single patches"):
        OpenClipEncoder(loaded).project(torch.zeros(1, loaded.num_tokens, loaded.width))


@pytest.mark.parametrize("name", ["tiny-siglip", "tiny-eva"])
@torch.no_grad()
def test_the_first_token_projected_is_the_images_embedding(name: str) -> None:
    loaded = load_clip(name, "random")
    shake_norms(loaded.model)
    pixels, encoder = pixels_of(loaded), OpenClipEncoder(loaded)
    projected = encoder.project(encoder.features(pixels))
    torch.testing.assert_close(projected[:, 0], loaded.model.encode_image(pixels))


def load_pe() -> LoadedClip:
    """PE's own kind of trunk, which timm has in no small size: attention pools the class token too.

    (The tiny ViT of timm that stands for it elsewhere leaves the class token out.)
    """
    torch.manual_seed(0)
    clip = load_clip("tiny-pe", "random").model
    clip.visual.trunk = Eva(
        img_size=160, patch_size=16, embed_dim=64, depth=2, num_heads=2, num_classes=24,
        global_pool="map", use_rot_pos_emb=True,
    )  # fmt: skip
    return describe_clip(clip, tokenizer=LazyTokenizer("tiny-pe"), name="tiny-pe")


@pytest.mark.parametrize("name", ["tiny-siglip", "pe", "tiny-eva"])
@torch.no_grad()
def test_a_patch_projected_is_what_the_tower_gives_for_an_image_of_nothing_else(name: str) -> None:
    loaded = load_pe() if name == "pe" else load_clip(name, "random")
    shake_norms(loaded.model)
    pixels, encoder = pixels_of(loaded), OpenClipEncoder(loaded)
    features = encoder.features(pixels)
    torch.testing.assert_close(features[:, 1:], last_stage(loaded, pixels)[:, 1:])
    visual = loaded.model.visual
    everywhere = features[1, 7].expand(1, loaded.num_tokens, -1)
    theirs = visual.head(visual.trunk.forward_head(visual.trunk.norm(everywhere)))
    torch.testing.assert_close(encoder.project(features)[1, 7], theirs[0])


def test_a_cache_can_be_made_with_any_tower(loaded: LoadedClip) -> None:
    sam = load_sam("tiny", "shipped")
    localizer = SamLocalizer(sam, token_site="transformer", model_name="tiny")  # noqa: S106
    models = FrozenModels(localizer=localizer, encoder=OpenClipEncoder(loaded))
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    record = ImageRecord(
        key="a",
        image_id=1,
        file_name="a.png",
        annotated_size_hw=(60, 90),
        boxes_xyxy=np.array([[5, 5, 40, 50]], np.float32),
        labels=np.array([0]),
    )
    prepared = PreparedImage(
        record=record,
        sam_pixels=localizer.resize(image),
        clip_pixels=models.encoder.resize(image),
    )
    (sample,) = featurize(models, [prepared])
    found = models.fingerprint()
    assert found.clip_first_token == FIRST[loaded.name]
    assert sample.feature_map.shape == (found.num_feature_tokens, found.feature_dim)


def test_a_trunk_whose_pooled_embedding_has_another_width_is_refused(tmp_path: Path) -> None:
    config = {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 224,
            "timm_model_name": "resnet18",
            "timm_pool": "abs_attn",
            "timm_proj": "",
        },
        "text_cfg": TEXT,
    }
    (tmp_path / "tiny-attn.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    with pytest.raises(ConfigError, match="tiny-attn has no class token.*nothing can stand for"):
        load_clip("tiny-attn", "random")


def test_a_tokenizer_that_cannot_be_downloaded_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As HF_HUB_OFFLINE=1 in the environment; without it the hub's client tries for a minute.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"hf download timm/ViT-B-16-SigLIP2\)"):
        LazyTokenizer("ViT-B-16-SigLIP2")(["lemon"])


def test_a_mistyped_name_is_told_what_is_near() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean .*ViT-B-16-SigLIP2"):
        load_clip("ViT-B16-SigLIP2", "random")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "first_token", "text_dim", "red_mean"),
    [
        ("ViT-B-16-SigLIP2", (1, 197, 768), "pooled embedding", 768, 0.5),
        ("PE-Core-B-16", (1, 197, 768), "class token", 1024, 0.5),
        ("RN50-quickgelu", (1, 50, 2048), "pooled embedding", 1024, 0.48145466),
        ("convnext_base_w", (1, 65, 1024), "pooled embedding", 640, 0.48145466),
    ],
)
@torch.no_grad()
def test_released_architectures_at_full_size(
    name: str, shape: tuple[int, ...], first_token: str, text_dim: int, red_mean: float
) -> None:
    """Also weights from a file are normalised for as the released ones: SigLIP's mean is 0.5."""
    loaded = load_clip(name, "random")
    side = loaded.image_size
    pixels = torch.randn(1, 3, side, side)
    assert OpenClipEncoder(loaded).features(pixels).shape == shape
    assert (loaded.first_token, loaded.text_dim) == (first_token, text_dim)
    assert loaded.mean[0] == red_mean


@pytest.mark.slow
def test_of_all_towers_that_open_clip_takes_from_timm_only_fastvits_are_refused() -> None:
    """Shapes only: on the device "meta" nothing is computed."""
    refused = set()
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        if name.startswith("tiny-") or "timm_model_name" not in config["vision_cfg"]:
            continue  # registered by these tests, or open_clip's own, of which there are two kinds
        vision = CLIPVisionCfg(**{**config["vision_cfg"], "timm_model_pretrained": False})
        with torch.device("meta"):
            visual = _build_vision_tower(config["embed_dim"], vision).eval()
            tower = image_tower(visual, name=name)
            try:
                features = tower.features(torch.zeros(2, 3, *tower.image_size_hw))
            except ConfigError:
                refused.add(name)
                continue
            with contextlib.suppress(ConfigError):
                assert tower.project(features).shape[:2] == features.shape[:2]
        assert len(features) == 2
        assert math.isqrt(features.shape[1] - 1) ** 2 == features.shape[1] - 1
    assert refused == {
        *("MobileCLIP-S1", "MobileCLIP-S2"),
        *("MobileCLIP2-S0", "MobileCLIP2-S2", "MobileCLIP2-S3", "MobileCLIP2-S4"),
    }
