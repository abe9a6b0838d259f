"""The towers' recipe against their shipped descriptions, and against open_clip's own forward."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from torch import Tensor
from torchvision.transforms.functional import normalize

from regionspot.backbones import build_sam, load_clip, load_sam
from regionspot.core.errors import WeightsError
from regionspot.toy import vocabulary
from toy_towers.towers import (
    TINY_SAM,
    ClipShape,
    build_clip,
    clip_config,
    clip_tokenizer,
    load_weights,
    normalised_pixels,
    round_to_half,
    sam_config,
    save_tower,
)
from toy_towers.train_clip import encode_texts, view_tokens
from toy_towers.views import View

TEXTS = ["a photo of a striped red heart.", "sea egg", "", "the night.", "a zebra above a lamp"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # the towers are too small for more


@pytest.fixture(scope="module")
def clip() -> CLIP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tower = build_clip(ClipShape())
    with torch.no_grad():  # fresh codes are nearly zero, and would hide a wrong one
        tower.visual.positional_embedding.mul_(20)
        tower.positional_embedding.mul_(20)
    round_to_half(tower)
    return tower.eval()


@pytest.fixture(scope="module")
def sam() -> Sam:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tower = build_sam(TINY_SAM)
    round_to_half(tower)
    return tower.eval()


def shipped(name: str) -> Any:
    return json.loads((files("regionspot.backbones") / "tiny" / name).read_text())


def random_images(num: int, side: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (num, side, side, 3), dtype=np.uint8)


def view_of(pixels: NDArray[np.uint8], corner_yx: tuple[int, int] = (0, 0)) -> View:
    return View(pixels=pixels, corner_yx=corner_yx, objects=(), doubtful=(), setting="sea")


def test_the_shipped_descriptions_are_those_of_the_recipe() -> None:
    assert shipped("sam.json") == json.loads(json.dumps(sam_config(TINY_SAM)))
    assert shipped("clip.json") == json.loads(json.dumps(clip_config(ClipShape())))


def test_the_recipes_clip_is_what_open_clip_builds_from_the_description() -> None:
    config = shipped("clip.json")
    theirs = CLIP(
        embed_dim=config["embed_dim"],
        vision_cfg=CLIPVisionCfg(**config["vision_cfg"]),
        text_cfg=CLIPTextCfg(**config["text_cfg"]),
    )
    ours = build_clip(ClipShape())
    shapes = {name: value.shape for name, value in ours.state_dict().items()}
    assert shapes == {name: value.shape for name, value in theirs.state_dict().items()}


def test_the_tokenizer_knows_every_class_name() -> None:
    tokenizer = clip_tokenizer(ClipShape())
    ids = tokenizer(list(vocabulary()))
    assert ids.shape == (164, 32)
    assert not (ids == 1).any()  # 1 is the unknown word
    assert (
        ids.max() == tokenizer.vocab_size - 1 == shipped("clip.json")["text_cfg"]["vocab_size"] - 1
    )
    assert len({tuple(row) for row in ids.tolist()}) == 164


@torch.no_grad()
def test_a_saved_clip_is_loaded_as_it_was(clip: CLIP, tmp_path: Path) -> None:
    save_tower(clip, clip_config(ClipShape()), tmp_path / "new" / "clip")
    loaded = load_clip("tiny", str(tmp_path / "new" / "clip.safetensors"))
    again = build_clip(ClipShape()).eval()
    load_weights(again, tmp_path / "new" / "clip.safetensors")
    pixels, weights = normalised_pixels(random_images(2, 96)), clip.state_dict()
    ids = loaded.tokenizer(TEXTS)
    for other in (loaded.model, again):
        torch.testing.assert_close(other.state_dict(), weights, rtol=0, atol=0)
        torch.testing.assert_close(other.encode_image(pixels), clip.encode_image(pixels))
        torch.testing.assert_close(other.encode_text(ids), clip.encode_text(ids))
        assert next(other.parameters()).dtype == torch.float32
    assert torch.equal(ids, clip_tokenizer(ClipShape())(TEXTS))
    assert (loaded.mean, loaded.std) == (ClipShape().mean, ClipShape().std)
    assert json.loads((tmp_path / "new" / "clip.json").read_text()) == shipped("clip.json")


@torch.no_grad()
def test_a_saved_sam_is_loaded_as_it_was(sam: Sam, tmp_path: Path) -> None:
    save_tower(sam, sam_config(TINY_SAM), tmp_path / "sam")
    loaded = load_sam("tiny", str(tmp_path / "sam.safetensors"))
    answers = []
    for tower in (sam, loaded):
        predictor = SamPredictor(tower)
        predictor.set_image(random_images(1, 100)[0])
        answers.append(predictor.predict(box=np.array([10, 20, 60, 90]), return_logits=True))
    for ours, theirs in zip(*answers, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_weights_of_another_tower_are_refused(sam: Sam, tmp_path: Path) -> None:
    save_tower(sam, sam_config(TINY_SAM), tmp_path / "sam")
    with pytest.raises(WeightsError, match="does not fit CLIP"):
        load_clip("tiny", str(tmp_path / "sam.safetensors"))
    with pytest.raises(RuntimeError, match="Missing key"):
        load_weights(build_clip(ClipShape()), tmp_path / "sam.safetensors")


def test_weights_are_stored_in_half_precision_and_rounding_says_what_that_costs() -> None:
    tower = torch.nn.Linear(1, 3)
    with torch.no_grad():
        tower.weight.copy_(torch.tensor([[1 / 3], [1.0], [2**-26]]))
    round_to_half(tower)
    assert tower.weight.flatten().tolist() == [0.333251953125, 1.0, 0.0]
    assert tower.weight.dtype == torch.float32


def test_pixels_are_normalised_as_torchvision_does() -> None:
    images, shape = random_images(2, 24), ClipShape()
    theirs = normalize(
        torch.from_numpy(images).permute(0, 3, 1, 2) / 255, list(shape.mean), list(shape.std)
    )
    torch.testing.assert_close(normalised_pixels(images), theirs)


@torch.no_grad()
def test_texts_without_their_padding_are_encoded_as_open_clip_does(clip: CLIP) -> None:
    tokenizer = clip_tokenizer(ClipShape())
    longest = " ".join(["lamp"] * 40)  # cut off at the tower's context length
    for texts in (TEXTS, TEXTS[1:2], [longest, *TEXTS]):
        ids = tokenizer(texts)
        torch.testing.assert_close(
            encode_texts(clip, ids), clip.encode_text(ids), rtol=0, atol=1e-5
        )
    assert encode_texts(clip, tokenizer([])).shape == (0, 128)


def tokens_by_open_clip(clip: CLIP, pixels: NDArray[np.uint8]) -> Tensor:
    """Class token and patches after the final norm, projected; (B, 1 + P, E)."""
    seen = clip.visual.forward_intermediates(
        normalised_pixels(pixels),
        indices=1,
        output_fmt="NLC",
        normalize_intermediates=True,
    )
    patches: Tensor = seen["image_intermediates"][0] @ clip.visual.proj
    return torch.cat([seen["image_features"][:, None], patches], dim=1)


@torch.no_grad()
def test_a_whole_view_is_encoded_as_open_clip_does(clip: CLIP) -> None:
    images = random_images(2, 96)
    ours = view_tokens(clip, [view_of(image) for image in images])
    torch.testing.assert_close(ours, tokens_by_open_clip(clip, images), rtol=0, atol=1e-5)
    theirs = clip.encode_image(normalised_pixels(images))
    torch.testing.assert_close(ours[:, 0], theirs, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_block_is_encoded_as_by_a_smaller_clip_with_the_codes_of_its_place(clip: CLIP) -> None:
    images, corners = random_images(2, 40), [(0, 7), (6, 2)]
    ours = view_tokens(
        clip, [view_of(image, corner) for image, corner in zip(images, corners, strict=True)]
    )
    assert ours.shape == (2, 1 + 25, 128)
    small = build_clip(ClipShape(image_size=40)).eval()
    for image, (top, left), tokens in zip(images, corners, ours, strict=True):
        state = clip.state_dict()
        codes = state["visual.positional_embedding"]
        block = codes[1:].reshape(12, 12, -1)[top : top + 5, left : left + 5]
        state["visual.positional_embedding"] = torch.cat([codes[:1], block.flatten(0, 1)])
        small.load_state_dict(state)
        theirs = tokens_by_open_clip(small, image[None])[0]
        torch.testing.assert_close(tokens, theirs, rtol=0, atol=1e-5)


def test_views_of_a_tower_that_is_no_vit_are_refused(clip: CLIP) -> None:
    vision = CLIPVisionCfg(layers=(1, 1, 1, 1), width=8, image_size=32)
    text = CLIPTextCfg(context_length=8, vocab_size=9, width=16, heads=2, layers=1)
    resnet = CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text)
    with pytest.raises(TypeError, match="ModifiedResNet"):
        view_tokens(resnet, [view_of(random_images(1, 32)[0])])
