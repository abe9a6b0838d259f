"""Every shipped evaluation config is one that ``evaluate.py`` takes."""

from pathlib import Path

import pytest

from regionspot.backbones import resolve
from regionspot.cli.evaluate import parse_config
from regionspot.evaluation.methods import check_methods

ROOT = Path(__file__).parents[2]
CONFIGS = [*sorted((ROOT / "configs" / "eval").glob("*.yaml")), ROOT / "configs/toy/eval.yaml"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_shipped_config_is_valid(path: Path) -> None:
    config = parse_config(["--config", str(path)])
    assert check_methods(config.methods)
    assert config.models is not None
    assert resolve(config.models).clip
    assert "fusion_head" in config.heads


def test_options_override_the_file() -> None:
    config = parse_config(["--config", str(CONFIGS[0]), "--protocol", "top1", "--methods", "[]"])
    assert (config.protocol, config.methods) == ("top1", [])
