import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from regionspot.data import RepeatFactorSampler, ShardWindows, ShuffledSampler


def pass_of(passes: ShuffledSampler, number: int) -> list[int]:
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
    passes = ShuffledSampler(
        images,
        batch_size=batch_size,
        seed=seed,
        windows=ShardWindows(shards, group_size=window, seed=3),
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
    passes = ShuffledSampler(
        np.arange(400), batch_size=100, seed=1, windows=ShardWindows(shards, group_size=2, seed=3)
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


@given(
    shard_sizes=st.lists(st.integers(1, 6), min_size=1, max_size=9),
    window=st.integers(1, 12),
    batch_size=st.integers(1, 7),
)
@settings(max_examples=60)
def test_shards_fall_due_once_a_pass_group_by_group(
    shard_sizes: list[int], window: int, batch_size: int
) -> None:
    shards = np.repeat(np.arange(len(shard_sizes), dtype=np.int32), shard_sizes)
    passes = ShuffledSampler(
        np.arange(len(shards), dtype=np.int64),
        batch_size=batch_size,
        seed=0,
        windows=ShardWindows(shards, group_size=window, seed=0),
    )
    size = len(shard_sizes)
    group_size = min(window, size)
    due: list[int] = []
    for number in range(3):
        for place in range(passes.num_batches):
            due += passes.shards_due(number * passes.num_batches + place)
        assert len(due) == (number + 1) * size + group_size  # a group ahead
    for number in range(3):
        row = due[number * size : (number + 1) * size]
        assert sorted(row) == list(range(size))
        order = shards[pass_of(passes, number)].tolist()
        for group in range(0, size, group_size):
            members = row[group : group + group_size]
            length = sum(shard_sizes[shard] for shard in members)
            assert {order.pop(0) for _ in range(length)} == set(members)


def test_shards_of_a_group_fall_due_one_by_one_while_the_group_before_is_drawn_from() -> None:
    shards = np.repeat(np.arange(12, dtype=np.int32), 10)
    passes = ShuffledSampler(
        np.arange(120), batch_size=5, seed=0, windows=ShardWindows(shards, group_size=3, seed=0)
    )
    # A shard every other batch of 5: those of images 30 to 59 while images 0 to 29 are drawn.
    due = [passes.shards_due(number) for number in range(24)]
    order = shards[pass_of(passes, 0)].tolist()
    at_once, due[0] = due[0][:3], due[0][3:]  # the first group of all is needed now
    assert set(at_once) == set(order[:30])
    assert [len(shards_due) for shards_due in due] == [1, 0] * 12
    for group in range(3):
        begun = [shard for batch in due[6 * group : 6 * group + 6] for shard in batch]
        assert set(begun) == set(order[30 * group + 30 : 30 * group + 60])
    begun = [shard for batch in due[18:] for shard in batch]
    assert set(begun) == set(shards[pass_of(passes, 1)][:30].tolist())


def test_copies_of_an_image_stay_in_its_group() -> None:
    shards = np.repeat(np.arange(4, dtype=np.int32), 5)
    factors = np.where(np.arange(20) % 5 == 0, 3.0, 1.0)
    passes = ShuffledSampler(
        np.arange(20),
        batch_size=7,
        seed=0,
        repeats=RepeatFactorSampler(factors),
        windows=ShardWindows(shards, group_size=1, seed=3),
    )
    drawn = shards[pass_of(passes, 0)]
    assert len(drawn) == 28
    assert np.count_nonzero(np.diff(drawn)) == 3
