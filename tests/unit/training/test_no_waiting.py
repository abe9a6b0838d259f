"""Between two steps that are logged, training asks no tensor for a value."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from helpers.training import train_briefly
from regionspot.data import CachedRegions

MakeCache = Callable[..., Path]

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning"
)  # Lightning 2.6, torch 2.15

# Of these a GPU has to be waited for: for a value, and for how many are true.
WAITS = {"aten::_local_scalar_dense", "aten::nonzero"}


class Questions(TorchDispatchMode):
    """Counts the operations whose result the CPU needs to know at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.asked = Counter[str]()

    @override
    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func.name() in WAITS:
            self.asked[func.name()] += 1
        return func(*args, **(kwargs or {}))


def questions_of_training(cache: Path, max_steps: int, *, log_every: int) -> Counter[str]:
    with Questions() as questions:
        train_briefly(
            CachedRegions([cache], batch_size=4), max_steps=max_steps, log_every=log_every
        )
    return questions.asked


@pytest.mark.parametrize(("log_every", "asks"), [(1000, False), (1, True)])
def test_training_asks_nothing_of_a_gpu_but_for_what_it_logs(
    *, log_every: int, asks: bool, make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regionspot.core.devices.would_sync", lambda _tensor: True)
    cache = make_cache(num_images=40)
    few, many = (
        questions_of_training(cache, max_steps, log_every=log_every) for max_steps in (2, 9)
    )
    assert few["aten::_local_scalar_dense"] > 0  # at the start and at the end
    assert (many != few) == asks
