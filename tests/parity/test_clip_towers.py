"""Feature maps and text banks against ``open_clip``'s own blocks, run by hand."""

import open_clip
import pytest
import torch
from open_clip.model import CLIP
from torch import Tensor
from torch.nn import functional as F

from regionspot.backbones import (
    LoadedClip,
    OpenClipEncoder,
    load_clip,
    template_texts,
)

NAMES = ["red star", "sea egg", "bat_(animal)", "{odd} name"]


@pytest.fixture(scope="module")
def tiny() -> LoadedClip:
    return load_clip("tiny", "random")


def _pixels(loaded: LoadedClip, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, loaded.image_size, loaded.image_size, generator=generator)


@torch.no_grad()
def _tokens_by_hand(clip: CLIP, pixels_BCHW: Tensor) -> Tensor:
    visual = clip.visual
    patches_BPD = visual.conv1(pixels_BCHW).flatten(2).transpose(1, 2)
    class_B1D = visual.class_embedding.expand(len(pixels_BCHW), 1, -1)
    tokens_BTD = torch.cat([class_B1D, patches_BPD], dim=1) + visual.positional_embedding
    tokens_BTD = visual.ln_pre(tokens_BTD)
    for block in visual.transformer.resblocks:
        tokens_BTD = block(tokens_BTD)
    return tokens_BTD


def _check_feature_map(loaded: LoadedClip) -> None:
    pixels = _pixels(loaded)
    encoder = OpenClipEncoder(loaded)
    ours = encoder.features(pixels)
    assert ours.shape == (2, loaded.num_tokens, loaded.width)
    torch.testing.assert_close(ours, _tokens_by_hand(loaded.model, pixels), rtol=0, atol=1e-6)
    with torch.no_grad():
        theirs = loaded.model.visual.forward_intermediates(
            pixels, indices=1, output_fmt="NLC", output_extra_tokens=True
        )
    assert torch.equal(ours[:, 0], theirs["image_intermediates_prefix"][0][:, 0])
    assert torch.equal(ours[:, 1:], theirs["image_intermediates"][0])
    # The class token, projected, is what open_clip calls the image's features.
    projected = encoder.project(encoder.features(pixels))
    torch.testing.assert_close(projected[:, 0], theirs["image_features"])
    with torch.no_grad():
        embedded = loaded.model.encode_image(pixels, normalize=True)
    torch.testing.assert_close(encoder.embed_images(pixels), embedded)


def test_the_feature_map_is_what_open_clips_blocks_give(tiny: LoadedClip) -> None:
    _check_feature_map(tiny)


@pytest.mark.slow
def test_the_feature_map_of_vit_b_16_is_what_open_clips_blocks_give() -> None:
    loaded = load_clip("ViT-B-16-quickgelu", "random")
    assert (loaded.num_tokens, loaded.width, loaded.text_dim) == (197, 768, 512)
    assert loaded.activation == "quick_gelu"
    assert type(loaded.model.visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
    _check_feature_map(loaded)


@torch.no_grad()
def _bank_by_hand(loaded: LoadedClip, names: list[str], sentences: tuple[str, ...]) -> Tensor:
    rows = []
    for name in names:
        embedded = [
            loaded.model.encode_text(loaded.tokenizer([sentence.replace("{}", name)]))[0]
            for sentence in sentences
        ]
        rows.append(torch.stack(embedded).mean(dim=0))
    return F.normalize(torch.stack(rows), dim=-1)


@pytest.mark.parametrize(
    ("templates", "names", "batch_size"),
    [
        ("ensemble81", NAMES[:1], 256),
        ("ensemble81", NAMES[2:3], 100),
        ("ensemble80", NAMES[:1], 7),  # several batches a name
        ("single", NAMES, 256),
        ("none", NAMES, 3),  # several names a batch, the last batch short
    ],
)
def test_text_banks_are_what_encode_text_gives_one_by_one(
    tiny: LoadedClip, templates: str, names: list[str], batch_size: int
) -> None:
    ours = OpenClipEncoder(tiny).text_bank(names, templates, batch_size=batch_size)
    theirs = _bank_by_hand(tiny, names, template_texts(templates))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_the_ensemble_is_open_clips_and_the_bare_name() -> None:
    theirs = [template("lemon") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    ours = [text.replace("{}", "lemon") for text in template_texts("ensemble81")]
    assert ours == ["lemon.", *theirs]
    assert len(ours) == 81


@torch.no_grad()
def test_averaging_normalised_embeddings_would_be_something_else(tiny: LoadedClip) -> None:
    theirs = open_clip.build_zero_shot_classifier(
        tiny.model,
        tiny.tokenizer,
        classnames=NAMES,
        templates=list(template_texts("ensemble80")),
    ).T
    texts = [text.replace("{}", NAMES[0]) for text in template_texts("ensemble80")]
    norms = tiny.model.encode_text(tiny.tokenizer(texts)).norm(dim=-1)
    assert norms.max() / norms.min() > 1.001  # otherwise both averages agree
    ours = OpenClipEncoder(tiny).text_bank(NAMES, "ensemble80")
    assert not torch.equal(ours, theirs)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.05)


@pytest.mark.slow
def test_a_text_bank_of_vit_b_16_is_what_encode_text_gives() -> None:
    loaded = load_clip("ViT-B-16-quickgelu", "random")
    names = ["lemon", "tennis ball", "bat_(animal)"]
    ours = OpenClipEncoder(loaded).text_bank(names, "single")
    theirs = _bank_by_hand(loaded, names, template_texts("single"))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)
