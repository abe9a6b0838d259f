"""How fast is a head in onnxruntime, and the whole way from pixels to names, against eager torch?

    python benchmarks/onnx_latency.py
    python benchmarks/onnx_latency.py --preset bl --num_boxes 10    # some minutes, 9 GB of memory

Random heads with the frozen models of a preset (tiny, or at full size with random weights: they
change no speed), exported to a temporary folder. In turn, several times, with the same threads:

- the head: eager on one image's tokens, feature map and text bank; the same in onnxruntime;
- the chain: `RegionSpot.recognize` without masks on one image; ``examples/onnx_runner.py``.

Prints the median milliseconds of each, how many times as fast onnxruntime is (the median of the
ratios by round), and the largest difference between both.
"""

import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from common.timing import Way, median_ratio, timed_in_turn
from jsonargparse import auto_cli
from numpy.typing import NDArray
from PIL import Image

from regionspot.backbones import FrozenModels, ModelsConfig, load_frozen_models
from regionspot.inference import RegionSpot, export_chain, head_program
from regionspot.model import FusionHead, HeadCard, HeadSpec, RegionClassifier, TrainedHead

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from onnx_runner import OnnxRunner

NAMES = ("plain yellow ring", "dotted red heart", "sea egg")
CPU = torch.device("cpu")
Inputs = dict[str, NDArray[Any]]


def random_head(models: FrozenModels) -> TrainedHead:
    """Build a head of the paper's shape for the models' widths."""
    spec = HeadSpec(
        token_dim=models.localizer.token_dim,
        feature_dim=models.encoder.info.width,
        text_dim=models.encoder.info.text_dim,
    )
    card = HeadCard(
        head=spec,
        scale=100.0,
        bias=0.0,
        fingerprint=models.fingerprint().to_dict(),
        vocabulary=NAMES,
        templates="single",
    )
    return TrainedHead(head=FusionHead(spec).eval(), classifier=RegionClassifier(), card=card)


def head_inputs(head: TrainedHead, *, num_tokens: int, num_boxes: int, num_names: int) -> Inputs:
    """Return random numbers for one image."""
    spec, rng = head.head.spec, np.random.default_rng(0)
    text = rng.normal(size=(num_names, spec.text_dim))
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    return {
        "position_tokens": rng.normal(size=(1, num_boxes, spec.token_dim)).astype(np.float32),
        "feature_map": rng.normal(size=(1, num_tokens, spec.feature_dim)).astype(np.float32),
        "region_mask": np.ones((1, num_boxes), np.bool_),
        "text": text.astype(np.float32),
    }


def report(what: str, ways: dict[str, Way], *, rounds: int, difference: float) -> None:
    """Time two ways in turn and print how they compare."""
    times = timed_in_turn(ways, CPU, rounds=rounds)
    milliseconds = ", ".join(f"{name} {1e3 * np.median(of):.1f} ms" for name, of in times.items())
    ratio = median_ratio(times["eager"], times["onnxruntime"])
    by_round = [a / b for a, b in zip(times["eager"], times["onnxruntime"], strict=True)]
    print(
        f"{what}: {milliseconds}; onnxruntime {ratio:.2f} x as fast"
        f" (by round {min(by_round):.2f} to {max(by_round):.2f}), equal to {difference:.0e}"
    )


@torch.inference_mode()
def benchmark(
    *,
    preset: str = "toy",
    num_boxes: int = 10,
    num_names: int = 1203,
    rounds: int = 15,
    num_threads: int = 1,
) -> None:
    """Compare both.

    Args:
        preset: The frozen models: toy, bb, bl or bl336.
        num_boxes: Boxes of the image.
        num_names: Names that the head alone chooses from; those of LVIS are 1,203.
        rounds: How often each way is timed, in turn.
        num_threads: Threads of torch, and of onnxruntime.
    """
    logging.disable(logging.WARNING)
    torch.set_num_threads(num_threads)
    torch.manual_seed(0)
    weights = "shipped" if preset == "toy" else "random"
    config = ModelsConfig(preset=preset, sam_weights=weights, clip_weights=weights)
    models = load_frozen_models(config, device="cpu")
    head = random_head(models)
    model = RegionSpot(head, models)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (480, 640, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    corners = rng.uniform((0, 0), (500, 350), (num_boxes, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(20, 120, (num_boxes, 2))], axis=1)
    print(f"{preset}, {num_boxes} boxes, {num_threads} thread(s), {rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        export_chain(Path(folder), head, models, model.choose_names())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        session = onnxruntime.InferenceSession(
            str(Path(folder) / "head.onnx"), options, providers=["CPUExecutionProvider"]
        )
        runner = OnnxRunner(folder, num_threads=num_threads)
    num_tokens = models.encoder.info.num_tokens
    inputs = head_inputs(head, num_tokens=num_tokens, num_boxes=num_boxes, num_names=num_names)
    module = head_program(head, num_tokens).module
    tensors = [torch.from_numpy(values) for values in inputs.values()]
    _, eager, _ = module(*tensors)
    _, exported, _ = session.run(None, inputs)
    report(
        "head",
        {"eager": lambda: module(*tensors), "onnxruntime": lambda: session.run(None, inputs)},
        rounds=rounds,
        difference=float(np.abs(eager.numpy() - exported).max()),
    )
    named = model.recognize(pixels, boxes, with_masks=False)
    report(
        "chain",
        {
            "eager": lambda: model.recognize(pixels, boxes, with_masks=False),
            "onnxruntime": lambda: runner.recognize(image, boxes),
        },
        rounds=rounds,
        difference=float(
            np.abs(named.embeddings - runner.recognize(image, boxes).embeddings).max()
        ),
    )


if __name__ == "__main__":
    auto_cli(benchmark)
