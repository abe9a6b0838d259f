"""Between two steps that are logged, training asks no tensor for a value."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from regionspot.core import waiting
from regionspot.data import CachedRegions
from regionspot.training import HeadOptions, LossByCache, RegionSpotModule, Throughput

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
    pl.seed_everything(3, verbose=False)
    data = CachedRegions([cache], batch_size=4)
    module = RegionSpotModule(data.spec, head=HeadOptions(num_blocks=1, num_heads=2, ffn_dim=24))
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        limit_val_batches=0,
        callbacks=[Throughput(), LossByCache(("one",))],
        gradient_clip_val=1.0,
        log_every_n_steps=log_every,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        logger=False,
    )
    with Questions() as questions:
        trainer.fit(module, datamodule=data)
    return questions.asked


@pytest.mark.parametrize(("log_every", "asks"), [(1000, False), (1, True)])
def test_training_asks_nothing_of_a_gpu_but_for_what_it_logs(
    *, log_every: int, asks: bool, make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "must_be_waited_for", lambda _tensor: True)
    cache = make_cache(num_images=40)
    few, many = (
        questions_of_training(cache, max_steps, log_every=log_every) for max_steps in (2, 9)
    )
    assert few["aten::_local_scalar_dense"] > 0  # at the start and at the end
    assert (many != few) == asks
