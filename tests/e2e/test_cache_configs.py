"""Every cache configuration is parsed by the command it is written for."""

from pathlib import Path

import open_clip
import pytest

from regionspot.backbones import PRESETS
from regionspot.cli.cache import parse_config

CONFIGS = Path(__file__).parents[2] / "configs"
CACHE = sorted((CONFIGS / "cache").glob("*.yaml"))
PRESET = [path for path in CACHE if path.stem != "lvis_val_siglip2"]


def test_the_configurations_are_there() -> None:
    assert [path.stem for path in CACHE] == [
        *("lvis_val_bb", "lvis_val_bl", "lvis_val_bl336", "lvis_val_glip_bl", "lvis_val_grid_bl"),
        *("lvis_val_siglip2", "objects365_bl", "openimages_bl", "own_coco_bl", "own_csv_bl"),
        "v3det_bl",
    ]


@pytest.mark.parametrize("path", PRESET, ids=lambda path: path.stem)
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


def test_another_clip_is_named_with_weights_that_open_clip_has() -> None:
    config = parse_config(["--config", str(CONFIGS / "cache" / "lvis_val_siglip2.yaml")])
    chosen = (config.models.clip, config.models.clip_weights)
    assert chosen in open_clip.list_pretrained()
    assert config.output_dir == "caches/lvis_val_siglip2"


def test_the_toy_configuration_takes_the_shipped_towers() -> None:
    config = parse_config(["--config", str(CONFIGS / "toy" / "cache.yaml")])
    assert config.models.preset == "toy"
    assert config.annotations.format == "lvis"
