from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regionspot.data import BatchPlan, MixedBatchSampler, SequentialOrder, ShuffledSampler
from regionspot.data.batch_order import Ratios, batches_by_source, choose_regions, share_of_rank


def mixed(
    sizes: list[int], batch_sizes: int | list[int], seed: int = 0, ratios: Ratios = None
) -> MixedBatchSampler:
    """Return an order of sources whose images have the numbers 0, 10, 20 and so on."""
    if isinstance(batch_sizes, int):
        batch_sizes = [batch_sizes] * len(sizes)
    sources = [
        ShuffledSampler(
            np.arange(size, dtype=np.int64) * 10, batch_size=batch_size, seed=seed, source=source
        )
        for source, (size, batch_size) in enumerate(zip(sizes, batch_sizes, strict=True))
    ]
    return MixedBatchSampler(sources, seed=seed, ratios=ratios)


def epoch_of(order: MixedBatchSampler | SequentialOrder, epoch: int) -> list[BatchPlan]:
    first = epoch * order.num_batches
    return [order.batch(number) for number in range(first, first + order.num_batches)]


def as_lists(plans: list[BatchPlan]) -> list[tuple[int, list[int]]]:
    return [(plan.source, plan.images.tolist()) for plan in plans]


mixtures = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 9)), min_size=1, max_size=4)
ways_to_mix = st.sampled_from(["equal", "by_size", "weights"])


def mixed_as(
    sources: list[tuple[int, int]], way: str, seed: int
) -> tuple[list[int], list[int], MixedBatchSampler]:
    sizes, batch_sizes = [size for size, _ in sources], [size for _, size in sources]
    ratios: Ratios = "by_size" if way == "by_size" else None
    if way == "weights":
        ratios = [0.3 + source for source in range(len(sizes))]
    return sizes, batch_sizes, mixed(sizes, batch_sizes, seed, ratios)


@given(sources=mixtures, way=ways_to_mix, seed=st.integers(0, 2**40))
@settings(max_examples=60)
def test_no_image_comes_again_before_all_of_its_source_have_come(
    sources: list[tuple[int, int]], way: str, seed: int
) -> None:
    sizes, batch_sizes, order = mixed_as(sources, way, seed)
    plans = [plan for epoch in range(3) for plan in epoch_of(order, epoch)]
    for source, (size, batch_size) in enumerate(zip(sizes, batch_sizes, strict=True)):
        batches = [plan.images.tolist() for plan in plans if plan.source == source]
        drawn = [image for batch in batches for image in batch]
        whole = sorted(10 * number for number in range(size))
        for start in range(0, len(drawn), size):
            one_pass = sorted(drawn[start : start + size])
            assert one_pass == whole or (start + size > len(drawn) and set(one_pass) < set(whole))
            assert len(set(one_pass)) == len(one_pass)
        per_pass = -(-size // batch_size)
        wanted = [batch_size] * (per_pass - 1) + [size - (per_pass - 1) * batch_size]
        assert [len(batch) for batch in batches] == (wanted * len(batches))[: len(batches)]


@given(
    sources=mixtures,
    way=ways_to_mix,
    seed=st.integers(0, 99),
    numbers=st.lists(st.integers(0, 400), min_size=1, max_size=8),
)
@settings(max_examples=40)
def test_a_batch_asked_for_alone_is_that_of_an_undisturbed_run(
    sources: list[tuple[int, int]], way: str, seed: int, numbers: list[int]
) -> None:
    undisturbed = mixed_as(sources, way, seed)[2]
    run = as_lists([undisturbed.batch(number) for number in range(max(numbers) + 1)])
    jumping = mixed_as(sources, way, seed)[2]
    assert as_lists([jumping.batch(number) for number in numbers]) == [run[n] for n in numbers]


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_an_epoch_of_one_source_has_every_image_once(epoch: int) -> None:
    plans = epoch_of(mixed([10], 4), epoch)
    assert [len(plan.images) for plan in plans] == [4, 4, 2]
    assert sorted(np.concatenate([plan.images for plan in plans])) == list(range(0, 100, 10))


@given(sources=mixtures, seed=st.integers(0, 99), epoch=st.integers(0, 9))
@settings(max_examples=30)
def test_by_size_an_epoch_has_every_image_of_all_sources_once(
    sources: list[tuple[int, int]], seed: int, epoch: int
) -> None:
    sizes, _, order = mixed_as(sources, "by_size", seed)
    seen = Counter(
        (plan.source, image) for plan in epoch_of(order, epoch) for image in plan.images.tolist()
    )
    assert seen == Counter(
        (source, 10 * number) for source, size in enumerate(sizes) for number in range(size)
    )


@pytest.mark.parametrize(
    ("num_images", "batch_sizes", "ratios", "wanted"),
    [
        ([10], [4], None, (3,)),
        ([900, 100], [1, 1], None, (500, 500)),
        ([900, 100], [1, 1], [1, 3], (250, 750)),
        ([4, 3, 3], [1, 1, 1], None, (4, 3, 3)),  # 3 1/3 each: the first of equal remainders
        ([6, 4], [1, 1], [0.1, 0.2], (3, 7)),  # 3 1/3 and 6 2/3
        ([60, 40], [1, 1], [0.1, 0.3], (25, 75)),
        ([6, 4], [1, 1], [0.3, 0.1], (8, 2)),  # 7.5 and 2.5, though 3 * 0.1 > 0.3 in binary
        ([100, 100], [10, 30], None, (5, 5)),  # 20 images a batch on average
        ([900, 100], [16, 16], "by_size", (57, 7)),  # 56.25 and 6.25, rounded up
        ([100, 100], [10, 30], "by_size", (10, 4)),
        ([3, 100], [16, 16], [1, 1000], (1, 7)),  # 0.007 of 7 batches, but never none
    ],
)
def test_batches_of_an_epoch_are_split_exactly(
    num_images: list[int], batch_sizes: list[int], ratios: Ratios, wanted: tuple[int, ...]
) -> None:
    assert batches_by_source(num_images, batch_sizes, ratios) == wanted
    order = mixed(num_images, batch_sizes, seed=3, ratios=ratios)
    for epoch in (0, 5):
        turns = Counter(plan.source for plan in epoch_of(order, epoch))
        assert tuple(turns[source] for source in range(len(wanted))) == wanted


def test_epochs_seeds_and_sources_have_orders_of_their_own() -> None:
    orders = [
        as_lists(epoch_of(mixed([200], 200, seed), epoch))[0][1]
        for seed, epoch in [(0, 0), (0, 1), (1, 0)]
    ]
    orders += [plan.images.tolist() for plan in epoch_of(mixed([200, 200], 200, 5), 0)]
    assert len({tuple(order) for order in orders}) == 5
    many = mixed([100, 100], 1)
    turns = [tuple(plan.source for plan in epoch_of(many, epoch)) for epoch in range(2)]
    assert turns[0] != turns[1]
    assert turns[0] != tuple(sorted(turns[0]))


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_ranks_share_the_same_batches_without_overlap(world_size: int) -> None:
    order = mixed([37, 12], [16, 8], seed=4)
    for plan in epoch_of(order, 3):
        shares = [share_of_rank(plan, rank=r, world_size=world_size) for r in range(world_size)]
        assert {share.source for share in shares} == {plan.source}
        together = [image for share in shares for image in share.images.tolist()]
        assert len(together) == len(set(together)) == len(plan.images)
        assert set(together) == set(plan.images.tolist())
        sizes = [len(share.images) for share in shares]
        assert max(sizes) - min(sizes) <= 1


def test_sequential_order_visits_every_image_once_an_epoch() -> None:
    order = SequentialOrder(num_images=7, batch_size=3)
    assert order.num_batches == 3
    for epoch in (0, 4):
        assert as_lists(epoch_of(order, epoch)) == [(0, [0, 1, 2]), (0, [3, 4, 5]), (0, [6])]
    assert share_of_rank(order.batch(2), rank=1, world_size=3).images.tolist() == []


def test_regions_are_chosen_without_repeats_and_in_order() -> None:
    assert choose_regions(3, None, seed=0, batch=0, image=(0, 0)).tolist() == [0, 1, 2]
    assert choose_regions(3, 3, seed=0, batch=0, image=(0, 0)).tolist() == [0, 1, 2]
    seen = Counter[int]()
    for batch in range(200):
        chosen = choose_regions(10, 4, seed=0, batch=batch, image=(0, 7)).tolist()
        assert len(set(chosen)) == 4
        assert chosen == sorted(chosen)
        seen.update(chosen)
    assert set(seen) == set(range(10))
    assert min(seen.values()) > 50  # 80 expected each
