"""Image towers of other kinds than CLIP's plain ViT; open_clip's and timm's own parts say what."""

from collections.abc import Callable

import open_clip
import pytest
import torch
from open_clip.coca_model import CoCa, MultimodalCfg
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from open_clip.timm_model import TimmModel
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from regionspot.backbones import Encoder, LoadedClip, WordTokenizer, describe_clip, feature_map
from regionspot.backbones.image_towers import FirstToken
from regionspot.core.errors import ConfigError

WORDS = WordTokenizer(["red", "star"], context_length=8)
TEXT = CLIPTextCfg(context_length=8, vocab_size=WORDS.vocab_size, width=16, heads=2, layers=1)
SMALL_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
CLASS: FirstToken = "class token"


def _clip(trunk_name: str, pool: str, proj: str, trunk: nn.Module | None = None) -> CustomTextCLIP:
    """A genuine CLIP around one of timm's small networks, or around ``trunk`` in its place."""
    torch.manual_seed(0)
    image_size = 160 if trunk is None else 32
    embed_dim = 24 if trunk is None else 16
    vision = CLIPVisionCfg(
        timm_model_name=trunk_name, timm_pool=pool, timm_proj=proj, image_size=image_size
    )
    clip = CustomTextCLIP(embed_dim=embed_dim, vision_cfg=vision, text_cfg=TEXT)
    assert isinstance(clip.visual, TimmModel)
    if trunk is not None:
        clip.visual.trunk = trunk
    _shake(clip)
    return clip


def _shake(module: nn.Module) -> None:
    """Give norms and biases values, which fresh ones lack: a missing norm must show."""
    for parameter in module.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)


def _describe(clip: nn.Module) -> LoadedClip:
    return describe_clip(clip, tokenizer=WORDS, name="small")


def _pixels(clip: LoadedClip) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, clip.image_size, clip.image_size, generator=generator)


@torch.no_grad()
def _heard(module: nn.Module, run: Callable[[], object]) -> Tensor:
    """Return what a module gave while ``run`` was running."""
    outputs: list[Tensor] = []
    hook = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    run()
    hook.remove()
    return outputs[-1]


def small_siglip() -> CustomTextCLIP:
    trunk = VisionTransformer(**SMALL_VIT, class_token=False, global_pool="map", num_classes=0)
    return _clip("test_vit3", "map", "none", trunk)


def small_pe() -> CustomTextCLIP:
    trunk = Eva(
        **SMALL_VIT, class_token=True, global_pool="map", num_classes=16, use_rot_pos_emb=True
    )
    return _clip("test_vit3", "map", "none", trunk)


def test_siglip_has_its_pooled_embedding_in_front_and_last_block_tokens_behind() -> None:
    loaded = _describe(small_siglip())
    assert (loaded.first_token, loaded.num_tokens) == ("pooled embedding", 17)
    assert (loaded.width, loaded.text_dim, loaded.image_size) == (16, 16, 32)
    visual, pixels = loaded.model.visual, _pixels(loaded)
    tokens = feature_map(loaded.model, pixels)
    patches = _heard(visual.trunk.blocks[-1], lambda: visual(pixels))
    pooled = _heard(visual.trunk.attn_pool, lambda: visual(pixels))
    torch.testing.assert_close(tokens[:, 1:], patches, rtol=0, atol=0)
    torch.testing.assert_close(tokens[:, 0], pooled)


def test_the_first_token_of_pe_is_its_class_token_though_it_pools_by_attention() -> None:
    loaded = _describe(small_pe())
    assert (loaded.first_token, loaded.num_tokens) == ("class token", 17)
    visual, pixels = loaded.model.visual, _pixels(loaded)
    last = _heard(visual.trunk.blocks[-1], lambda: visual(pixels))
    torch.testing.assert_close(feature_map(loaded.model, pixels), last, rtol=0, atol=0)


@pytest.mark.parametrize("proj", ["linear", "mlp"])
def test_convnexts_feature_map_is_read_row_by_row(proj: str) -> None:
    loaded = _describe(_clip("test_convnext2", "", proj))
    assert (loaded.first_token, loaded.num_tokens) == ("pooled embedding", 1 + 5 * 5)
    visual, pixels = loaded.model.visual, _pixels(loaded)
    tokens = feature_map(loaded.model, pixels)
    map_BDHW = _heard(visual.trunk.stages[-1], lambda: visual(pixels))
    for row, column in [(0, 0), (0, 4), (1, 0), (3, 2)]:
        assert torch.equal(tokens[:, 1 + 5 * row + column], map_BDHW[:, :, row, column])
    with torch.no_grad():
        own = visual.head(tokens[:, 0])
        torch.testing.assert_close(own, loaded.model.encode_image(pixels))


def small_resnet() -> CLIP:
    torch.manual_seed(0)
    vision = CLIPVisionCfg(layers=(1, 1, 1, 1), width=2, head_width=16, image_size=64)
    clip = CLIP(embed_dim=24, vision_cfg=vision, text_cfg=TEXT)
    _shake(clip)
    return clip


def test_resnets_pool_by_attention_and_the_projection_is_left_out() -> None:
    loaded = _describe(small_resnet())
    assert (loaded.first_token, loaded.num_tokens) == ("pooled embedding", 1 + 2 * 2)
    assert (loaded.width, loaded.text_dim) == (64, 24)
    visual, pixels = loaded.model.visual, _pixels(loaded)
    tokens = feature_map(loaded.model, pixels)
    map_BDHW = _heard(visual.layer4, lambda: visual(pixels))
    assert torch.equal(tokens[:, 2], map_BDHW[:, :, 0, 1])
    with torch.no_grad():
        own = visual.attnpool.c_proj(tokens[:, 0])
        torch.testing.assert_close(own, loaded.model.encode_image(pixels))


@pytest.mark.parametrize(
    ("trunk_name", "pool", "first_token"),
    [
        ("test_vit", "token", "class token"),
        ("test_vit2", "avg", "pooled embedding"),
        ("test_vit3", "map", "pooled embedding"),
        ("test_vit_relpos", "avg", "pooled embedding"),
        ("test_resnet", "", "pooled embedding"),
    ],
)
def test_other_networks_of_timm_need_no_code_of_their_own(
    trunk_name: str, pool: str, first_token: str
) -> None:
    loaded = _describe(_clip(trunk_name, pool, "linear"))
    visual, pixels = loaded.model.visual, _pixels(loaded)
    tokens = feature_map(loaded.model, pixels)
    assert loaded.first_token == first_token
    assert tokens.shape == (2, loaded.num_tokens, visual.trunk.num_features)
    if loaded.first_token != CLASS:
        with torch.no_grad():
            own = visual.head(tokens[:, 0])
            torch.testing.assert_close(own, loaded.model.encode_image(pixels))


def _project(loaded: LoadedClip) -> tuple[Tensor, Tensor]:
    pixels = _pixels(loaded)
    tokens = feature_map(loaded.model, pixels)
    return tokens, Encoder(loaded).project(tokens)


@pytest.mark.parametrize(
    "build",
    [
        small_siglip,
        lambda: _clip("test_vit", "token", "linear"),
        lambda: _clip("test_vit3", "map", "linear"),
    ],
    ids=["siglip", "class token", "registers"],
)
def test_the_projected_first_token_is_the_images_embedding(
    build: Callable[[], CustomTextCLIP],
) -> None:
    loaded = _describe(build())
    _, projected = _project(loaded)
    with torch.no_grad():
        torch.testing.assert_close(projected[:, 0], loaded.model.encode_image(_pixels(loaded)))


@pytest.mark.parametrize("build", [small_siglip, small_pe])
def test_a_projected_patch_is_what_the_tower_gives_for_an_image_of_that_patch_only(
    build: Callable[[], CustomTextCLIP],
) -> None:
    loaded = _describe(build())
    tokens, projected = _project(loaded)
    trunk, head = loaded.model.visual.trunk, loaded.model.visual.head
    with torch.no_grad():
        everywhere = tokens[1, 7].expand(1, 16, -1)
        own = head(trunk.forward_head(trunk.norm(everywhere)))
    torch.testing.assert_close(projected[1, 7], own[0])


def _coca() -> CoCa:
    torch.manual_seed(0)
    vision = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 16}
    return CoCa(
        embed_dim=24,
        multimodal_cfg=MultimodalCfg(
            width=16, heads=2, layers=1, context_length=7, vocab_size=WORDS.vocab_size
        ),
        text_cfg=CLIPTextCfg(
            context_length=7,
            vocab_size=WORDS.vocab_size,
            width=16,
            heads=2,
            layers=1,
            embed_cls=True,
            output_tokens=True,
        ),
        vision_cfg=CLIPVisionCfg(
            **vision, attentional_pool=True, attn_pooler_heads=2, output_tokens=True
        ),
    )


@pytest.mark.parametrize(
    "build",
    [_coca, small_resnet, lambda: _clip("test_convnext", "", "linear")],
    ids=["coca", "resnet", "convnext"],
)
def test_where_patches_cannot_be_projected_the_method_that_needs_it_is_named(
    build: Callable[[], nn.Module],
) -> None:
    encoder = Encoder(_describe(build()))
    with pytest.raises(
        ConfigError, match=r"cannot be taken into CLIP's text space.*pooled_patches"
    ):
        encoder.tower.check_can_project()
    with pytest.raises(ConfigError, match=r"cannot be taken into CLIP's text space"):
        encoder.project(torch.zeros(1, encoder.num_tokens, encoder.width))


def test_average_pooled_vits_of_open_clip_have_a_class_token_all_the_same() -> None:
    torch.manual_seed(0)
    vision = CLIPVisionCfg(
        layers=2,
        width=16,
        head_width=8,
        patch_size=8,
        image_size=32,
        pool_type="avg",
        final_ln_after_pool=True,
    )  # as in CLIPA
    loaded = _describe(CLIP(embed_dim=24, vision_cfg=vision, text_cfg=TEXT))
    assert (loaded.first_token, loaded.num_tokens) == ("class token", 17)
    visual, pixels = loaded.model.visual, _pixels(loaded)
    last = _heard(visual.transformer.resblocks[-1], lambda: visual(pixels))
    torch.testing.assert_close(feature_map(loaded.model, pixels), last, rtol=0, atol=0)


def test_a_tower_that_pools_to_another_width_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"EfficientNet pools patches of the width \d+ to a token"
    ):
        _describe(_clip("test_efficientnet", "avg", "linear"))


def test_an_image_tower_of_an_unknown_kind_is_refused() -> None:
    clip = small_resnet()
    clip.visual = nn.Flatten()
    with pytest.raises(ConfigError, match=r"is a Flatten; wanted open_clip's VisionTransformer"):
        _describe(clip)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "num_tokens", "width", "text_dim", "first_token"),
    [
        ("ViT-B-16-SigLIP2", 197, 768, 768, "pooled embedding"),
        ("PE-Core-B-16", 197, 768, 1024, "class token"),
        ("convnext_tiny", 50, 768, 1024, "pooled embedding"),
        ("RN50", 50, 2048, 1024, "pooled embedding"),
    ],
)
def test_genuine_towers_have_the_sizes_of_their_papers(
    name: str, num_tokens: int, width: int, text_dim: int, first_token: str
) -> None:
    """Random weights; the text side of SigLIP would need a download, so its tokenizer is not."""
    clip = open_clip.create_model(name, pretrained=None)
    loaded = describe_clip(clip, tokenizer=WORDS, name=name)
    assert (loaded.num_tokens, loaded.width) == (num_tokens, width)
    assert (loaded.text_dim, loaded.first_token) == (text_dim, first_token)
    if hasattr(clip.visual, "trunk"):
        pixels = _pixels(loaded)
        tokens = feature_map(clip, pixels)
        with torch.no_grad():
            final = clip.visual.trunk.forward_features(pixels)
            norm = getattr(clip.visual.trunk, "norm", nn.Identity())
            ours = tokens if loaded.first_token == CLASS else tokens[:, 1:]
            theirs = final if final.ndim == 3 else final.flatten(2).mT
            torch.testing.assert_close(norm(ours), theirs, rtol=1e-4, atol=1e-4)
