"""(a) Filling a cache at full size: the job, its parts, its limits, and the error of bfloat16."""

import statistics
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from cache_job import (
    BOXES,
    NUM_IMAGES_OF_A_LARGE_SET,
    SIZE_WH,
    Setting,
    bare,
    flops_per_image,
    make_setting,
    plain_loop,
    regionspot,
    stock,
)
from card.sizes import SIZES, Size
from card.table import Row
from card.worker import Setup
from common.timing import Way, median_ratio, peak_flops_per_s, timed_in_turn

from regionspot.backbones import BoxPrompts, FrozenModels, ModelsConfig, region_tokens
from regionspot.extraction import CacheJob, PreparedImage, measure_error

JOB, SAM, CLIP, TOKENS = "the caching job", "SAM's encoder", "CLIP's encoder", "position tokens"


def caching(setup: Setup) -> Iterator[Row]:
    """Measure the job in bfloat16, eager."""
    size, device = SIZES[setup.size], torch.device(setup.device)
    with tempfile.TemporaryDirectory() as folder:
        setting = _setting(Path(folder), setup, compiled=False)
        flops = flops_per_image(setting.models)
        peak = peak_flops_per_s(device, torch.bfloat16, side=size.peak_side)
        yield Row(what="torch.mm in bfloat16", figure=peak / 1e12, unit="TFLOP/s")
        total = sum(flops.values())
        yield Row(what="arithmetic of an image", figure=total / 1e9, unit="GFLOP")
        yield from _parts(setting, size, flops, peak)
        yield from _errors(setting)
        yield from _decoding(setting, size)
        yield from _job(setting, size, total, peak)


def caching_compiled(setup: Setup) -> Iterator[Row]:
    """Measure the same with compiled encoders."""
    size, device = SIZES[setup.size], torch.device(setup.device)
    with tempfile.TemporaryDirectory() as folder:
        setting = _setting(Path(folder), setup, compiled=True)
        peak = peak_flops_per_s(device, torch.bfloat16, side=size.peak_side)
        flops = flops_per_image(setting.models)
        yield from _parts(setting, size, flops, peak, how="compiled")
        yield from _job(setting, size, sum(flops.values()), peak, how="compiled")


def _setting(folder: Path, setup: Setup, *, compiled: bool) -> Setting:
    size = SIZES[setup.size]
    models = ModelsConfig(
        preset=size.preset,
        sam_weights="random",
        clip_weights="random",
        precision="bfloat16",
        compile=compiled,
    )
    return make_setting(folder, models, size.num_photos, size.caching_batch, setup.device)


def _parts(
    setting: Setting, size: Size, flops: dict[str, int], peak: float, *, how: str = "eager"
) -> Iterator[Row]:
    """Time the models apart, beside the same in float32."""
    batch, device = size.caching_batch, setting.models.encoder.device
    names = {SAM: flops["SAM"], CLIP: flops["CLIP"], TOKENS: flops["tokens"]}
    ways = _model_ways(setting.models, batch)
    reference = replace(
        setting.models,
        localizer=setting.models.localizer.reference(),
        encoder=setting.models.encoder.reference(),
    )
    ways |= {f"{name} in float32": way for name, way in _model_ways(reference, batch).items()}
    times = timed_in_turn(ways, device, rounds=size.rounds)
    for name, arithmetic in names.items():
        rate = batch / statistics.median(times[name])
        full = batch / statistics.median(times[f"{name} in float32"])
        what = f"{name}, bfloat16, {how}"
        yield Row(
            what=what,
            figure=rate,
            unit="images/s",
            peer=f"float32, eager: {full:,.1f}",
            ratio=median_ratio(times[f"{name} in float32"], times[name]),
        )
        yield Row(
            what=f"{what}: arithmetic",
            figure=arithmetic * rate / 1e12,
            unit="TFLOP/s",
            peer=f"torch.mm: {peak / 1e12:,.3g}",
            ratio=arithmetic * rate / peak,
        )


def _model_ways(models: FrozenModels, batch: int) -> dict[str, Way]:
    localizer, encoder = models.localizer, models.encoder
    frames = torch.zeros(batch, 3, localizer.image_size, localizer.image_size)
    frames = frames.to(localizer.device)
    squares = torch.zeros(
        batch, 3, encoder.info.image_size, encoder.info.image_size, device=encoder.device
    )
    embedding = localizer.embed(frames[:1])
    boxes = np.array(BOXES, np.float32)

    def tokens() -> None:
        for _ in range(batch):
            region_tokens(localizer, embedding, BoxPrompts(boxes_xyxy=boxes), SIZE_WH[::-1])

    return {
        SAM: partial(localizer.embed, frames),
        CLIP: partial(encoder.features, squares),
        TOKENS: tokens,
    }


def _job(
    setting: Setting, size: Size, flops: int, peak: float, *, how: str = "eager"
) -> Iterator[Row]:
    """Time the whole job, from files to verified shards, then what it is compared with."""
    regionspot(setting)  # from here on the photos are in memory
    rates = []
    for _ in range(size.rounds):
        summary = regionspot(setting)
        rates.append(summary.num_new_images / summary.seconds)
    rate = statistics.median(rates)
    yield Row(
        what=f"{JOB}, {how}: arithmetic",
        figure=flops * rate / 1e12,
        unit="TFLOP/s",
        peer=f"torch.mm: {peak / 1e12:,.3g}",
        ratio=flops * rate / peak,
    )
    hours = NUM_IMAGES_OF_A_LARGE_SET / rate / 3600
    yield Row(what=f"3 million images, {how}", figure=hours, unit="GPU hours")
    few = replace(setting, paths=setting.paths[: size.num_photos_of_loop])
    # Stock attention holds several matrices of 4096 x 4096 numbers a head and image.
    small_batches = replace(few, config=replace(few.config, batch_size=size.attention_batch))
    ways: dict[str, Way] = {
        "bare forward passes": partial(bare, few),
        "stock forward passes": partial(stock, small_batches),
        "the plain loop": partial(plain_loop, few),
    }
    times = timed_in_turn(ways, setting.models.encoder.device, rounds=size.rounds)
    for name, seconds in times.items():
        theirs = len(few.paths) / statistics.median(seconds)
        yield Row(
            what=f"{JOB}, bfloat16, {how}",
            figure=rate,
            unit="images/s",
            peer=f"{name}: {theirs:,.1f}",
            ratio=rate / theirs,
        )


def _decoding(setting: Setting, size: Size) -> Iterator[Row]:
    """Time what is done to an image before the models."""
    job = CacheJob(setting.config, models=setting.models)
    prepare, records = job.preparation.prepare, job.records[: size.num_photos]
    num_threads = torch.get_num_threads()
    with ThreadPoolExecutor(num_threads) as threads:
        ways: dict[str, Way] = {
            "one": lambda: [prepare(record) for record in records[: size.num_photos_of_loop]],
            "all": lambda: list(threads.map(prepare, records)),
        }
        times = timed_in_turn(ways, torch.device("cpu"), rounds=size.rounds)
    one = size.num_photos_of_loop / statistics.median(times["one"])
    yield Row(what="decoding and resizing, 1 thread", figure=one, unit="images/s")
    rate = len(records) / statistics.median(times["all"])
    yield Row(
        what=f"decoding and resizing, all threads ({num_threads})",
        figure=rate,
        unit="images/s",
        peer=f"1 thread: {one:,.1f}",
        ratio=rate / one,
    )


def _errors(setting: Setting) -> Iterator[Row]:
    """Compare what is stored with the same models in float32."""
    job = CacheJob(setting.config, models=setting.models)
    prepared = [job.preparation.prepare(record) for record in job.records[:4]]
    images = [image for image in prepared if isinstance(image, PreparedImage)]
    error = measure_error(job.models, images, job.locator)
    for name, value in (
        ("feature map", error.feature_map),
        ("position tokens", error.position_tokens),
    ):
        yield Row(
            what=f"relative error of bfloat16, {name}",
            figure=value or 0.0,
            unit="of the root mean square",
            peer="the same models in float32",
        )
