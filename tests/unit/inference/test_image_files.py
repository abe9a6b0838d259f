"""Files of cached images are found by the names that the cache stores, or by their keys."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regionspot.annotations import image_file_name, image_key
from regionspot.core.errors import MissingFileError
from regionspot.inference import find_images


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
    found = find_images(tmp_path, dict.fromkeys(keys))
    assert found == dict(zip(keys, (tmp_path / name for name in names), strict=False))
    assert find_images(tmp_path, {image_key("y/7.jpg"): None}).popitem()[1] == tmp_path / "y/7.jpg"
    with pytest.raises(MissingFileError, match=r"lacks 1 of 2 images, .* key '7'"):
        find_images(tmp_path, {"7": None, "000000000042": None})  # two files could be it
    with pytest.raises(MissingFileError, match="no folder"):
        find_images(tmp_path / "nowhere", {"7": None})


def test_a_stored_name_decides(tmp_path: Path) -> None:
    for name in ("x/7.jpg", "y/7.jpg", "8.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_images(tmp_path, {"7": "y/7.jpg"}) == {"7": tmp_path / "y/7.jpg"}
    with pytest.raises(MissingFileError, match=r"lacks 1 of 1 images, .* key '8'"):
        find_images(tmp_path, {"8": "z/8.jpg"})  # not the other 8.jpg
