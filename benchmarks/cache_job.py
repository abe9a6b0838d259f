"""What does the whole caching job cost, against the bare models, and against the plain loop?

    python benchmarks/cache_job.py
    python benchmarks/cache_job.py --num_images 256 --batch_size 8 --device cuda
        --precision bfloat16 --compile_encoders true    # the same line
    python benchmarks/cache_job.py --preset toy --num_images 24   # in a minute, to try the script

Full size (BL: SAM ViT-B, CLIP ViT-L/14; random weights: they change no speed), on made-up JPEG
photos of 640 x 480 with 8 boxes each. In turn, several times, in one process, models loaded before:

- stock: the forward passes of both image encoders as ``segment_anything`` and ``open_clip`` write
  them, on the same images, as tensors in memory, in the batches that suit the device. No decoding,
  no boxes, nothing stored;
- bare: the same as RegionSpot runs them: what its job cannot be faster than;
- regionspot: `cache_features` from files to verified shards;
- the plain loop: what one would write with ``SamPredictor`` and ``open_clip``: for each image PIL,
  ``set_image``, ``predict_torch`` on all boxes, the class and patch tokens, ``np.savez``; in the
  same precision, under autocast, but never compiled.

Prints medians of seconds an image, and ratios of each round to regionspot: stock, bare (1 is the
limit), and the plain loop. Then, for each way, images a second, the share of the device's
matrix peak, and hours for 3 million images on one such device. The peak is that of a large matrix
product in the same precision, measured in the same run; the work of an image is that of the two
image encoders and of the tokens of its boxes, as torch's FlopCounterMode counts it.
"""

import logging
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common.timing import peak_flops_per_s, timed_in_turn
from jsonargparse import auto_cli
from PIL import Image
from segment_anything import SamPredictor
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from regionspot.backbones import (
    BoxPrompts,
    FrozenModels,
    ModelsConfig,
    OpenClipEncoder,
    Precision,
    SamLocalizer,
    encode_image,
    load_frozen_models,
    region_tokens,
)
from regionspot.extraction import (
    AnnotationsConfig,
    CacheConfig,
    CacheJob,
    CacheSummary,
    run_job,
)

SIZE_WH = (640, 480)
NUM_IMAGES_OF_A_LARGE_SET = 3_000_000
BOXES = [[20.0 * i, 10.0 * i, 200.0 + 40 * i, 150.0 + 40 * i] for i in range(8)]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Models and images that all ways share."""

    paths: Sequence[Path]
    models: FrozenModels
    config: CacheConfig


def write_photos(folder: Path, num_images: int) -> list[Path]:
    """Write JPEG files that are as hard to decode as photos, and their boxes as a CSV file."""
    rng = np.random.default_rng(0)
    rows, paths = ["image,x1,y1,x2,y2,label"], []
    for number in range(num_images):
        small = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        photo = Image.fromarray(small).resize(SIZE_WH, Image.Resampling.BICUBIC)
        paths.append(folder / f"{number}.jpg")
        photo.save(paths[-1], quality=90)
        rows += [f"{number}.jpg,{','.join(map(str, box))},thing" for box in BOXES]
    (folder / "boxes.csv").write_text("\n".join(rows))
    return paths


def make_setting(
    folder: Path, models: ModelsConfig, num_images: int, batch_size: int, device: str
) -> Setting:
    """Write photos to a folder, and load the models."""
    paths = write_photos(folder, num_images)
    config = CacheConfig(
        output_dir=str(folder / "cache"),
        annotations=AnnotationsConfig(
            format="csv", path=str(folder / "boxes.csv"), images_dir=str(folder)
        ),
        models=models,
        templates=["none"],
        batch_size=batch_size,
        unknown_words="keep",
        device=device,
    )
    frozen = load_frozen_models(models, device=device, batch_size=batch_size)
    return Setting(paths=paths, models=frozen, config=config)


@torch.inference_mode()
def stock(setting: Setting) -> None:
    """Only the two image encoders, as their packages write them."""
    localizer, encoder = setting.models.localizer, setting.models.encoder
    assert isinstance(localizer, SamLocalizer)  # noqa: S101 - for the type checker
    assert isinstance(encoder, OpenClipEncoder)  # noqa: S101 - for the type checker
    batch_size = setting.config.batch_size
    at_once = 1 if localizer.device.type == "cpu" else batch_size  # more leave a CPU's cache
    with localizer.execution.autocast(localizer.device):
        for start in range(0, len(setting.paths), batch_size):
            count = min(batch_size, len(setting.paths) - start)
            side = localizer.image_size
            pixels = torch.zeros(count, 3, side, side, device=localizer.device)
            for batch in pixels.split(at_once):
                localizer.sam.image_encoder(batch)
            side = encoder.info.image_size
            encoder.clip.model.encode_image(
                torch.zeros(count, 3, side, side, device=encoder.device)
            )


@torch.inference_mode()
def bare(setting: Setting) -> None:
    """Only the two image encoders, as RegionSpot runs them."""
    localizer, encoder = setting.models.localizer, setting.models.encoder
    batch_size = setting.config.batch_size
    for start in range(0, len(setting.paths), batch_size):
        count = min(batch_size, len(setting.paths) - start)
        side = localizer.image_size
        localizer.embed(torch.zeros(count, 3, side, side, device=localizer.device))
        side = encoder.info.image_size
        encoder.features(torch.zeros(count, 3, side, side, device=encoder.device))


def regionspot(setting: Setting) -> CacheSummary:
    """The whole job, into a fresh folder."""
    with tempfile.TemporaryDirectory() as folder:
        config = replace(setting.config, output_dir=str(Path(folder) / "cache"))
        summary = run_job(CacheJob(config, models=setting.models))
        assert isinstance(summary, CacheSummary)  # noqa: S101 - for the type checker
        return summary


@torch.inference_mode()
def plain_loop(setting: Setting) -> None:
    """What the documentation of both packages leads to."""
    localizer, clip = setting.models.localizer, setting.models.encoder
    assert isinstance(localizer, SamLocalizer)  # noqa: S101 - for the type checker
    predictor, heard = SamPredictor(localizer.sam), list[Tensor]()
    hook = localizer.sam.mask_decoder.transformer.register_forward_hook(
        lambda _module, _inputs, output: heard.append(output[0][:, 1])
    )
    autocast = clip.execution.autocast(localizer.device)
    reference = clip.reference()
    with tempfile.TemporaryDirectory() as folder, autocast:
        for path in setting.paths:
            pixels = np.asarray(Image.open(path).convert("RGB"))
            predictor.set_image(pixels)
            boxes = predictor.transform.apply_boxes_torch(
                torch.tensor(BOXES, device=localizer.device), pixels.shape[:2]
            )
            predictor.predict_torch(None, None, boxes=boxes, multimask_output=False)
            features = reference.features(reference.preprocess(pixels)[None])[0]
            np.savez(
                Path(folder) / path.stem,
                tokens=heard.pop().half().cpu().numpy(),
                features=features.half().cpu().numpy(),
            )
    hook.remove()


WAYS: dict[str, Callable[[Setting], object]] = {
    "stock": stock,
    "bare": bare,
    "regionspot": regionspot,
    "plain loop": plain_loop,
}


@torch.no_grad()
def flops_per_image(models: FrozenModels) -> dict[str, int]:
    """Count the multiplications and additions that the models need for an image and its boxes."""
    localizer, encoder = models.localizer.reference(), models.encoder.reference()
    assert isinstance(localizer, SamLocalizer)  # noqa: S101 - for the type checker
    sides = localizer.image_size, encoder.info.image_size
    frame, square = (torch.zeros(1, 3, side, side, device=localizer.device) for side in sides)
    with _counted_in_whole() as sam:
        # What the folded form, which GPUs take, multiplies more is no work that an image needs.
        embedding = encode_image(localizer.sam.image_encoder, frame, form="mask")
    with _counted_in_whole() as tokens:
        region_tokens(
            localizer, embedding, BoxPrompts(boxes_xyxy=np.array(BOXES, np.float32)), SIZE_WH[::-1]
        )
    with _counted_in_whole() as clip:
        encoder.features(square)
    counters = {"SAM": sam, "tokens": tokens, "CLIP": clip}
    return {name: counter.get_total_flops() for name, counter in counters.items()}


@contextmanager
def _counted_in_whole() -> Iterator[FlopCounterMode]:
    """Count also what fused attention does, of which the counter knows some kinds only."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


def seconds_per_image(setting: Setting, repeats: int) -> dict[str, list[float]]:
    """Time the ways in turn, in seconds an image by round."""
    ways = {name: partial(way, setting) for name, way in WAYS.items()}
    times = timed_in_turn(ways, setting.models.encoder.device, rounds=repeats)
    return {name: [s / len(setting.paths) for s in seconds] for name, seconds in times.items()}


def report(times: dict[str, list[float]], *, flops: int, peak: float) -> None:
    """Print what was measured."""
    print(f"{flops / 1e9:,.1f} GFLOP an image; peak of torch.mm {peak / 1e12:,.2f} TFLOP/s")
    for name, seconds in times.items():
        median_s = statistics.median(seconds)
        hours = median_s * NUM_IMAGES_OF_A_LARGE_SET / 3600
        print(
            f"{name:<12} {median_s:8.3f} s an image, {1 / median_s:9.2f} images/s,"
            f" {flops / median_s / peak:6.1%} of the peak, {hours:9,.1f} h for 3 million images"
        )
    for name in ("stock", "bare", "plain loop"):
        ratios = [a / b for a, b in zip(times[name], times["regionspot"], strict=True)]
        by_round = " ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"{name} / regionspot: {statistics.median(ratios):.2f} (by round: {by_round})")


def benchmark(
    *,
    num_images: int = 3,
    batch_size: int = 3,
    repeats: int = 3,
    device: str = "cpu",
    preset: str = "bl",
    precision: Precision = "float32",
    compile_encoders: bool = False,
) -> None:
    """Compare the four ways.

    Args:
        num_images: Images of a round.
        batch_size: Images that go through the models at once.
        repeats: How often each way is timed, in turn.
        device: Where the models run.
        preset: Which SAM and CLIP: bb, bl, bl336 or toy.
        precision: What they compute in: float32, bfloat16 or float16.
        compile_encoders: Whether their image encoders are compiled.
    """
    logging.disable(logging.WARNING)
    models = ModelsConfig(
        preset=preset,
        sam_weights="random",
        clip_weights="random",
        precision=precision,
        compile=compile_encoders,
    )
    with tempfile.TemporaryDirectory() as folder:
        setting = make_setting(Path(folder), models, num_images, batch_size, device)
        target = setting.models.encoder.device
        flops = sum(flops_per_image(setting.models).values())
        peak = peak_flops_per_s(target, getattr(torch, precision))
        times = seconds_per_image(setting, repeats)
    name = torch.cuda.get_device_name() if target.type == "cuda" else "CPU"
    compiled = ", compiled" if compile_encoders else ""
    print(
        f"{preset} in {precision}{compiled} on {name}: {num_images} images, {len(BOXES)} boxes"
        f" each, {repeats} rounds"
    )
    report(times, flops=flops, peak=peak)


if __name__ == "__main__":
    auto_cli(benchmark)
