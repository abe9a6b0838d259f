import time
from collections.abc import Callable
from itertools import chain, islice, repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from typing_extensions import override

from regionspot.cache import FeatureCache
from regionspot.core.errors import ConfigError
from regionspot.data import (
    BatchPlan,
    CacheLoader,
    Collator,
    MixedBatchSampler,
    RegionBatch,
    RepeatFactorSampler,
    SequentialOrder,
    ShuffledSampler,
)

MakeCache = Callable[..., Path]


def collator(
    caches: list[FeatureCache], *, max_regions: int | None = None, seed: int = 0
) -> Collator:
    return Collator(caches, max_regions=max_regions, seed=seed)


def sequential(cache: FeatureCache, batch_size: int) -> CacheLoader:
    order = SequentialOrder(num_images=len(cache), batch_size=batch_size)
    return CacheLoader(order, collator([cache]))


def mixed(caches: list[FeatureCache], *, rank: int = 0, world_size: int = 1) -> CacheLoader:
    sources = [
        ShuffledSampler(np.arange(len(cache), dtype=np.int64), batch_size=4, seed=3, source=source)
        for source, cache in enumerate(caches)
    ]
    order = MixedBatchSampler(sources, seed=3)
    return CacheLoader(order, collator(caches), rank=rank, world_size=world_size)


def keys(batches: list[RegionBatch]) -> list[tuple[int, tuple[str, ...]]]:
    return [(batch.source, batch.keys) for batch in batches]


def test_batches_hold_exactly_what_the_cache_holds(make_cache: MakeCache) -> None:
    with FeatureCache.open(make_cache(empty={2, 8, 9, 10, 11})) as cache:
        batches = list(sequential(cache, 4))
        assert [len(batch) for batch in batches] == [4, 4, 4]
        number = 0
        for batch in batches:
            assert batch.labels.shape[1] == max(batch.region_mask.sum(dim=1))
            for row, key in enumerate(batch.keys):
                sample = cache.sample(number)
                count = len(sample.labels)
                assert key == sample.key
                assert batch.image_ids[row] == sample.image_id
                assert tuple(batch.size_hw[row].tolist()) == sample.size_hw
                assert batch.region_mask[row].tolist() == [
                    r < count for r in range(batch.labels.shape[1])
                ]
                for name in ("position_tokens", "labels", "boxes_xyxy"):
                    stored, padded = getattr(sample, name), getattr(batch, name)[row].numpy()
                    assert padded.dtype == stored.dtype
                    np.testing.assert_array_equal(padded[:count], stored)
                    assert (padded[count:] == (-1 if name == "labels" else 0)).all()
                np.testing.assert_array_equal(batch.feature_map[row].numpy(), sample.feature_map)
                number += 1
        assert number == len(cache)


def test_batches_without_any_region_have_no_region_axis(make_cache: MakeCache) -> None:
    with FeatureCache.open(make_cache(num_images=2, empty={0, 1})) as cache:
        (batch,) = sequential(cache, 4)
        assert batch.position_tokens.shape == (2, 0, 8)
        assert batch.feature_map.shape == (2, 5, 16)


def test_a_kept_batch_is_not_overwritten(make_cache: MakeCache) -> None:
    with FeatureCache.open(make_cache(num_images=40)) as cache:
        kept = list(sequential(cache, 2))
        copies = [batch.feature_map.clone() for batch in kept]
        list(sequential(cache, 2))
        for number, (batch, copy) in enumerate(zip(kept, copies, strict=True)):
            assert batch.feature_map.equal(copy)
            np.testing.assert_array_equal(copy[0].numpy(), cache.sample(2 * number).feature_map)


def test_memory_does_not_grow_with_the_number_of_batches(make_cache: MakeCache) -> None:
    with FeatureCache.open(make_cache(num_images=40)) as cache:
        made = collator([cache])
        loader = CacheLoader(SequentialOrder(num_images=40, batch_size=1), made)
        for _ in loader:
            pass
        assert made._pool.num_allocated <= 6  # 2 waiting, 1 in the making, 1-2 in use


def test_ranks_together_see_what_one_process_sees(make_cache: MakeCache) -> None:
    caches = [FeatureCache.open(make_cache("a")), FeatureCache.open(make_cache("b", num_images=7))]
    alone = list(mixed(caches))
    ranks = [list(mixed(caches, rank=rank, world_size=2)) for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1]) == len(alone) == len(mixed(caches))
    for whole, first, second in zip(alone, *ranks, strict=True):
        assert whole.source == first.source == second.source
        assert whole.keys[::2] == first.keys
        assert whole.keys[1::2] == second.keys


@pytest.mark.parametrize(("max_regions", "wanted"), [(None, [10, 10, 1]), (2, [7, 7, 1])])
def test_every_rank_knows_the_regions_of_the_whole_batch(
    max_regions: int | None, wanted: list[int], make_cache: MakeCache
) -> None:
    # Images 0, 1, 2, ... have 1, 2, 3, 4, 1, 2, ... regions.
    with FeatureCache.open(make_cache(num_images=10, empty={9})) as cache:
        made = collator([cache], max_regions=max_regions)
        order = SequentialOrder(num_images=len(cache), batch_size=4)
        for rank in range(3):
            batches = list(CacheLoader(order, made, rank=rank, world_size=3))
            # The last batch is images 8 and 9: nothing for rank 2, no region for rank 1.
            assert [batch.num_regions_of_step for batch in batches] == wanted


def test_every_iteration_is_an_epoch_of_its_own(make_cache: MakeCache) -> None:
    caches = [FeatureCache.open(make_cache())]
    loader = mixed(caches)
    first, second = keys(list(loader)), keys(list(loader))
    assert first != second
    again = mixed(caches)
    assert keys(list(islice(again, 1))) == first[:1]
    assert keys(list(again)) == second  # although the first epoch was left early


@pytest.mark.parametrize("taken", [0, 1, 2, 3])
def test_a_restored_loader_goes_on_with_the_next_batch(make_cache: MakeCache, taken: int) -> None:
    caches = [FeatureCache.open(make_cache())]
    straight = mixed(caches)
    wanted = keys(list(straight)) + keys(list(straight))
    saved = mixed(caches)
    iterator = iter(saved)
    for _ in range(taken):
        next(iterator)
    restored = mixed(caches)
    restored.load_state_dict(saved.state_dict())
    found = keys(list(restored))
    if taken < 3:
        assert found == wanted[taken:3]
        found = keys(list(restored))
    assert found == wanted[3:]


@pytest.mark.parametrize("taken", range(8))
def test_a_run_goes_on_with_any_number_of_ranks_and_loses_no_image(
    make_cache: MakeCache, taken: int
) -> None:
    caches = [FeatureCache.open(make_cache("a", num_images=13))]
    caches += [FeatureCache.open(make_cache("b", num_images=11))]
    alone = mixed(caches)
    undisturbed = [batch for _ in range(2) for batch in alone]
    assert len(undisturbed) == 12
    before = mixed(caches)
    run = chain.from_iterable(repeat(before))
    for _ in islice(run, taken):
        pass
    state = before.state_dict()
    for world_size in (2, 4, 1):
        ranks = [mixed(caches, rank=rank, world_size=world_size) for rank in range(world_size)]
        for loader in ranks:
            loader.load_state_dict(state)
        rest = [list(loader) for loader in ranks]
        assert {len(batches) for batches in rest} == {6 - taken % 6}
        for number, shares in enumerate(zip(*rest, strict=True), start=taken):
            whole = undisturbed[number]
            assert {share.source for share in shares} == {whole.source}
            together = sorted(key for share in shares for key in share.keys)
            assert together == sorted(whole.keys)
            assert len(set(together)) == len(together)


def test_state_is_plain_enough_for_a_safe_checkpoint(make_cache: MakeCache, tmp_path: Path) -> None:
    loader = mixed([FeatureCache.open(make_cache())])
    next(iter(loader))
    torch.save(loader.state_dict(), tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == {
        "next_batch": 1,
        "batches_per_epoch": 3,
    }


def test_regions_are_limited_and_stay_together(make_cache: MakeCache) -> None:
    cache = FeatureCache.open(make_cache())
    made = collator([cache], max_regions=2)
    order = SequentialOrder(num_images=len(cache), batch_size=12)
    (batch,) = CacheLoader(order, made)
    assert batch.region_mask.sum(dim=1).max() == 2
    sample = cache.sample(3)
    assert len(sample.labels) == 4
    rows = [sample.boxes_xyxy.tolist().index(box) for box in batch.boxes_xyxy[3].tolist()]
    assert rows == sorted(set(rows))
    assert batch.labels[3].tolist() == sample.labels[rows].tolist()
    np.testing.assert_array_equal(
        batch.position_tokens[3].numpy(), np.asarray(sample.position_tokens)[rows]
    )


def test_an_image_that_is_drawn_again_in_an_epoch_shows_other_regions(
    make_cache: MakeCache,
) -> None:
    with FeatureCache.open(make_cache(num_images=5)) as cache:  # image 3 has 4 regions
        often = RepeatFactorSampler(np.array([20.0]))
        passes = ShuffledSampler(np.array([3]), batch_size=1, seed=0, repeats=often)
        made = collator([cache], max_regions=2)
        batches = list(CacheLoader(MixedBatchSampler([passes], seed=0), made))
        assert [batch.keys for batch in batches] == [(cache.index.key(3),)] * 20
        shown = {tuple(map(tuple, batch.boxes_xyxy[0].tolist())) for batch in batches}
        assert len(shown) > 3  # of 6 pairs


def test_moving_a_batch_moves_every_tensor(make_cache: MakeCache) -> None:
    (batch,) = sequential(FeatureCache.open(make_cache(num_images=3)), 4)
    moved = batch.to("meta")
    assert moved.keys == batch.keys
    assert moved.source == batch.source
    for name in ("image_ids", "position_tokens", "feature_map", "region_mask", "labels"):
        assert getattr(moved, name).is_meta
    assert moved.boxes_xyxy.is_meta
    assert moved.size_hw.is_meta


def test_a_state_of_other_batches_is_refused(make_cache: MakeCache) -> None:
    with FeatureCache.open(make_cache(num_images=12)) as cache:
        fours, threes = (
            CacheLoader(SequentialOrder(num_images=12, batch_size=size), collator([cache]))
            for size in (4, 3)
        )
        next(iter(fours))
        with pytest.raises(ConfigError, match="run with 3 batches an epoch, and this one has 4"):
            threes.load_state_dict(fours.state_dict())


def test_senseless_settings_are_refused(make_cache: MakeCache) -> None:
    cache = FeatureCache.open(make_cache())
    order = SequentialOrder(num_images=len(cache), batch_size=12)
    with pytest.raises(ConfigError, match="rank 2 is not among 2"):
        CacheLoader(order, collator([cache]), rank=2, world_size=2)
    with pytest.raises(ConfigError, match="prefetch_batches is 0"):
        CacheLoader(order, collator([cache]), prefetch_batches=0)


class SlowOrder(SequentialOrder):
    """Takes its time over every batch."""

    @override
    def batch(self, number: int) -> BatchPlan:
        time.sleep(0.05)
        return super().batch(number)


def test_it_says_how_long_its_consumer_waited(make_cache: MakeCache) -> None:
    with FeatureCache.open(make_cache()) as cache:
        order = SlowOrder(num_images=len(cache), batch_size=4)
        loader = CacheLoader(order, collator([cache]))
        start = time.perf_counter()
        for _ in loader:
            time.sleep(0.02)  # is no waiting
        elapsed = time.perf_counter() - start
        # The first batch is made when all three are planned.
        assert 0.15 <= loader.seconds_waited <= elapsed - 3 * 0.02
        before = loader.seconds_waited
        list(loader)
        assert loader.seconds_waited >= before + 0.15
