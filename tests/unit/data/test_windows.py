import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from regionspot.data.passes import ShuffledPasses
from regionspot.data.repeats import RepeatedDraws
from regionspot.data.windows import ShardWindows


def pass_of(passes: ShuffledPasses, number: int) -> list[int]:
    first = number * passes.num_batches
    batches = [passes.batch(first + place) for place in range(passes.num_batches)]
    return np.concatenate(batches).tolist()


@given(
    shard_sizes=st.lists(st.integers(0, 6), min_size=1, max_size=9).filter(any),
    window=st.integers(1, 10),
    batch_size=st.integers(1, 7),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_each_group_of_shards_is_drawn_empty_before_the_next_begins(
    shard_sizes: list[int], window: int, batch_size: int, seed: int
) -> None:
    shards = np.repeat(np.arange(len(shard_sizes), dtype=np.int32), shard_sizes)
    images = np.arange(len(shards), dtype=np.int64)
    passes = ShuffledPasses(
        images,
        batch_size=batch_size,
        seed=seed,
        windows=ShardWindows(shards=shards, num_shards=window),
    )
    for number in (0, 1):
        order = pass_of(passes, number)
        assert sorted(order) == images.tolist()
        left = {shard: size for shard, size in enumerate(shard_sizes) if size}
        begun: set[int] = set()
        for image in order:
            shard = int(shards[image])
            if shard not in begun and len(begun) == window:
                assert all(left[other] == 0 for other in begun)
                begun = set()
            begun.add(shard)
            left[shard] -= 1


def test_shards_are_grouped_anew_in_every_pass_and_shuffled_within() -> None:
    shards = np.repeat(np.arange(8, dtype=np.int32), 50)
    passes = ShuffledPasses(
        np.arange(400), batch_size=100, seed=1, windows=ShardWindows(shards=shards, num_shards=2)
    )
    firsts = []
    for number in range(4):
        first = pass_of(passes, number)[:100]
        members = set(shards[first].tolist())
        assert len(members) == 2
        changes = np.count_nonzero(np.diff(shards[first]))
        assert changes > 30  # 50 expected, deviation 5; one after the other would be 1
        assert first != sorted(first)
        firsts.append(frozenset(members))
    assert len(set(firsts)) > 1


def test_copies_of_an_image_stay_in_its_group() -> None:
    shards = np.repeat(np.arange(4, dtype=np.int32), 5)
    factors = np.where(np.arange(20) % 5 == 0, 3.0, 1.0)
    passes = ShuffledPasses(
        np.arange(20),
        batch_size=7,
        seed=0,
        repeats=RepeatedDraws(factors),
        windows=ShardWindows(shards=shards, num_shards=1),
    )
    drawn = shards[pass_of(passes, 0)]
    assert len(drawn) == 28
    assert np.count_nonzero(np.diff(drawn)) == 3
