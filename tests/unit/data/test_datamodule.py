import itertools
import logging
import math
from collections import Counter
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
    assert data.spec == FeatureSpec(token_dim=8, feature_dim=16, text_dim=6)
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


def test_each_cache_has_its_own_batch_size_and_every_image_comes_once_by_size(
    make_cache: MakeCache, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [make_cache("a", num_images=11), make_cache("b", num_images=7, seed=1)]
    data = CachedRegions(paths, batch_size=[4, 2], ratios="by_size")
    with caplog.at_level(logging.INFO):
        data.setup("fit")
    assert "An epoch has 7 batches, of each cache [3, 4]" in caplog.text
    loader = data.train_dataloader()
    for _ in range(2):
        batches = list(loader)
        assert sorted(len(batch) for batch in batches if batch.source == 0) == [3, 4, 4]
        assert sorted(len(batch) for batch in batches if batch.source == 1) == [1, 2, 2, 2]
        seen = [(batch.source, key) for batch in batches for key in batch.keys]
        assert len(set(seen)) == len(seen) == 18


def test_images_of_rare_classes_come_more_often(
    make_cache: MakeCache, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_cache(num_images=40, empty={3}, names=("lemon", "tennis ball", "sea egg"))
    with FeatureCache.open(path) as cache:
        labels = [set(cache.sample(number).labels.tolist()) for number in range(40)]
    images = [classes for classes in labels if classes]
    shares = [sum(label in classes for classes in images) / 39 for label in range(3)]
    factors = [max(max(1, (0.9 / shares[label]) ** 0.5) for label in c) for c in images]
    assert max(factors) > 1.1  # or this test would say nothing
    data = CachedRegions([path], batch_size=4, repeat_threshold=0.9)
    with caplog.at_level(logging.INFO):
        data.setup("validate")
        assert "reading the labels" not in caplog.text
        data.setup("fit")
    assert "reading the labels of all regions" in caplog.text
    num_repeated = sum(factor > 1 for factor in factors)
    assert f"{num_repeated} of 39 images are drawn more often than once" in caplog.text
    loader = data.train_dataloader()
    assert len(loader) == -(-math.ceil(sum(factors)) // 4)
    seen = Counter(key for batch in loader for key in batch.keys)
    assert sum(seen.values()) == math.ceil(sum(factors))
    assert len(seen) == 39


def test_a_windowed_shuffle_finishes_a_few_shards_before_it_goes_on(make_cache: MakeCache) -> None:
    path = make_cache(num_images=20, empty={0, 1, 2, 3, 4, 9})  # shards of 5, the first unused
    loader = CachedRegions([path], batch_size=3, shuffle_window=1).train_dataloader()
    orders = []
    for _ in range(3):
        numbers = [int(key[-3:]) for batch in loader for key in batch.keys]
        assert sorted(numbers) == [n for n in range(5, 20) if n != 9]
        shards = [number // 5 for number in numbers]
        assert len([1 for a, b in itertools.pairwise(shards) if a != b]) == 2
        orders.append(tuple(numbers))
    assert len(set(orders)) == 3


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
        ({"train": []}, r"data\.train is \[\]; .* caches: --data\.train '\[caches/mine\]'"),
        ({"train": "runs/cache"}, r"data\.train is 'runs/cache'; wanted a list.*'\[runs/cache\]'"),
        ({"batch_size": 0}, r"data\.batch_size is 0"),
        ({"batch_size": [4, 4]}, r"data\.batch_size is \[4, 4\].*each of the 1 training caches"),
        ({"batch_size": [0]}, r"data\.batch_size is \[0\]; wanted one number of 1 or more"),
        ({"max_regions_per_image": 0}, r"data\.max_regions_per_image is 0"),
        ({"seed": -1}, r"data\.seed is -1"),
        ({"ratios": [1.0, 2.0]}, r"data\.ratios is \[1\.0, 2\.0\].*1 training caches"),
        ({"ratios": [0.0]}, r"data\.ratios is \[0\.0\]"),
        ({"ratios": [-1.0]}, r"data\.ratios is \[-1\.0\]"),
        ({"ratios": [float("inf")]}, r"data\.ratios is \[inf\]"),
        ({"ratios": [float("nan")]}, r"data\.ratios is \[nan\]"),
        ({"ratios": "by_sise"}, r"data\.ratios is 'by_sise'; .*by_size, or null"),
        ({"shuffle_window": 0}, r"data\.shuffle_window is 0; wanted 1 shard or more"),
        ({"repeat_threshold": 0.0}, r"data\.repeat_threshold is 0\.0; wanted a share"),
        ({"repeat_threshold": 1.5}, r"data\.repeat_threshold is 1\.5; wanted a share"),
    ],
)
def test_senseless_options_are_refused(
    make_cache: MakeCache, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        CachedRegions(**{"train": [make_cache()], **options})  # type: ignore[arg-type]


def test_a_cache_without_any_region_is_refused(make_cache: MakeCache) -> None:
    with pytest.raises(ConfigError, match="2 images without regions"):
        CachedRegions([make_cache(num_images=2, empty={0, 1})])


def test_a_batch_that_does_not_divide_among_the_devices_is_refused(make_cache: MakeCache) -> None:
    paths = [make_cache("a"), make_cache("b")]
    data = CachedRegions(paths, batch_size=[6, 16])
    data.trainer = cast("pl.Trainer", SimpleNamespace(global_rank=0, world_size=3))
    with pytest.raises(ConfigError, match="16, .* does not divide among 3 devices"):
        data.train_dataloader()
