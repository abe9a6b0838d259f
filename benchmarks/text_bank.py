"""How fast are class names embedded, against open_clip's plain ``encode_text`` loop?

    python benchmarks/text_bank.py
    python benchmarks/text_bank.py --clip ViT-L-14-quickgelu
    python benchmarks/text_bank.py --names my/names.txt --num_names 100
    python benchmarks/text_bank.py --device cuda --num_names 200

Full-size text towers with random weights (they change no speed), class names as long as those of
LVIS (1 to 4 words), each in the 81 sentences of ``ensemble81``. In turn, several times:

- plain: ``encode_text`` of open_clip on whole rows of 77 tokens, in batches of 256;
- regionspot: `text_bank`, from names to normalised means.

Prints seconds for each, the ratio of each round, the largest difference between both banks, and
what 1,203 (LVIS) and 13,029 names (V3Det) take at that rate.
"""

import itertools
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from jsonargparse import auto_cli
from torch import Tensor
from torch.nn import functional as F

from regionspot.backbones import LoadedClip, OpenClipEncoder, load_clip, template_texts

TEMPLATES = "ensemble81"
BATCH_SIZE = 256
ADJECTIVES = ("", "small ", "wooden ", "salt and pepper ")
NOUNS = ("lamp", "teapot", "bow tie", "screwdriver", "kayak", "mailbox", "hourglass", "clarinet")


def made_up_names(number: int) -> list[str]:
    """Return distinct names of one to five words."""
    names = [adjective + noun for noun, adjective in itertools.product(NOUNS, ADJECTIVES)]
    return [f"{names[i % len(names)]}{'' if i < len(names) else f' {i}'}" for i in range(number)]


@torch.inference_mode()
def plain(loaded: LoadedClip, names: list[str]) -> Tensor:
    """Embed every sentence at the full context length."""
    texts = [
        sentence.replace("{}", name) for name in names for sentence in template_texts(TEMPLATES)
    ]
    device = loaded.model.logit_scale.device
    rows = [
        loaded.model.encode_text(loaded.tokenizer(texts[first : first + BATCH_SIZE]).to(device))
        for first in range(0, len(texts), BATCH_SIZE)
    ]
    means = torch.cat(rows).unflatten(0, (len(names), -1)).mean(dim=1)
    return F.normalize(means, dim=-1)


def benchmark(
    *,
    clip: str = "ViT-B-16-quickgelu",
    num_names: int = 13,
    names: Path | None = None,
    repeats: int = 3,
    device: str = "cpu",
) -> None:
    """Compare both.

    Args:
        clip: open_clip's name of the model, or "tiny".
        num_names: Class names to embed.
        names: A file of class names, one a line; made-up ones by default.
        repeats: How often each way is timed, in turn.
        device: Where the text tower runs.
    """
    logging.disable(logging.WARNING)
    loaded = load_clip(clip, "random")
    encoder = OpenClipEncoder(loaded).to(torch.device(device))
    if names is None:
        chosen = made_up_names(num_names)
    else:
        chosen = names.read_text(encoding="utf-8").split("\n")[:num_names]
    ways: dict[str, Callable[[], Tensor]] = {
        "plain": lambda: plain(loaded, chosen),
        "regionspot": lambda: encoder.text_bank(chosen, TEMPLATES, batch_size=BATCH_SIZE),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    banks = {name: way() for name, way in ways.items()}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()[0, 0].item()  # waits for a GPU
            seconds[name].append(time.perf_counter() - start)
    num_texts = len(chosen) * len(template_texts(TEMPLATES))
    print(f"{clip} on {device}: {len(chosen)} names, {num_texts} texts, {repeats} rounds")
    for name, times in seconds.items():
        median_s = statistics.median(times)
        print(
            f"{name:<12} {median_s:8.2f} s, {num_texts / median_s:9.1f} texts/s; 1,203 names in"
            f" {median_s / len(chosen) * 1203:7.0f} s, 13,029 in"
            f" {median_s / len(chosen) * 13029:8.0f} s"
        )
    ratios = [a / b for a, b in zip(seconds["plain"], seconds["regionspot"], strict=True)]
    by_round = " ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"plain / regionspot: {statistics.median(ratios):.2f} (by round: {by_round})")
    print(f"largest difference: {float((banks['plain'] - banks['regionspot']).abs().max()):.1e}")


if __name__ == "__main__":
    auto_cli(benchmark)
