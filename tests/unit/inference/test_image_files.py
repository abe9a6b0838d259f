"""Files of cached images are found by their keys."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regionspot.annotations import image_file_name, image_key
from regionspot.core.errors import MissingFileError
from regionspot.inference import Hit, find_images


def hit(key: str) -> Hit:
    return Hit(
        key=key,
        region=0,
        image_id=1,
        file_name=None,
        box_xyxy=(0, 0, 1, 1),
        label=None,
        cosine=0.5,
        probability=None,
    )


@settings(max_examples=40)
@given(st.text(max_size=90).map(lambda text: f"{text}.jpg"))
def test_a_key_tells_its_path_or_nothing(path: str) -> None:
    key = image_key(path)
    assert image_file_name(key) == (None if key.startswith("--") else path)


@pytest.mark.parametrize("key", ["000000900000", "00a1f5", "-ff-2ejpg", "-2g", "a-2Ejpg"])
def test_other_keys_are_no_paths(key: str) -> None:
    assert image_file_name(key) is None


def test_images_are_found_by_path_and_by_number(tmp_path: Path) -> None:
    names = (
        "cats/tom-1.jpg",
        "deep/er/000000000042.jpg",
        f"{'long' * 30}.png",
        "x/7.jpg",
        "y/7.jpg",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    keys = [image_key(names[0]), "000000000042", image_key(names[2])]
    found = find_images(tmp_path, list(map(hit, keys)))
    assert found == dict(zip(keys, (tmp_path / name for name in names), strict=False))
    assert find_images(tmp_path, [hit(image_key("y/7.jpg"))]).popitem()[1] == tmp_path / "y/7.jpg"
    with pytest.raises(MissingFileError, match=r"'7' \(1 of 2 images"):
        find_images(tmp_path, [hit("7"), hit("000000000042")])  # two files could be it
    with pytest.raises(MissingFileError, match="no folder"):
        find_images(tmp_path / "nowhere", [hit("7")])
