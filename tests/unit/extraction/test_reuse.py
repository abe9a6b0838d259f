"""Which images of an old cache count as the same, and which of their tokens as known."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regionspot.annotations import ImageRecord
from regionspot.cache import FeatureCache
from regionspot.extraction.reuse import OldCache

NUMBER = 7
"""The image that is looked for; it has 4 regions. The cache has images 0 to 11."""


@pytest.fixture
def folder(make_cache: Callable[..., Path]) -> Path:
    return make_cache(empty=(2,))


@pytest.fixture
def old_cache(folder: Path) -> OldCache:
    return opened(folder)


def opened(folder: Path, *, finds_regions: bool = False, **changes: Any) -> OldCache:
    with FeatureCache.open(folder) as cache:
        wanted = replace(cache.manifest, **changes)
    return OldCache.open(folder, wanted=wanted, finds_regions=finds_regions)


def boxes_of(folder: Path, number: int = NUMBER) -> np.ndarray:
    with FeatureCache.open(folder) as cache:
        return np.array(cache.sample(number).boxes_xyxy)


def record(boxes_xyxy: np.ndarray, number: int = NUMBER, **changes: Any) -> ImageRecord:
    made = ImageRecord(
        key=f"image{number:03d}",
        image_id=100 + number,
        file_name="a.jpg",
        annotated_size_hw=(60, 40 + number),
        boxes_xyxy=boxes_xyxy,
        labels=np.zeros(len(boxes_xyxy), np.int64),
    )
    return replace(made, **changes)


@pytest.mark.parametrize(
    ("changes", "is_known"),
    [
        ({}, True),
        ({"annotated_size_hw": None}, True),  # formats that do not tell it
        ({"annotated_size_hw": (60, 48)}, False),
        ({"image_id": 108}, False),
        ({"key": "image008"}, False),  # another image's
        ({"key": "image0070"}, False),  # longer than all keys of the cache
        ({"key": "image00"}, False),
        ({"key": "zebra"}, False),  # after the last one
        ({"key": "Aachen"}, False),  # before the first one
    ],
    ids=str,
)
def test_an_image_is_known_by_key_id_and_size(
    folder: Path, old_cache: OldCache, changes: dict[str, Any], is_known: object
) -> None:
    found = old_cache.find(record(boxes_of(folder), **changes))
    assert (found is not None) is is_known


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [3, 1], [2, 2], []], ids=str)
def test_each_box_keeps_its_own_token(folder: Path, old_cache: OldCache, rows: list[int]) -> None:
    found = old_cache.find(record(boxes_of(folder)[rows]))
    assert found is not None
    assert found.regions is not None
    with FeatureCache.open(folder) as cache:
        wanted = cache.sample(NUMBER).position_tokens[rows]
    np.testing.assert_array_equal(found.regions.tokens, wanted)
    assert found.num_tokens == len(rows)
    assert found.regions.box_scores.tolist() == [1.0] * len(rows)


def test_one_new_box_and_sam_has_to_look(folder: Path, old_cache: OldCache) -> None:
    boxes = boxes_of(folder)
    boxes[2, 3] = np.nextafter(boxes[2, 3], np.float32(0))
    found = old_cache.find(record(boxes))
    assert found is not None
    assert (found.regions, found.num_tokens) == (None, 0)


def test_tokens_of_other_prompts_are_never_those_of_boxes(folder: Path) -> None:
    for prompt in ("mask", "points", "box_and_mask"):
        of_masks = opened(folder, prompt=prompt)
        found = of_masks.find(record(boxes_of(folder)))
        assert found is not None
        assert found.regions is None
        without = of_masks.find(record(np.zeros((0, 4), np.float32)))
        assert without is not None
        assert without.num_tokens == 0
        assert without.regions is not None  # there is nothing that SAM could be shown


def test_a_grid_looks_again_where_another_one_looked(folder: Path) -> None:
    other = opened(folder, finds_regions=True, proposals="found on a grid by SAM: points 3")
    found = other.find(record(np.zeros((0, 4), np.float32)))
    assert found is not None
    assert found.regions is None


def test_a_box_over_the_edge_is_compared_as_it_is_clipped(folder: Path) -> None:
    boxes = boxes_of(folder)
    boxes[1, 2:] = (47, 60)  # as decoding clipped it
    over_the_edge = boxes.copy()
    over_the_edge[1, 2:] = (1000, 900)
    found = opened(folder).find(record(over_the_edge, annotated_size_hw=None))
    assert found is not None
    np.testing.assert_array_equal(found.resolved.record.boxes_xyxy, boxes)
    assert found.resolved.num_clipped == 1


def test_text_banks_of_synonyms_are_not_taken_over(make_cache: Callable[..., Path]) -> None:
    folder = make_cache(templates=("single", "single-synonyms"))
    with FeatureCache.open(folder) as cache:
        vocabulary, wanted = cache.manifest.vocabulary, cache.text_bank("single")
    found = opened(folder).text_bank(vocabulary, "single")
    assert found is not None
    np.testing.assert_array_equal(found, wanted)
    assert opened(folder).text_bank(vocabulary, "none") is None
    assert opened(folder).text_bank(vocabulary, "single-synonyms") is None
