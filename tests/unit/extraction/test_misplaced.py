"""Where a missing image lies instead; the folders are those of exports that people have."""

import unicodedata
from pathlib import Path

import pytest

from regionspot.cache import QuarantinedImage
from regionspot.extraction import (
    AnnotationsConfig,
    CacheConfig,
    PreparedBatch,
    QuarantineGuard,
    TooManyQuarantinedError,
)
from regionspot.extraction.misplaced import where_instead


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.mark.parametrize(
    ("on_disk", "images_dir", "file_name", "wanted"),
    [
        ("valid/images/a.jpg", "valid", "a.jpg", "{}/valid/images"),  # a folder deeper
        ("x/y/z/valid/a.jpg", ".", "valid/a.jpg", "{}/x/y/z"),
        ("valid/a.jpg", "valid", "valid/a.jpg", "{}"),  # the images_dir is too deep
        ("val/x/a.jpg", "val/x", "val/x/a.jpg", "{}"),
    ],
)
def test_the_folder_to_type_is_named(
    tmp_path: Path, on_disk: str, images_dir: str, file_name: str, wanted: str
) -> None:
    touch(tmp_path / on_disk)
    folder = wanted.format(tmp_path)
    assert where_instead(tmp_path / images_dir, file_name) == (
        f"{file_name} is in {folder}: give --annotations.images_dir {folder}."
    )


@pytest.mark.parametrize(
    ("on_disk", "file_name", "difference"),
    [
        ("A.JPG", "a.jpg", "in another case"),
        ("Images/a.jpg", "images/a.jpg", None),  # same name, other folder
        ("photos/a.jpg", "valid/a.jpg", None),
        (unicodedata.normalize("NFD", "caf\u00e9.jpg"), "caf\u00e9.jpg", "accents in another"),
        ("caf\u00e9.jpg", unicodedata.normalize("NFD", "caf\u00e9.jpg"), "accents in another"),
        (unicodedata.normalize("NFD", "CAF\u00c9.jpg"), "caf\u00e9.jpg", "in another case"),
        ("a.png", "a.jpg", "of another type"),
    ],
)
def test_a_file_of_a_like_name_is_named_with_the_difference(
    tmp_path: Path, on_disk: str, file_name: str, difference: str | None
) -> None:
    touch(tmp_path / "deeper" / "b.jpg")
    touch(tmp_path / on_disk)
    found = where_instead(tmp_path, file_name)
    assert found is not None
    assert f" is {tmp_path / on_disk}; the annotations say {file_name}." in found
    assert (difference or "A file of that name is") in found


def test_the_likest_file_is_named(tmp_path: Path) -> None:
    for name in ("A.jpg", "x/a.png", "x/y/a.jpg"):
        touch(tmp_path / name)
    found = where_instead(tmp_path, "a.jpg")
    assert found is not None
    assert found.startswith(f"a.jpg is in {tmp_path}/x/y: ")


def test_nothing_is_said_where_nothing_is_like_it(tmp_path: Path) -> None:
    touch(tmp_path / "b.jpg")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert where_instead(tmp_path, "a.jpg") is None
    assert where_instead(tmp_path / "nowhere", "a.jpg") is None


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path / "disk" / "a.jpg")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "valid").symlink_to(tmp_path / "disk")
    found = where_instead(tmp_path / "data", "a.jpg")
    assert found is not None
    assert found.endswith(f"--annotations.images_dir {tmp_path}/data/valid.")


def test_the_search_ends_after_so_many_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regionspot.extraction.misplaced._MAX_ENTRIES", 3)
    for number in range(4):
        touch(tmp_path / f"{number}.png")
    touch(tmp_path / "deeper" / "a.jpg")
    assert where_instead(tmp_path, "a.jpg") is None


def test_a_run_that_stops_for_missing_images_says_where_they_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path / "images" / "0.jpg")
    config = CacheConfig(
        output_dir=str(tmp_path / "cache"),
        annotations=AnnotationsConfig(format="csv", path="own.csv", images_dir=str(tmp_path)),
    )
    missing = [
        QuarantinedImage(key=f"{n}", image_id=n, file_name=f"{n}.jpg", reason="does not exist")
        for n in range(2)
    ]
    batch = PreparedBatch(
        shard_index=0, images=[], quarantined=missing, is_usable=[False, False], ends_shard=True
    )
    hint = f"0.jpg is in {tmp_path}/images: give --annotations.images_dir {tmp_path}/images."
    with pytest.raises(TooManyQuarantinedError) as caught:
        list(QuarantineGuard(config, 2, []).checked([batch]))
    assert f"\n  0.jpg does not exist\n  1.jpg does not exist\n{hint}\n" in str(caught.value)
    assert caplog.messages.count(hint) == 1
