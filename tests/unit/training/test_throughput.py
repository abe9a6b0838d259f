import time
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import pytest
from typing_extensions import override

from regionspot.data import CachedRegions
from regionspot.training import HeadOptions, RegionSpotModule, Throughput

SLEEP_S = 0.2

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning"
)  # Lightning 2.6, torch 2.15


class SlowValidation(pl.Callback):
    @override
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        time.sleep(SLEEP_S)


def test_it_counts_images_and_leaves_out_validation(
    make_cache: Callable[..., Path], tmp_path: Path
) -> None:
    cache = make_cache(num_images=8)
    data = CachedRegions([cache], val=cache, batch_size=4)
    small = HeadOptions(num_blocks=1, num_heads=2, ffn_dim=8)
    module = RegionSpotModule(data.spec, head=small)
    throughput = Throughput()
    trainer = pl.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_steps=6,
        val_check_interval=1,
        num_sanity_val_steps=1,
        log_every_n_steps=2,
        callbacks=[throughput, SlowValidation()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    start = time.perf_counter()
    trainer.fit(module, datamodule=data)
    elapsed = time.perf_counter() - start
    assert throughput.num_images == 24
    assert elapsed > 6 * SLEEP_S
    assert 0 < throughput.seconds < elapsed - 6 * SLEEP_S
    assert throughput.images_per_s == pytest.approx(24 / throughput.seconds)
    images = trainer.callback_metrics["train/images_per_s"]
    regions = trainer.callback_metrics["train/regions_per_s"]
    # 8 images have 1 + 2 + 3 + 4 + 1 + 2 + 3 + 4 regions, and the last two steps see each once.
    assert (regions / images).item() == pytest.approx(20 / 8, rel=1e-3)
