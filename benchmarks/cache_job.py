"""What does the whole caching job cost, against the bare models, and against the plain loop?

    python benchmarks/cache_job.py
    python benchmarks/cache_job.py --num_images 64 --batch_size 8 --device cuda

Full size (BL: SAM ViT-B, CLIP ViT-L/14; random weights: they change no speed), on made-up JPEG
photos of 640 x 480 with 8 boxes each. In turn, several times, in one process, models loaded before:

- bare: the forward passes of both image encoders on the same images, as tensors in memory, in the
  batches that suit the device. No decoding, no boxes, nothing stored: what no job can be faster
  than, as long as these models are to see these images;
- regionspot: `cache_features` from files to verified shards;
- the plain loop: what one would write with ``SamPredictor`` and ``open_clip``: for each image PIL,
  ``set_image``, ``predict_torch`` on all boxes, the class and patch tokens, ``np.savez``.

Prints medians of seconds an image, and ratios of each round: bare to regionspot (1 is the limit),
and the plain loop to regionspot.
"""

import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli
from PIL import Image
from segment_anything import SamPredictor
from torch import Tensor

from regionspot.backbones import FrozenModels, ModelsConfig, SamLocalizer, load_frozen_models
from regionspot.extraction import AnnotationsConfig, CacheConfig
from regionspot.extraction.job import CacheJob
from regionspot.extraction.run import run_job

SIZE_WH = (640, 480)
BOXES = [[20.0 * i, 10.0 * i, 200.0 + 40 * i, 150.0 + 40 * i] for i in range(8)]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Models and images that all ways share."""

    folder: Path
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


@torch.inference_mode()
def bare(setting: Setting) -> None:
    """Only the two image encoders."""
    localizer, encoder = setting.models.localizer, setting.models.encoder
    batch_size = setting.config.batch_size
    for start in range(0, len(setting.paths), batch_size):
        count = min(batch_size, len(setting.paths) - start)
        side = localizer.image_size
        localizer.embed(torch.zeros(count, 3, side, side, device=localizer.device))
        side = encoder.image_size
        encoder.clip.model.visual(torch.zeros(count, 3, side, side, device=encoder.device))


def regionspot(setting: Setting) -> None:
    """The whole job, into a fresh folder."""
    with tempfile.TemporaryDirectory() as folder:
        config = CacheConfig(
            output_dir=str(Path(folder) / "cache"),
            annotations=setting.config.annotations,
            models=setting.config.models,
            templates=setting.config.templates,
            batch_size=setting.config.batch_size,
            device=setting.config.device,
        )
        run_job(CacheJob(config, models=setting.models))


@torch.inference_mode()
def plain_loop(setting: Setting) -> None:
    """What the documentation of both packages leads to."""
    localizer, clip = setting.models.localizer, setting.models.encoder
    assert isinstance(localizer, SamLocalizer)  # noqa: S101 - for the type checker
    predictor, heard = SamPredictor(localizer.sam), list[Tensor]()
    hook = localizer.sam.mask_decoder.transformer.register_forward_hook(
        lambda _module, _inputs, output: heard.append(output[0][:, 1])
    )
    with tempfile.TemporaryDirectory() as folder:
        for path in setting.paths:
            pixels = np.asarray(Image.open(path).convert("RGB"))
            predictor.set_image(pixels)
            boxes = predictor.transform.apply_boxes_torch(
                torch.tensor(BOXES, device=localizer.device), pixels.shape[:2]
            )
            predictor.predict_torch(None, None, boxes=boxes, multimask_output=False)
            features = clip.features(clip.preprocess(pixels)[None])[0]
            np.savez(
                Path(folder) / path.stem,
                tokens=heard.pop().half().cpu().numpy(),
                features=features.half().cpu().numpy(),
            )
    hook.remove()


WAYS: dict[str, Callable[[Setting], None]] = {
    "bare": bare,
    "regionspot": regionspot,
    "plain loop": plain_loop,
}


def benchmark(
    num_images: int = 3, batch_size: int = 3, repeats: int = 3, device: str = "cpu"
) -> None:
    """Compare the three ways.

    Args:
        num_images: Images of a round.
        batch_size: Images that go through the models at once.
        repeats: How often each way is timed, in turn.
        device: Where the models run.
    """
    logging.disable(logging.WARNING)
    models = ModelsConfig(preset="bl", sam_weights="random", clip_weights="random")
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photos(Path(folder), num_images)
        config = CacheConfig(
            output_dir=folder,
            annotations=AnnotationsConfig(
                format="csv", path=str(Path(folder) / "boxes.csv"), images_dir=folder
            ),
            models=models,
            templates=["none"],
            batch_size=batch_size,
            device=device,
        )
        frozen = load_frozen_models(models, device=device)
        setting = Setting(folder=Path(folder), paths=paths, models=frozen, config=config)
        times: dict[str, list[float]] = {name: [] for name in WAYS}
        for _ in range(repeats):
            for name, way in WAYS.items():
                start = time.perf_counter()
                way(setting)
                if device != "cpu":
                    torch.cuda.synchronize()
                times[name].append((time.perf_counter() - start) / num_images)
    print(f"{num_images} images, {len(BOXES)} boxes each, {device}, {repeats} rounds")
    for name, seconds in times.items():
        print(f"{name:<12} {statistics.median(seconds):8.3f} s an image")
    ours = times["regionspot"]
    for name in ("bare", "plain loop"):
        ratios = [a / b for a, b in zip(times[name], ours, strict=True)]
        print(f"{name} / regionspot: {statistics.median(ratios):.2f} (by round: {ratios})")


if __name__ == "__main__":
    auto_cli(benchmark)
