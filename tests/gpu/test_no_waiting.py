"""The host never waits for the GPU: between logged steps of training, and while a cache is made."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from cache_job import make_setting
from torch.profiler import ProfilerActivity, profile
from typing_extensions import override

from helpers.traces import copies_in
from helpers.training import train_briefly
from regionspot.backbones import ModelsConfig
from regionspot.data import CachedRegions
from regionspot.extraction import CacheJob, PreparedImage
from regionspot.extraction.featurize import launch
from regionspot.training import HeadOptions

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),  # of Lightning 2.6
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS"),  # torch then makes a context
]

# Losses are looked at together after batch 16; before the third, torch is still loading kernels.
FIRST, LAST = 2, 13
STAGED_BYTES = 1 << 16
"""Less than that the driver takes along from any memory, without waiting."""


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    """Let torch raise where the host would wait for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class BetweenSteps(pl.Callback):
    """Enters a block after one batch and leaves it after another."""

    def __init__(self, block: Any) -> None:
        self._block = block

    @override
    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if batch_idx == FIRST:
            self._block.__enter__()
        if batch_idx == LAST:
            self._block.__exit__(None, None, None)

    @override
    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        torch.cuda.set_sync_debug_mode("default")


def train(cache: Path, block: Any, *, log_every: int) -> None:
    # 16 batches: no epoch ends meanwhile.
    data = CachedRegions([cache], batch_size=4, templates="none")
    train_briefly(
        data,
        max_steps=LAST + 2,
        log_every=log_every,
        accelerator="cuda",
        head=HeadOptions(),
        callbacks=[BetweenSteps(block)],
    )


def test_training_waits_for_nothing_between_logged_steps(bl_cache: Path) -> None:
    train(bl_cache, waiting_is_an_error(), log_every=1000)


def test_a_logged_step_does_wait(bl_cache: Path) -> None:
    with pytest.raises(RuntimeError, match="synchronizing CUDA operation"):
        train(bl_cache, waiting_is_an_error(), log_every=1)


def test_the_host_goes_on_while_batches_are_copied(bl_cache: Path, tmp_path: Path) -> None:
    trace = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
    train(bl_cache, trace, log_every=1000)
    trace.export_chrome_trace(str(tmp_path / "trace.json"))
    copies = copies_in(json.loads((tmp_path / "trace.json").read_text(encoding="utf-8")))
    large = [copy for copy in copies if "HtoD" in copy.kind and copy.num_bytes > STAGED_BYTES]
    assert len(large) >= LAST - FIRST - 1  # a feature map a batch at least
    assert {copy.kind for copy in large} == {"Memcpy HtoD (Pinned -> Device)"}
    left = [copy.was_left_to_the_device for copy in large]
    assert sum(left) > 0.9 * len(left)


def test_every_tensor_of_a_batch_is_in_page_locked_memory(bl_cache: Path) -> None:
    seen: list[bool] = []

    class Look(CachedRegions):
        @override
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            fields = [getattr(batch, name) for name in type(batch).__slots__]
            seen.extend(field.is_pinned() for field in fields if isinstance(field, torch.Tensor))
            return batch

    data = Look([bl_cache], batch_size=4, templates="none")
    train_briefly(data, max_steps=2, log_every=9, accelerator="cuda", head=HeadOptions())
    assert len(seen) >= 2 * 8
    assert all(seen)


def test_making_a_cache_queues_batch_after_batch(tmp_path: Path) -> None:
    models = ModelsConfig(preset="toy", precision="bfloat16")
    setting = make_setting(tmp_path, models, 4, 2, "cuda")
    job = CacheJob(setting.config, models=setting.models)
    prepared = [job.preparation.prepare(record) for record in job.records]
    images = [image for image in prepared if isinstance(image, PreparedImage)]
    wanted = launch(job.models, images, job.locator).wait()
    with waiting_is_an_error():
        batches = [launch(job.models, images, job.locator) for _ in range(3)]
    for batch in batches:
        for sample, first in zip(batch.wait(), wanted, strict=True):
            torch.testing.assert_close(
                torch.from_numpy(sample.feature_map), torch.from_numpy(first.feature_map)
            )
