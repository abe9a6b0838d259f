"""Which options belong to which format, and how the command line offers them."""

import typing
from pathlib import Path
from typing import Any

import pytest

from regionspot.annotations import FORMATS, AnnotationFormat, ReadOptions, check_options
from regionspot.core.errors import ConfigError
from regionspot.extraction import AnnotationsConfig

GIVEN: dict[str, Any] = {
    "crowds": "drop",
    "classes_path": Path("classes.csv"),
    "rotations_path": Path("rotations.csv"),
    "groups": "keep",
    "depictions": "drop",
}


def test_the_option_offers_every_format() -> None:
    assert typing.get_args(AnnotationFormat) == tuple(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("option", GIVEN)
def test_an_option_that_does_not_belong_to_the_format_is_refused(
    name: AnnotationFormat, option: str
) -> None:
    needed = {"classes_path": GIVEN["classes_path"]} if name == "openimages" else {}
    options = ReadOptions(**{**needed, option: GIVEN[option]})
    texts = {key: str(value) for key, value in {**needed, option: GIVEN[option]}.items()}
    if option in FORMATS[name].options:
        check_options(name, options)
        config = AnnotationsConfig(format=name, path="a", images_dir="b", **texts)  # type: ignore[arg-type]
        assert config.read_options() == options
        return
    message = rf"--annotations\.{option} means nothing to the format {name}; it belongs to \w"
    with pytest.raises(ConfigError, match=message):
        check_options(name, options)
    with pytest.raises(ConfigError, match=message):
        AnnotationsConfig(format=name, path="a", images_dir="b", **texts)  # type: ignore[arg-type]


def test_openimages_without_class_descriptions_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Set --annotations\.classes_path.*boxable\.csv"):
        AnnotationsConfig(format="openimages", path="a", images_dir="b")


def test_defaults_are_those_of_the_format() -> None:
    config = AnnotationsConfig(format="coco", path="a", images_dir="b")
    assert config.read_options() == ReadOptions()
