"""Options that cannot work are refused by name, before anything is loaded."""

import math
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from regionspot.backbones import ModelsConfig
from regionspot.cli.cache import parse_config
from regionspot.core.errors import ConfigError, RegionSpotError
from regionspot.extraction import AnnotationsConfig, CacheConfig

ANNOTATIONS = AnnotationsConfig(format="lvis", path="val.json", images_dir="images")
WORDS = [
    *("--output_dir", "cache", "--annotations.format", "lvis"),
    *("--annotations.path", "val.json", "--annotations.images_dir", "images"),
]


def config_of(**options: Any) -> CacheConfig:
    values: dict[str, Any] = {"output_dir": "cache", "annotations": ANNOTATIONS}
    return CacheConfig(**(values | options))


def typed(option: str, value: object) -> list[str]:
    if isinstance(value, list):
        text = f"[{','.join(value)}]"
    elif value is None or (isinstance(value, float) and not math.isfinite(value)):
        text = {"None": "null", "inf": ".inf", "nan": ".nan"}[str(value)]  # as YAML spells it
    else:
        text = str(value)
    return [f"--{option}", text]


BAD_VALUES = [
    ("images_per_shard", 0, r"--images_per_shard is 0; wanted 1 or more\."),
    ("batch_size", -3, r"--batch_size is -3; wanted 1 or more\."),
    ("limit", 0, r"--limit is 0; wanted 1 or more\."),
    ("max_quarantined_in_a_row", 0, r"--max_quarantined_in_a_row is 0; wanted 1 or more\."),
    ("max_quarantined_share", -0.01, r"--max_quarantined_share is -0\.01; wanted a share from 0"),
    ("max_quarantined_share", 1.5, r"--max_quarantined_share is 1\.5; wanted a share from 0"),
    ("max_quarantined_share", math.inf, r"--max_quarantined_share is inf; wanted a share"),
    ("max_quarantined_share", math.nan, r"--max_quarantined_share is nan; wanted a share"),
    ("templates", [], r"--templates is \[\]; wanted one or more of ensemble81, ensemble80, single"),
    ("templates", ["solo"], r"--templates is \['solo'\]; wanted one or more of ensemble81"),
    ("templates", ["single", "all"], r"--templates is \['single', 'all'\]; wanted one or more of"),
    ("output_dir", "", r"--output_dir is empty; name the folder to write the cache to\."),
]


@pytest.mark.parametrize(("option", "value", "message"), BAD_VALUES)
def test_a_bad_value_is_refused_naming_the_option(option: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        config_of(**{option: value})


@pytest.mark.parametrize(("option", "value", "message"), BAD_VALUES)
def test_a_bad_value_on_the_command_line_gets_the_same_message(
    option: str, value: object, message: str
) -> None:
    with pytest.raises(RegionSpotError, match=f"^{message}"):
        parse_config([*WORDS, *typed(option, value)])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("images_per_shard", 1),
        ("batch_size", 1),
        ("limit", 1),
        ("limit", None),
        ("max_quarantined_in_a_row", 1),
        ("max_quarantined_share", 0.0),
        ("max_quarantined_share", 1.0),
        ("templates", ["none"]),
        ("templates", ["ensemble81", "ensemble80", "single", "none", "ensemble81-readable"]),
    ],
)
def test_the_last_good_values_are_taken(option: str, value: object) -> None:
    assert getattr(config_of(**{option: value}), option) == value
    assert getattr(parse_config([*WORDS, *typed(option, value)]), option) == value


def test_what_the_message_about_templates_says_to_type_works() -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(templates=[])
    advice = re.search(r"for instance (--templates '.*')", str(caught.value))
    assert advice is not None
    assert parse_config([*WORDS, *shlex.split(advice[1])]).templates == ["ensemble81"]


def test_the_defaults_are_those_of_the_paper() -> None:
    config = parse_config(WORDS)
    assert config == CacheConfig(
        output_dir="cache",
        annotations=ANNOTATIONS,
        models=ModelsConfig(preset="bl", token_site="transformer"),  # noqa: S106 - no password
        templates=["ensemble81"],
        images_per_shard=1000,
        batch_size=8,
        device="auto",
        exif_policy="ignore",
        max_quarantined_share=0.01,
        limit=None,
    )
    assert config.annotations.crowds == "keep"


def test_the_command_line_goes_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "cache.yaml"
    path.write_text(
        "output_dir: from_file\nbatch_size: 3\nimages_per_shard: 50\nmodels: {preset: toy}\n"
        "annotations: {format: coco, path: a.json, images_dir: pictures, crowds: drop}\n",
        encoding="utf-8",
    )
    config = parse_config(["--config", str(path), "--batch_size", "4", "--models.sam", "vit_b"])
    assert (config.output_dir, config.batch_size, config.images_per_shard) == ("from_file", 4, 50)
    assert (config.models.preset, config.models.sam, config.models.clip) == ("toy", "vit_b", None)
    assert config.annotations == AnnotationsConfig(
        format="coco", path="a.json", images_dir="pictures", crowds="drop"
    )


def test_a_bad_value_in_a_file_is_refused_like_one_that_was_typed(tmp_path: Path) -> None:
    path = tmp_path / "cache.yaml"
    path.write_text("images_per_shard: 0\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="^--images_per_shard is 0; wanted 1 or more"):
        parse_config(["--config", str(path), *WORDS])


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--images_per_shard", "many"], "images_per_shard"),
        (["--annotations.format", "darknet"], "annotations.format"),
        (["--exif_policy", "turn"], "exif_policy"),
        (["--models.token_site", "masks"], "models.token_site"),
        (["--outptu_dir", "cache"], "--outptu_dir"),
    ],
)
def test_what_cannot_be_read_at_all_exits_with_2_and_names_the_option(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_config([*WORDS, *words])
    assert caught.value.code == 2
    message = capsys.readouterr().err.partition("error: ")[2]
    assert named in message.splitlines()[0]


def test_options_that_must_be_given_are_all_named_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_config([])
    assert caught.value.code == 2
    message = capsys.readouterr().err.partition("error: ")[2]
    for option in ("output_dir", "annotations.format", "annotations.path"):
        assert option in message
    assert "annotations.images_dir" in message
