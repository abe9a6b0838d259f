"""Every cache configuration is parsed by the command it is written for."""

from pathlib import Path

import pytest

from regionspot.backbones import PRESETS, resolve
from regionspot.cli.cache import parse_config

CONFIGS = Path(__file__).parents[2] / "configs"
CACHE = sorted((CONFIGS / "cache").glob("*.yaml"))


def test_the_configurations_are_there() -> None:
    assert [path.stem for path in CACHE] == [
        *("lvis_val_bb", "lvis_val_bl", "lvis_val_bl336", "lvis_val_glip_bl", "lvis_val_grid_bl"),
        *("lvis_val_sam2_bl", "lvis_val_siglip2_bl", "objects365_bl", "openimages_bl"),
        *("own_coco_bl", "own_csv_bl", "own_voc_bl", "own_yolo_bl", "v3det_bl"),
    ]


@pytest.mark.parametrize("path", CACHE, ids=lambda path: path.stem)
def test_a_cache_is_named_after_its_data_set_and_models(path: Path) -> None:
    config = parse_config(["--config", str(path)])
    data_set, _, preset = path.stem.rpartition("_")
    assert config.models.preset == preset
    assert config.models.preset in PRESETS
    assert config.output_dir == f"caches/{data_set.removesuffix('_coco')}_{preset}"
    assert config.templates == ["ensemble81"]
    assert (config.limit, config.exif_policy, config.models.token_site) == (
        *(None, "ignore", "transformer"),
    )


def test_sam2_is_chosen_by_configuration_alone() -> None:
    sam2 = parse_config(["--config", str(CONFIGS / "cache" / "lvis_val_sam2_bl.yaml")])
    assert resolve(sam2.models).sam_weights == "facebook/sam2.1-hiera-base-plus"
    assert resolve(sam2.models).clip == "ViT-L-14-quickgelu"


def test_another_clip_is_chosen_by_configuration_alone() -> None:
    siglip2 = parse_config(["--config", str(CONFIGS / "cache" / "lvis_val_siglip2_bl.yaml")])
    models = resolve(siglip2.models)
    assert (models.clip, models.clip_weights, models.sam) == ("ViT-B-16-SigLIP2", "webli", "vit_b")


def test_the_toy_configuration_takes_the_shipped_towers() -> None:
    config = parse_config(["--config", str(CONFIGS / "toy" / "cache.yaml")])
    assert config.models.preset == "toy"
    assert config.annotations.format == "lvis"
