"""How fast is a training step of the head, against torch's own decoder and AdamW?

    python benchmarks/head_step.py
    python benchmarks/head_step.py --dropout 0.1 --precision bf16
    python benchmarks/head_step.py --device cuda --compile true

Forward pass, focal loss, backward pass and optimizer of one BL batch (16 images of 16 regions, 257
feature tokens), in turn, several times, from the same weights: with ``torch.nn.TransformerDecoder``
and plain AdamW; with ours and fused AdamW; and with ours and learned guidance, whose strengths
start at 0. Prints the median times, the ratio, the arithmetic as
torch counts it and its share of what ``torch.mm`` does in the same run; and how far apart the
losses of the trainings with the same arithmetic (all but guidance) are, which says something only
without dropout.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from common.timing import median_ratio, peak_flops_per_s
from jsonargparse import auto_cli
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import override

from regionspot.model import FusionHead, HeadSpec, RegionClassifier, region_focal_loss

Step = Callable[[], Tensor]


@dataclass(frozen=True, kw_only=True)
class StepSize:
    """A batch and the head that it goes through; the defaults are BL's."""

    num_images: int = 16
    num_regions: int = 16
    num_tokens: int = 257
    token_dim: int = 256
    feature_dim: int = 1024
    text_dim: int = 768
    ffn_dim: int = 2048
    num_heads: int = 8
    num_classes: int = 365


class TorchHead(nn.Module):
    """The paper's head as torch spells it; parameters are named as ours."""

    def __init__(self, size: StepSize, dropout: float) -> None:
        super().__init__()
        width = size.feature_dim
        layer = nn.TransformerDecoderLayer(
            width, size.num_heads, size.ffn_dim, dropout, "relu", batch_first=True
        )
        self.to_clip = nn.Linear(size.token_dim, width)
        self.decoder = nn.TransformerDecoder(layer, 3, nn.LayerNorm(width))
        self.projector = nn.Linear(width, size.text_dim)

    @override
    def forward(self, tokens: Tensor, features: Tensor, mask: Tensor, _: Tensor) -> Tensor:
        queries = self.to_clip(tokens.float())
        decoded = self.decoder(queries, features.float(), tgt_key_padding_mask=~mask)
        return self.projector(decoded)


def make_heads(size: StepSize, dropout: float, device: str) -> tuple[TorchHead, FusionHead]:
    """Return torch's head and ours, with the same weights."""
    theirs = TorchHead(size, dropout).to(device)
    ours = FusionHead(
        HeadSpec(
            token_dim=size.token_dim,
            feature_dim=size.feature_dim,
            text_dim=size.text_dim,
            ffn_dim=size.ffn_dim,
            num_heads=size.num_heads,
            dropout=dropout,
        )
    ).to(device)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def with_guidance(head: FusionHead, device: str) -> FusionHead:
    """Return a head with the same weights and learned guidance that starts at 0."""
    guided = FusionHead(replace(head.spec, guidance="learned")).to(device)
    guided.load_state_dict(guided.state_dict() | head.state_dict())
    return guided


def make_step(
    head: nn.Module,
    size: StepSize,
    counts: Tensor,
    *,
    fused: bool,
    device: str,
    bf16: bool,
) -> Step:
    """Return what takes one step on always the same batch, and returns its loss.

    Args:
        head: The head.
        size: Of the batch.
        counts: How many of its regions each image has, (B,).
        fused: Whether AdamW is torch's fused one.
        device: Where the head is.
        bf16: Whether it runs under bfloat16 autocast.
    """
    generator = torch.Generator().manual_seed(1)
    shape = (size.num_images, size.num_regions)
    tokens = torch.randn(*shape, size.token_dim, generator=generator).half().to(device)
    features = torch.randn(size.num_images, size.num_tokens, size.feature_dim, generator=generator)
    features = features.half().to(device)
    mask = (torch.arange(size.num_regions) < counts[:, None]).to(device)
    bank = torch.randn(size.num_classes, size.text_dim, generator=generator)
    bank = F.normalize(bank, dim=-1).to(device)
    labels = torch.randint(0, size.num_classes, shape, generator=generator).to(device)
    corners = torch.rand(*shape, 2, 2, generator=generator).sort(dim=-2).values
    boxes = corners.flatten(2).to(device)
    num_counted = int(counts.sum())
    classifier = RegionClassifier().to(device)
    optimizer = torch.optim.AdamW(head.parameters(), lr=2.5e-5, weight_decay=1e-4, fused=fused)

    def step() -> Tensor:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            embeddings = head(tokens, features, mask, boxes)
            loss = region_focal_loss(
                embeddings, bank, labels, mask, classifier=classifier, num_counted=num_counted
            )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def benchmark(
    repeats: int = 7,
    dropout: float = 0.0,
    precision: Literal["fp32", "bf16"] = "fp32",
    device: str = "cpu",
    threads: int = 1,
    *,
    compile: bool = False,  # noqa: A002 - the option's name on the command line
) -> None:
    """Compare the steps.

    Args:
        repeats: How often each step is timed, in turn, after two rounds that do not count.
        dropout: Share of activations dropped; the paper's is 0.1.
        precision: ``bf16`` for autocast.
        device: Where it runs.
        threads: CPU threads.
        compile: Run our head through ``torch.compile``.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    size, bf16 = StepSize(), precision == "bf16"
    counts = 10 + torch.arange(size.num_images) % 7
    theirs, ours = make_heads(size, dropout, device)
    guided = with_guidance(ours, device)
    steps = {
        "nn.TransformerDecoder": make_step(
            theirs, size, counts, fused=False, device=device, bf16=bf16
        ),
        "regionspot": make_step(ours, size, counts, fused=True, device=device, bf16=bf16),
        "regionspot, guided": make_step(guided, size, counts, fused=True, device=device, bf16=bf16),
    }
    flops, losses, times = {}, {}, {name: list[float]() for name in steps}
    for name, step in steps.items():
        with FlopCounterMode(display=False) as counter:
            losses[name] = [step().item()]
        flops[name] = counter.get_total_flops()
    if compile:
        ours.compile()
        guided.compile()
    rates = []
    for round_number in range(repeats + 1):
        dtype = torch.bfloat16 if bf16 else torch.float32
        rates.append(peak_flops_per_s(torch.device(device), dtype, repeats=2))
        for name, step in steps.items():
            start = time.perf_counter()
            losses[name].append(step().item())
            if round_number:
                times[name].append(time.perf_counter() - start)
    rate, base = statistics.median(rates[1:]), times["nn.TransformerDecoder"]
    print(
        f"BL, 16 images of 16 regions, dropout {dropout}, {precision}, {device}, {threads} threads;"
        f" torch.mm {rate / 1e9:.0f} GFLOP/s"
    )
    for name, seconds in times.items():
        median = statistics.median(seconds)
        ratio = median_ratio(base, seconds)
        share = flops[name] / median / rate
        print(
            f"{name:<22} {1000 * median:>7.1f} ms  {ratio:>5.2f} x "
            f" {size.num_images / median:>7.1f} images/s  {flops[name] / 1e9:>6.1f} GFLOP"
            f" at {share:.2f} of torch.mm's rate"
        )
    unguided, seconds = times["regionspot"], times["regionspot, guided"]
    print(f"guidance takes {1 / median_ratio(unguided, seconds):.3f} of the step's time")
    pairs = zip(losses["nn.TransformerDecoder"], losses["regionspot"], strict=True)
    largest = max(abs(mine - other) / abs(other) for other, mine in pairs)
    print(f"losses of {repeats + 2} steps: largest relative difference {largest:.1e}")


if __name__ == "__main__":
    auto_cli(benchmark)
