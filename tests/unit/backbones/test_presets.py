"""Presets: what a configuration leaves open is filled in, and what cannot be is asked for."""

from dataclasses import asdict, astuple
from typing import Any

import jsonargparse
import pytest

from regionspot.backbones import PRESETS, ModelsConfig, resolve
from regionspot.core.errors import ConfigError


@pytest.mark.parametrize(
    ("preset", "sam", "sam_weights", "clip", "clip_weights"),
    [
        ("bb", "vit_b", "sam_vit_b_01ec64", "ViT-B-16-quickgelu", "openai"),
        ("bl", "vit_b", "sam_vit_b_01ec64", "ViT-L-14-quickgelu", "openai"),
        ("bl336", "vit_b", "sam_vit_b_01ec64", "ViT-L-14-336-quickgelu", "openai"),
        ("toy", "tiny", "shipped", "tiny", "shipped"),
    ],
)
def test_the_presets_are_the_papers_pairs_and_the_toy(
    preset: str, sam: str, sam_weights: str, clip: str, clip_weights: str
) -> None:
    assert astuple(resolve(ModelsConfig(preset=preset))) == (
        *(sam, sam_weights, clip, clip_weights),
        "transformer",
    )
    assert preset in PRESETS


MLP_TOY = ModelsConfig(preset="toy", token_site="mlp")  # noqa: S106 - no password


def test_another_sam_gets_its_own_weights_and_not_the_presets() -> None:
    assert resolve(ModelsConfig(sam="vit_h")).sam_weights == "sam_vit_h_4b8939"


def test_what_is_given_is_kept() -> None:
    given: dict[str, Any] = {
        "sam": "vit_l",
        "sam_weights": "a.pth",
        "clip": "ViT-B-32",
        "clip_weights": "b.pt",
    }
    config = ModelsConfig(**given, token_site="mlp")  # noqa: S106 - no password
    assert asdict(resolve(config)) == {**given, "token_site": "mlp"}


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'xl'.*bb, bl, bl336, toy.*models\.preset"):
        resolve(ModelsConfig(preset="xl"))


def test_an_unknown_sam_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'vit_x'.*vit_b, vit_l, vit_h, tiny"):
        resolve(ModelsConfig(sam="vit_x"))
    with pytest.raises(ConfigError, match=r"'mobile_sam'.*tiny, sam2_hiera_tiny.*models\.sam\)"):
        resolve(ModelsConfig(sam="mobile_sam"))


@pytest.mark.parametrize("version", ["sam2", "sam2.1"])
@pytest.mark.parametrize("size", ["tiny", "small", "base_plus", "large"])
def test_sam2_gets_the_repository_that_meta_released_it_in(version: str, size: str) -> None:
    name = size.replace("_", "-")
    resolved = resolve(ModelsConfig(sam=f"{version}_hiera_{size}"))
    assert resolved.sam_weights == f"facebook/{version}-hiera-{name}"
    assert resolved.clip == "ViT-L-14-quickgelu"


def test_a_clip_without_default_weights_asks_for_them() -> None:
    with pytest.raises(ConfigError, match=r"ViT-H-14.*models\.clip_weights"):
        resolve(ModelsConfig(clip="ViT-H-14"))


def test_jsonargparse_reads_it_and_helps_with_each_field() -> None:
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--models", type=ModelsConfig, default=ModelsConfig())
    parsed = parser.parse_args(["--models.preset=toy", "--models.token_site=mlp"])
    assert parser.instantiate(parsed).models == MLP_TOY
    help_text = parser.format_help()
    for option in ("preset", "sam", "sam_weights", "clip", "clip_weights", "token_site"):
        assert f"--models.{option} " in help_text
    with pytest.raises(jsonargparse.ArgumentError, match="token_site"):
        parser.parse_args(["--models.token_site=encoder"])
