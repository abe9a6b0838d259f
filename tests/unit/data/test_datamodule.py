import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import lightning.pytorch as pl
import numpy as np
import pytest

from regionspot.cache import FeatureCache
from regionspot.core.errors import CacheMismatchError, ConfigError, MissingFileError
from regionspot.data import CachedRegions, CacheLoader, FeatureSpec

MakeCache = Callable[..., Path]


def test_widths_banks_and_names_come_from_the_caches(make_cache: MakeCache) -> None:
    first = make_cache("first")
    second = make_cache("second", names=("sea egg", "kiwi"), seed=1)
    data = CachedRegions([first, str(second)], val=second)
    assert data.spec == FeatureSpec(token_dim=8, feature_dim=16, text_dim=6, num_feature_tokens=5)
    assert data.names == ("first", "second")
    assert [v.names for v in data.vocabularies] == [
        ("lemon", "tennis ball", "sea egg"),
        ("sea egg", "kiwi"),
    ]
    for path, bank in zip((first, second), data.text_banks, strict=True):
        stored = FeatureCache.open(path).text_bank("ensemble81")
        np.testing.assert_array_equal(bank.numpy(), stored)
    assert data.val_text_bank is not None
    assert data.val_text_bank.equal(data.text_banks[1])


def test_images_without_regions_are_left_out_of_training_and_counted(
    make_cache: MakeCache, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_cache(empty={1, 4, 7})
    data = CachedRegions([path], val=path, batch_size=3)
    with caplog.at_level(logging.INFO):
        data.setup("fit")
    assert "9 images to train on, 3 without regions are left out" in caplog.text
    loader = data.train_dataloader()
    assert len(loader) == 3
    seen = [key for batch in loader for key in batch.keys]
    assert sorted(seen) == [f"image{n:03d}" for n in range(12) if n not in {1, 4, 7}]
    val = data.val_dataloader()
    assert isinstance(val, CacheLoader)
    assert sum(len(batch) for batch in val) == 12


def test_every_batch_is_from_one_cache(make_cache: MakeCache) -> None:
    paths = [make_cache("a"), make_cache("b", names=("kiwi", "plum"), seed=1)]
    data = CachedRegions(paths, batch_size=2)
    sources = set()
    for batch in data.train_dataloader():
        cache = FeatureCache.open(paths[batch.source])
        for row, key in enumerate(batch.keys):
            sample = cache.sample(int(key[-3:]))
            np.testing.assert_array_equal(batch.feature_map[row].numpy(), sample.feature_map)
        sources.add(batch.source)
    assert sources == {0, 1}


def test_caches_of_two_encoders_are_not_mixed(make_cache: MakeCache) -> None:
    paths = [make_cache("a"), make_cache("b", clip_model="ViT-L-14")]
    wanted = "clip_model: found 'ViT-L-14', wanted 'tiny'"
    with pytest.raises(CacheMismatchError, match=wanted):
        CachedRegions(paths)
    with pytest.raises(CacheMismatchError, match=wanted):
        CachedRegions(paths[:1], val=paths[1])


def test_a_missing_text_bank_names_the_present_ones(make_cache: MakeCache) -> None:
    data = CachedRegions([make_cache(templates=("single",))])
    with pytest.raises(MissingFileError, match="single"):
        data.setup("fit")


def test_without_a_validation_cache_there_is_nothing_to_validate(make_cache: MakeCache) -> None:
    data = CachedRegions([make_cache()])
    assert data.val_dataloader() == []
    assert data.val_text_bank is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": []}, r"data\.train is \[\]"),
        ({"train": "runs/cache"}, r"data\.train is 'runs/cache'; wanted a list"),
        ({"batch_size": 0}, r"data\.batch_size is 0"),
        ({"max_regions_per_image": 0}, r"data\.max_regions_per_image is 0"),
        ({"seed": -1}, r"data\.seed is -1"),
        ({"ratios": [1.0, 2.0]}, r"data\.ratios is \[1\.0, 2\.0\].*1 training caches"),
    ],
)
def test_senseless_options_are_refused(
    make_cache: MakeCache, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        CachedRegions(**{"train": [make_cache()], **options})  # type: ignore[arg-type]


def test_a_cache_without_any_region_is_refused(make_cache: MakeCache) -> None:
    with pytest.raises(ConfigError, match="2 images and not one region"):
        CachedRegions([make_cache(num_images=2, empty={0, 1})])


def test_a_batch_that_does_not_divide_among_the_devices_is_refused(make_cache: MakeCache) -> None:
    data = CachedRegions([make_cache()], batch_size=16)
    data.trainer = cast("pl.Trainer", SimpleNamespace(global_rank=0, world_size=3))
    with pytest.raises(ConfigError, match="16, .* does not divide among 3 devices"):
        data.train_dataloader()
