"""How fast are position tokens, against the mask decoder of ``segment_anything`` itself?

    python benchmarks/position_tokens.py
    python benchmarks/position_tokens.py --device cuda

Tokens of an image's boxes at full size (SAM ViT-B's decoder, random weights: they change no speed),
by three ways in turn, several times: the whole mask decoder as ``SamPredictor`` runs it; only its
two-way transformer, as ``segment_anything`` writes it; and ours. Prints the median time of each,
how many times as fast as the first it is, and how far its tokens are from the first's.
"""

import statistics
import time
from collections.abc import Callable

import torch
from jsonargparse import auto_cli
from segment_anything.modeling import Sam
from torch import Tensor

from regionspot.backbones import SamLocalizer, SamPrompts, load_sam

Way = Callable[[Sam, Tensor, Tensor], Tensor]


@torch.no_grad()
def whole_decoder(sam: Sam, embedding_1SHW: Tensor, boxes_R4: Tensor) -> Tensor:
    """Run all that ``SamPredictor.predict_torch`` runs after the prompt encoder."""
    heard: list[Tensor] = []
    hook = sam.mask_decoder.transformer.register_forward_hook(
        lambda _module, _inputs, output: heard.append(output[0][:, 1])
    )
    sparse, dense = sam.prompt_encoder(points=None, boxes=boxes_R4, masks=None)
    sam.mask_decoder(
        image_embeddings=embedding_1SHW,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    hook.remove()
    return heard[0]


@torch.no_grad()
def transformer_alone(sam: Sam, embedding_1SHW: Tensor, boxes_R4: Tensor) -> Tensor:
    """Leave out the upscaling of masks."""
    decoder = sam.mask_decoder
    sparse, dense = sam.prompt_encoder(points=None, boxes=boxes_R4, masks=None)
    learned = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    queries = torch.cat([learned.expand(len(boxes_R4), -1, -1), sparse], dim=1)
    position = sam.prompt_encoder.get_dense_pe().expand_as(dense)
    tokens: Tensor = decoder.transformer(embedding_1SHW + dense, position, queries)[0][:, 1]
    return tokens


def ours(sam: Sam, embedding_1SHW: Tensor, boxes_R4: Tensor) -> Tensor:
    """Decode tokens as a localizer does."""
    localizer = SamLocalizer(sam, token_site="transformer", model_name="vit_b")  # noqa: S106
    return localizer.decode_tokens(embedding_1SHW, SamPrompts(boxes_xyxy_sam=boxes_R4))[0]


WAYS: dict[str, Way] = {
    "whole mask decoder": whole_decoder,
    "its transformer alone": transformer_alone,
    "regionspot": ours,
}


def benchmark(num_boxes: int = 16, repeats: int = 5, device: str = "cpu") -> None:
    """Compare the three ways.

    Args:
        num_boxes: Boxes of the image.
        repeats: How often each way is timed, in turn, after one round that does not count.
        device: Where it runs.
    """
    torch.manual_seed(0)
    sam = load_sam("vit_b", "random").to(device)
    embedding = torch.randn(1, 256, 64, 64, device=device)
    corners = 924 * torch.rand(num_boxes, 2, device=device)
    boxes = torch.cat([corners, corners + 100], dim=1)
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    tokens: dict[str, Tensor] = {}
    for round_number in range(repeats + 1):
        for name, way in WAYS.items():
            start = time.perf_counter()
            tokens[name] = way(sam, embedding, boxes)
            if device != "cpu":
                torch.cuda.synchronize()
            if round_number:
                times[name].append(time.perf_counter() - start)
    first, wanted = times["whole mask decoder"], tokens["whole mask decoder"]
    print(f"{num_boxes} boxes, {device}, {torch.get_num_threads()} threads, {repeats} rounds")
    for name, seconds in times.items():
        ratio = statistics.median(a / b for a, b in zip(first, seconds, strict=True))
        error = (tokens[name] - wanted).abs().max().item()
        print(
            f"{name:<22} {1000 * statistics.median(seconds):>8.0f} ms  {ratio:>5.2f} x"
            f"  largest difference {error:.1e}"
        )


if __name__ == "__main__":
    auto_cli(benchmark)
