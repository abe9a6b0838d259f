"""How fast is a training step of the head, against torch's own decoder and AdamW?

    python benchmarks/head_step.py
    python benchmarks/head_step.py --dropout 0.1 --precision bf16
    python benchmarks/head_step.py --device cuda --compile true

Forward pass, focal loss, backward pass and optimizer of one BL batch (16 images of 16 regions, 257
feature tokens), in turn, several times, from the same weights: with ``torch.nn.TransformerDecoder``
and plain AdamW; with ours and fused AdamW. Prints the median times, the ratio, the arithmetic as
torch counts it and its share of what ``torch.mm`` does in the same run; and how far apart the
losses of the two trainings are, which says something only without dropout.
"""

import statistics
import time
from collections.abc import Callable
from typing import Literal

import torch
from jsonargparse import auto_cli
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import override

from regionspot.model import FusionHead, RegionClassifier, region_focal_loss

Step = Callable[[], float]


class TorchHead(nn.Module):
    """The paper's head as torch spells it; parameters are named as ours."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(1024, 8, 2048, dropout, "relu", batch_first=True)
        self.to_clip = nn.Linear(256, 1024)
        self.decoder = nn.TransformerDecoder(layer, 3, nn.LayerNorm(1024))
        self.projector = nn.Linear(1024, 768)

    @override
    def forward(self, tokens: Tensor, features: Tensor, mask: Tensor) -> Tensor:
        queries = self.to_clip(tokens.float())
        decoded = self.decoder(queries, features.float(), tgt_key_padding_mask=~mask)
        return self.projector(decoded)


def make_step(head: nn.Module, *, fused: bool, device: str, bf16: bool) -> Step:
    """Return what takes one step on always the same batch, and tells its loss."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(16, 16, 256, generator=generator).half().to(device)
    features = torch.randn(16, 257, 1024, generator=generator).half().to(device)
    mask = (torch.arange(16) < 10 + torch.arange(16)[:, None] % 7).to(device)
    bank = F.normalize(torch.randn(365, 768, generator=generator), dim=-1).to(device)
    labels = torch.randint(0, 365, (16, 16), generator=generator).to(device)
    classifier = RegionClassifier().to(device)
    optimizer = torch.optim.AdamW(head.parameters(), lr=2.5e-5, weight_decay=1e-4, fused=fused)

    def step() -> float:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            embeddings = head(tokens, features, mask)
            loss = region_focal_loss(embeddings, bank, labels, mask, classifier=classifier)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def mm_flops_per_s(device: str, *, bf16: bool) -> float:
    """Return what ``torch.mm`` reaches on square matrices of 2048, the better of two."""
    square = torch.randn(2048, 2048, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        torch.mm(square, square)[0, 0].item()
        seconds.append(time.perf_counter() - start)
    return 2 * 2048**3 / min(seconds)


def benchmark(
    repeats: int = 7,
    dropout: float = 0.0,
    precision: Literal["fp32", "bf16"] = "fp32",
    device: str = "cpu",
    threads: int = 1,
    *,
    compile: bool = False,  # noqa: A002 - the option's name on the command line
) -> None:
    """Compare the two steps.

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
    theirs, ours = TorchHead(dropout).to(device), FusionHead(dropout=dropout).to(device)
    ours.load_state_dict(theirs.state_dict())
    bf16 = precision == "bf16"
    steps = {
        "nn.TransformerDecoder": make_step(theirs, fused=False, device=device, bf16=bf16),
        "regionspot": make_step(ours, fused=True, device=device, bf16=bf16),
    }
    flops, losses, times = {}, {}, {name: list[float]() for name in steps}
    for name, step in steps.items():
        with FlopCounterMode(display=False) as counter:
            losses[name] = [step()]
        flops[name] = counter.get_total_flops()
    if compile:
        ours.compile()
    rates = []
    for round_number in range(repeats + 1):
        rates.append(mm_flops_per_s(device, bf16=bf16))
        for name, step in steps.items():
            start = time.perf_counter()
            losses[name].append(step())
            if round_number:
                times[name].append(time.perf_counter() - start)
    rate, base = statistics.median(rates[1:]), times["nn.TransformerDecoder"]
    print(
        f"BL, 16 images of 16 regions, dropout {dropout}, {precision}, {device}, {threads} threads;"
        f" torch.mm {rate / 1e9:.0f} GFLOP/s"
    )
    for name, seconds in times.items():
        median = statistics.median(seconds)
        ratio = statistics.median(a / b for a, b in zip(base, seconds, strict=True))
        share = flops[name] / median / rate
        print(
            f"{name:<22} {1000 * median:>7.1f} ms  {ratio:>5.2f} x  {16 / median:>7.1f} images/s "
            f" {flops[name] / 1e9:>6.1f} GFLOP at {share:.2f} of torch.mm's rate"
        )
    pairs = zip(*losses.values(), strict=True)
    largest = max(abs(mine - other) / abs(other) for other, mine in pairs)
    print(f"losses of {repeats + 2} steps: largest relative difference {largest:.1e}")


if __name__ == "__main__":
    auto_cli(benchmark)
