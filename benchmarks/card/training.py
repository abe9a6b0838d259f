"""(b) The step of the head, (c) training from a cache or online, (e) the loss, (f) GPU hours."""

import contextlib
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import yaml
from cache_job import make_setting
from cached_vs_online import compare
from card.data import LOADER, TRAINING
from card.sizes import SIZES
from card.table import Row
from card.worker import Setup
from common.timing import median_ratio, peak_flops_per_s, timed_in_turn
from focal_loss import WAYS, extra_mb, make_batch
from head_step import Step, StepSize, make_heads, make_step
from torch.utils.flop_counter import FlopCounterMode

from regionspot.backbones import ModelsConfig

STEP = "a step of {} images, bfloat16, {}"
PAPER_GPU_HOURS = 200
"""Of V100, by the paper's table 1."""
_CONFIGS = Path(__file__).parents[2] / "configs" / "train"
_DROPOUT = 0.1
_TORCH, _OURS = "nn.TransformerDecoder", "regionspot"


def head_eager(setup: Setup) -> Iterator[Row]:
    """Time steps of the head as it is written."""
    return _head(setup, how="eager")


def head_compiled(setup: Setup) -> Iterator[Row]:
    """Time steps of the compiled head, beside torch's own, compiled as well."""
    return _head(setup, how="compiled")


def _head(setup: Setup, *, how: str) -> Iterator[Row]:
    size, device = SIZES[setup.size], torch.device(setup.device)
    peak = peak_flops_per_s(device, torch.bfloat16, side=size.peak_side)
    for num_images in size.step_batches:
        torch.manual_seed(0)
        batch = replace(size.step, num_images=num_images)
        steps = _steps(batch, setup.device)
        with FlopCounterMode(display=False) as counter:
            steps[_OURS].step()
        if how == "compiled":
            for one in steps.values():
                one.head.compile(backend=size.compile_backend, dynamic=False)
        ways = {name: one.step for name, one in steps.items()}
        for _ in range(3):  # compiles; and AdamW makes its state in the first step
            for way in ways.values():
                way()
        times = timed_in_turn(ways, device, rounds=size.rounds, calls=size.calls)
        yield from _rows(times, num_images, how, counter.get_total_flops(), peak)
        torch.compiler.reset()  # else the next batch size would be compiled for any size


@dataclass(frozen=True, kw_only=True)
class _HeadStep:
    head: torch.nn.Module
    step: Step


def _steps(batch: StepSize, device: str) -> dict[str, _HeadStep]:
    theirs, ours = make_heads(batch, _DROPOUT, device)
    counts = torch.full((batch.num_images,), batch.num_regions)
    return {
        name: _HeadStep(
            head=head,
            step=make_step(head, batch, counts, fused=fused, device=device, bf16=True),
        )
        for name, head, fused in ((_TORCH, theirs, False), (_OURS, ours, True))
    }


def _rows(
    times: dict[str, list[float]], num_images: int, how: str, flops: int, peak: float
) -> Iterator[Row]:
    seconds, theirs = statistics.median(times[_OURS]), statistics.median(times[_TORCH])
    what = STEP.format(num_images, how)
    yield Row(
        what=what,
        figure=1000 * seconds,
        unit="ms",
        peer=f"{_TORCH} and plain AdamW, {how}: {1000 * theirs:,.3g}",
        ratio=median_ratio(times[_TORCH], times[_OURS]),
    )
    yield Row(what=f"{what}: rate", figure=num_images / seconds, unit="images/s")
    yield Row(
        what=f"{what}: arithmetic",
        figure=flops / seconds / 1e12,
        unit="TFLOP/s",
        peer=f"torch.mm: {peak / 1e12:,.3g}",
        ratio=flops / seconds / peak,
    )


def cached_and_online(setup: Setup) -> Iterator[Row]:
    """Train from a cache, and with the frozen models in every step."""
    size = SIZES[setup.size]
    models = ModelsConfig(
        preset=size.preset, sam_weights="random", clip_weights="random", precision="bfloat16"
    )
    num_photos, batch = size.num_photos_of_loop, size.caching_batch
    with tempfile.TemporaryDirectory() as folder:
        setting = make_setting(Path(folder), models, num_photos, batch, setup.device)
        rates = compare(setting, rounds=size.rounds, epochs_of_cached=size.calls)
    online = statistics.median(rates["online"])
    yield Row(
        what=f"training from a cache, {batch} images a step",
        figure=statistics.median(rates["cached"]),
        unit="images/s",
        peer=f"SAM and CLIP in every step: {online:,.3g}",
        ratio=median_ratio(rates["cached"], rates["online"]),
    )


def focal_loss(setup: Setup) -> Iterator[Row]:
    """Time the focal loss over V3Det's classes, beside its two matrix products alone."""
    size, device = SIZES[setup.size], torch.device(setup.device)
    shape = (size.num_loss_regions, size.num_classes, setup.device)
    batch = make_batch(*shape)
    ways = {name: partial(way, *batch) for name, way in WAYS.items()}
    for precision, is_bf16 in (("float32", False), ("bfloat16", True)):
        with torch.autocast(device.type, torch.bfloat16) if is_bf16 else contextlib.nullcontext():
            times = timed_in_turn(ways, device, rounds=size.rounds, calls=size.calls)
        for peer in ("two products", "one-hot"):
            theirs = statistics.median(times[peer])
            yield Row(
                what=f"focal loss, {size.num_loss_regions} regions, {size.num_classes:,} classes,"
                f" {precision}",
                figure=1000 * statistics.median(times["regionspot"]),
                unit="ms",
                peer=f"{peer}: {1000 * theirs:,.3g}",
                ratio=median_ratio(times[peer], times["regionspot"]),
            )
    memory = {name: extra_mb(name, *shape, torch.get_num_threads()) for name in WAYS}
    ours, theirs = memory["regionspot"], memory["one-hot"]
    yield Row(
        what="its memory on top of its inputs, float32",
        figure=ours,
        unit="MB",
        peer=f"one-hot: {theirs:,.1f}",
        ratio=theirs / ours if ours else None,
    )


def gpu_hours(setup: Setup) -> Iterator[Row]:
    """Say what the paper's two stages take, by what was measured in this run.

    Raises:
        RuntimeError: Neither the step nor the loader has been measured.
    """
    recipes = [
        yaml.safe_load((_CONFIGS / f"bl_stage{stage}.yaml").read_text(encoding="utf-8"))
        for stage in (1, 2)
    ]
    num_images = sum(int(recipe["max_images"]) for recipe in recipes)
    limits = {"the loader": setup.figures.get(LOADER)}
    for batch in SIZES[setup.size].step_batches:
        for how in ("eager", "compiled"):
            step_ms = setup.figures.get(STEP.format(batch, how))
            if step_ms is None or limits["the loader"] is None:
                continue
            rates = {"the step": 1000 * batch / step_ms, "the loader": limits["the loader"]}
            slower = min(rates, key=lambda name: rates[name])
            what = f"both stages, {batch} images a step, {how}: as fast as {slower} allows"
            yield _hours(what, num_images, rates[slower])
        whole = setup.figures.get(TRAINING.format(batch))
        if whole is not None:
            what = f"both stages, {batch} images a step: as fast as training was"
            yield _hours(what, num_images, whole)
    if limits["the loader"] is None:
        raise RuntimeError("it needs what the sections head and data measure, and has nothing")


def _hours(what: str, num_images: int, images_per_s: float) -> Row:
    hours = num_images / images_per_s / 3600
    return Row(
        what=what,
        figure=hours,
        unit="GPU hours",
        peer=f"the paper, V100: {PAPER_GPU_HOURS}",
        ratio=PAPER_GPU_HOURS / hours,
    )
