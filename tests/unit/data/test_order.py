from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regionspot.core.errors import ConfigError
from regionspot.data.order import (
    BatchPlan,
    MixedOrder,
    SequentialOrder,
    choose_regions,
    share_of_rank,
)


def mixed(
    sizes: list[int], batch_size: int, seed: int = 0, ratios: list[float] | None = None
) -> MixedOrder:
    return MixedOrder(
        sources=[np.arange(size, dtype=np.int64) * 10 for size in sizes],
        batch_size=batch_size,
        seed=seed,
        ratios=ratios,
    )


def as_lists(plans: list[BatchPlan]) -> list[tuple[int, list[int]]]:
    return [(plan.source, plan.images.tolist()) for plan in plans]


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 50),
)
@settings(max_examples=50, deadline=None)
def test_order_is_a_function_of_seed_and_epoch_and_repeats_nothing_too_early(
    sizes: list[int], batch_size: int, seed: int, epoch: int
) -> None:
    order = mixed(sizes, batch_size, seed)
    plans = list(order.plan(epoch))
    assert as_lists(plans) == as_lists(list(mixed(sizes, batch_size, seed).plan(epoch)))
    assert len(plans) == order.num_batches == -(-sum(sizes) // batch_size)
    for source, size in enumerate(sizes):
        drawn = [image for plan in plans if plan.source == source for image in plan.images]
        counts = Counter(drawn)
        assert set(counts) <= {10 * image for image in range(size)}
        if drawn:
            full_passes, rest = divmod(len(drawn), size)
            assert max(counts.values()) == full_passes + (rest > 0)
            assert len(counts) == min(len(drawn), size)


def test_epochs_seeds_and_sources_have_orders_of_their_own() -> None:
    orders = [
        as_lists(list(mixed([200], 200, seed).plan(epoch)))[0][1]
        for seed, epoch in [(0, 0), (0, 1), (1, 0)]
    ]
    two = list(mixed([200, 200], 200, 5).plan(0)) + list(mixed([200, 200], 200, 5).plan(1))
    assert {plan.source for plan in two} == {0, 1}
    orders += [plan.images.tolist() for plan in two]
    assert len({tuple(order) for order in orders}) == len(orders)


def test_sources_are_drawn_by_their_ratios_not_by_their_sizes() -> None:
    equal = Counter(plan.source for plan in mixed([900, 100], 1).plan(0))
    assert 400 < equal[0] < 600  # 500 expected, deviation 16
    weighted = Counter(plan.source for plan in mixed([900, 100], 1, ratios=[1, 3]).plan(0))
    assert 180 < weighted[0] < 320  # 250 expected, deviation 14


@given(world_size=st.integers(1, 5), per_rank=st.integers(1, 4), seed=st.integers(0, 99))
def test_ranks_share_every_batch_without_overlap(world_size: int, per_rank: int, seed: int) -> None:
    order = mixed([37, 12], world_size * per_rank, seed)
    for plan in order.plan(3):
        shares = [
            share_of_rank(plan, rank=rank, world_size=world_size) for rank in range(world_size)
        ]
        assert [len(share.images) for share in shares] == [per_rank] * world_size
        assert {share.source for share in shares} == {plan.source}
        together = np.stack([share.images for share in shares], axis=1).ravel()
        assert together.tolist() == plan.images.tolist()


def test_sequential_order_visits_every_image_once() -> None:
    order = SequentialOrder(num_images=7, batch_size=3)
    assert as_lists(list(order.plan(4))) == [(0, [0, 1, 2]), (0, [3, 4, 5]), (0, [6])]
    assert order.num_batches == 3
    last = list(order.plan(0))[-1]
    assert share_of_rank(last, rank=1, world_size=3).images.tolist() == []


@pytest.mark.parametrize("ratios", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, float("inf")]])
def test_senseless_ratios_are_refused(ratios: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"data\.ratios"):
        mixed([3, 3], 2, ratios=ratios)


def test_a_source_without_images_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to draw"):
        mixed([3, 0], 2)


def test_regions_are_chosen_without_repeats_and_in_order() -> None:
    assert choose_regions(3, None, seed=0, epoch=0, image=(0, 0)).tolist() == [0, 1, 2]
    assert choose_regions(3, 3, seed=0, epoch=0, image=(0, 0)).tolist() == [0, 1, 2]
    seen = Counter[int]()
    for epoch in range(200):
        chosen = choose_regions(10, 4, seed=0, epoch=epoch, image=(0, 7)).tolist()
        assert len(set(chosen)) == 4
        assert chosen == sorted(chosen)
        seen.update(chosen)
    assert set(seen) == set(range(10))
    assert min(seen.values()) > 50  # 80 expected each
