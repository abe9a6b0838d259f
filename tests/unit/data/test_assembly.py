from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from regionspot.cache import FeatureCache, ShardReader
from regionspot.data import BatchPlan, Collator

MakeCache = Callable[..., Path]


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Record which images are read ahead: the name of their tar, and their place in it."""
    seen: list[tuple[str, int]] = []
    read_ahead = ShardReader.read_ahead

    def recorded(reader: ShardReader, index: int) -> None:
        seen.append((reader._path.name, index))
        read_ahead(reader, index)

    monkeypatch.setattr(ShardReader, "read_ahead", recorded)
    return seen


def test_shards_that_fall_due_are_read_ahead_from_front_to_end(
    make_cache: MakeCache, announced: list[tuple[str, int]]
) -> None:
    with FeatureCache.open(make_cache()) as cache:
        plan = BatchPlan(number=0, source=0, images=np.array([0]), shards_due=(2, 1))
        Collator([cache]).assemble(plan)
    second, third = (f"00000{shard}.tar" for shard in (1, 2))
    assert announced == [
        ("000000.tar", 0),
        *((third, place) for place in range(2)),
        *((second, place) for place in range(5)),
    ]
