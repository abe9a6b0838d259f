"""What the page of ``regionspot demo`` computes from a photo, regions and names."""

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from helpers.heads import random_head
from regionspot.backbones import ModelsConfig, load_frozen_models
from regionspot.core.errors import (
    ConfigError,
    MissingFileError,
    RegionSpotError,
    ShapeError,
    VocabularyError,
)
from regionspot.demo import Answers, Limits, write_toy_pictures
from regionspot.inference import RegionSpot

WORDS = "red striped circle\n\n  sea egg \nblue plain square\n"
BOXES = np.array([[16, 20, 57, 61], [84, 30, 124, 74]])


@pytest.fixture(scope="module")
def model() -> RegionSpot:
    models = load_frozen_models(ModelsConfig(preset="toy"))
    head = random_head(models, seed=3, normalize_inputs=True, templates="single")
    return RegionSpot(head, models)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    pixels = np.random.default_rng(7).integers(0, 255, (96, 140, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_names_come_from_the_lines_of_the_text(model: RegionSpot, photo: Path) -> None:
    regions = Answers(model).name(photo, words=WORDS, boxes=BOXES).regions
    assert regions.vocabulary.names == ("red striped circle", "sea egg", "blue plain square")
    np.testing.assert_allclose(regions.top_scores.sum(axis=1), 1, atol=1e-5)
    only = Answers(model).name(photo, words="sea egg", points=[[30, 40]]).regions
    assert only.labels == ("sea egg",)


def test_a_photo_is_encoded_once_until_its_file_changes(
    model: RegionSpot, photo: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "photo.png"
    copy.write_bytes(photo.read_bytes())
    answers = Answers(model)
    first = answers.open(copy)
    assert answers.open(copy) is first
    Image.new("RGB", (30, 20)).save(copy)
    assert answers.open(copy).pixels.shape == (20, 30, 3)


def test_a_photo_is_shown_upright(model: RegionSpot, tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    ramp = np.arange(40 * 60 * 3, dtype=np.uint32).reshape(40, 60, 3) // 30
    Image.fromarray(ramp.astype(np.uint8)).save(path, exif=exif, quality=95)
    with Image.open(path) as stored:
        wanted = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    found = Answers(model).open(path).pixels
    assert found.shape == (60, 40, 3)
    assert np.abs(found.astype(int) - wanted).max() <= 2  # decoders round differently


def test_an_example_names_the_region_that_it_shows(model: RegionSpot, photo: Path) -> None:
    answers = Answers(model)
    examples = [
        answers.example(photo, " my disc ", BOXES[0]),
        answers.example(photo, "my square", BOXES[1]),
    ]
    for box, name in zip(BOXES, ("my disc", "my square"), strict=True):
        answer = answers.name(photo, words=WORDS, examples=examples, boxes=[box])
        assert answer.regions.labels == (name,)
        assert answer.regions.vocabulary.names == ("my disc", "my square")
        assert "--cache" in answer.note
    np.testing.assert_allclose([np.linalg.norm(one.embedding) for one in examples], 1, atol=1e-5)


def test_attention_of_a_region_follows_its_prompt(model: RegionSpot, photo: Path) -> None:
    forward = model.attention(str(photo), BOXES)
    np.testing.assert_allclose(forward.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(model.attention(str(photo), BOXES[::-1])[::-1], forward, atol=1e-5)
    whole = np.array([0, 0, 140, 96], np.float32)
    picture, caption = Answers(model).attention(photo, 1, boxes=BOXES, box_xyxy=whole)
    assert picture.size == (480, 329)
    assert caption.startswith("Region 2: 100% of its attention")
    assert "covers 100% of the picture" in caption


@pytest.mark.parametrize(
    ("limits", "words", "boxes", "expected", "message"),
    [
        ({"max_regions": 1}, WORDS, BOXES, ShapeError, "2 regions; wanted at most 1"),
        ({"max_names": 2}, WORDS, BOXES, VocabularyError, "3 words; wanted at most 2"),
        ({"max_pixels": 13_439}, WORDS, BOXES, ValueError, "140 x 96 pixels; wanted at most 13,"),
        ({"max_upload_mb": 0.01}, WORDS, BOXES, ValueError, "wanted at most 0.01 MB"),
        ({}, " \n ", BOXES, VocabularyError, "no words to choose from"),
        ({}, "red car\nsea egg\nzeppelin", BOXES, VocabularyError, "not know 'car', 'zeppelin'"),
        ({}, WORDS, [[500, 500, 600, 600]], ShapeError, "500"),
    ],
)
def test_what_is_refused_says_what_is_wanted(
    model: RegionSpot,
    photo: Path,
    limits: dict[str, float],
    words: str,
    boxes: NDArray[np.int64],
    expected: type[Exception],
    message: str,
) -> None:
    with pytest.raises(expected, match=message) as caught:
        Answers(model, limits=Limits(**limits)).name(photo, words=words, boxes=boxes)  # type: ignore[arg-type]
    assert isinstance(caught.value, RegionSpotError)


def test_the_tiny_sam_proposes_regions_of_example_pictures(
    model: RegionSpot, tmp_path: Path
) -> None:
    for path in write_toy_pictures(tmp_path, count=2):
        proposed = Answers(model, limits=Limits(max_regions=3)).name(path, words=WORDS).regions
        assert 1 <= len(proposed) <= 3


def test_a_text_file_is_not_a_picture(model: RegionSpot, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_text("hello")
    with pytest.raises(RegionSpotError, match="no picture that can be read. Upload a JPEG"):
        Answers(model).name(path, words=WORDS, boxes=BOXES)
    with pytest.raises(MissingFileError, match="upload it again"):
        Answers(model).name(tmp_path / "removed.jpg", words=WORDS, boxes=BOXES)


def test_a_nameless_example_is_refused(model: RegionSpot, photo: Path) -> None:
    with pytest.raises(VocabularyError, match="no name"):
        Answers(model).example(photo, "  ", BOXES[0])


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--limits\.max_names is 0"):
        Limits(max_names=0)


def test_the_tiny_model_lists_its_words(model: RegionSpot) -> None:
    assert {"red", "striped", "egg"} <= set(model.known_words)


def test_example_pictures_are_always_the_same(tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    first = [path.read_bytes() for path in write_toy_pictures(tmp_path, count=2)]
    assert first == [path.read_bytes() for path in write_toy_pictures(again, count=2)]
    assert first[0] != first[1]
    with Image.open(io.BytesIO(first[0])) as picture:
        assert min(picture.size) >= 64
