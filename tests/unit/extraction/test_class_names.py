"""What `cache_features` says about class names that CLIP does not know or cannot tell apart."""

from pathlib import Path
from typing import Any

import pytest

from helpers.worlds import draw_images, write_own_csv
from regionspot.backbones import ModelsConfig
from regionspot.cache import FeatureCache
from regionspot.core.errors import CacheMismatchError, VocabularyError
from regionspot.extraction import AnnotationsConfig, CacheConfig, cache_features


def lines_of(folder: Path, labels: list[str], **options: Any) -> list[str]:
    """Cache an image with a box of each label; return the last lines."""
    draw_images(folder, ["0.png"])
    write_own_csv(folder, [f"0.png,1,2,{9 + n},20,{label}" for n, label in enumerate(labels)])
    annotations = AnnotationsConfig(
        format="csv", path=str(folder / "own.csv"), images_dir=str(folder)
    )
    config = CacheConfig(
        output_dir=str(folder / "cache"),
        annotations=annotations,
        models=ModelsConfig(preset="toy"),
        device="cpu",
        **{"templates": ["none"], **options},
    )
    return cache_features(config).lines()


def test_words_that_the_tiny_clip_does_not_know_are_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    with pytest.raises(VocabularyError) as caught:
        lines_of(tmp_path, ["cat", "dog", "red star"])
    message = str(caught.value)
    assert message.startswith("2 of 3 class names hold words that the encoder tiny does not know")
    assert "'cat', 'dog'. It knows 98 words, such as plain, striped" in message
    assert message.endswith("To try the pipeline anyway: --unknown_words keep.")
    assert not (tmp_path / "cache").exists()


def test_kept_unknown_words_are_told_in_the_last_lines_whenever_the_command_is_given(
    tmp_path: Path,
) -> None:
    for _ in range(2):
        lines = lines_of(tmp_path, ["cat", "dog", "red star"], unknown_words="keep")
        assert lines[-2].startswith(
            "WARNING: the encoder tiny does not know the words 'cat', 'dog': all of them are"
        )
        assert lines[-1].endswith("cannot tell them apart: 'cat' = 'dog' (kept; see same_tokens)")


def test_names_with_the_same_tokens_are_told_or_refused(tmp_path: Path) -> None:
    labels = ["Red star", "red star", "blue egg"]
    with pytest.raises(VocabularyError, match="'Red star' = 'red star'. Rename or remove"):
        lines_of(tmp_path, labels, same_tokens="refuse")
    assert not (tmp_path / "cache").exists()
    lines = lines_of(tmp_path, labels, templates=["none", "single"])
    assert [line for line in lines if "tell them apart: 'Red star' = 'red star'" in line]
    assert len([line for line in lines if "tell them apart" in line]) == 1


def test_names_with_the_same_tokens_may_be_merged_into_the_first(tmp_path: Path) -> None:
    labels = ["blue egg", "Red star", "red star", "RED STAR", "white ring"]
    lines = lines_of(tmp_path, labels, same_tokens="merge")
    assert lines[-1].endswith("'Red star' = 'red star' = 'RED STAR' (merged)")
    with FeatureCache.open(tmp_path / "cache") as cache:
        assert cache.manifest.vocabulary.names == ("blue egg", "Red star", "white ring")
        assert cache.manifest.category_ids == (0, 1, 4)
        assert cache.sample(0).labels.tolist() == [0, 1, 1, 1, 2]
        assert cache.text_bank("none").shape[0] == 3
    again = lines_of(tmp_path, labels, same_tokens="merge")
    assert "already complete, nothing to do" in again
    with pytest.raises(CacheMismatchError, match="annotation_sha256"):
        lines_of(tmp_path, labels, same_tokens="keep")


def test_known_names_need_no_word(tmp_path: Path) -> None:
    lines = lines_of(tmp_path, ["red star", "plain egg"])
    assert not [line for line in lines if "CLIP" in line]
