"""Does guided attention help on the toy world by more than chance? Three trainings of each kind.

    python benchmarks/toy_guidance.py

Trains stage 2 of the quickstart's recipe from the same stage 1, without and with guidance, with
three seeds, and scores all heads and pooled patches (nothing trained) on the validation images.
Prints AP and top-1 of every seed, their means, and the lead over the head without guidance. About
ten minutes on two cores. Worlds of other seeds: `regionspot quickstart --world_seed 11`.
"""

import statistics
from pathlib import Path

from jsonargparse import auto_cli
from toy_seeds import compare, train_stage

KINDS = {
    "none": (),
    "halves": ("--model.head.guidance", "halves"),
    "learned": ("--model.head.guidance", "learned"),
    "learned_spread8": ("--model.head.guidance", "learned", "--model.head.guidance_spread", "8"),
}
"""The kinds of guidance: options of stage 2 by name."""


def toy_guidance(
    quickstart_dir: Path = Path("runs/quickstart"),
    output_dir: Path = Path("runs/toy_guidance"),
    seeds: tuple[int, ...] = (0, 1, 2),
    kinds: tuple[str, ...] = tuple(KINDS),
) -> None:
    """Train, score and print.

    Args:
        quickstart_dir: A finished quickstart (`make quickstart`).
        output_dir: Folder of the runs.
        seeds: Seeds of initial weights and order of images.
        kinds: Which kinds of guidance, of those in `KINDS`.
    """
    heads = {}
    for seed in seeds:
        run_dir = output_dir / f"seed{seed}"
        train_stage(quickstart_dir, run_dir, 1, seed=seed)
        for kind in kinds:
            heads[f"{kind}-{seed}"] = train_stage(
                quickstart_dir, run_dir, 2, seed=seed, name=kind, options=KINDS[kind]
            )
    options = ("--methods", "[pooled_patches]", "--predictions", "none")
    result = compare(quickstart_dir, output_dir, heads, options=options)
    figures = {method.name: method.figures for method in result.methods}
    print(f"\n{'guidance':<16} AP of each seed        mean   top-1 of each seed     mean")
    for kind in kinds:
        own = [figures[f"{kind}-{seed}"] for seed in seeds]
        columns = []
        for name in ("AP", "top1_accuracy"):
            values = [found[name] or 0.0 for found in own]
            texts = ", ".join(f"{value:.1f}" for value in values)
            columns.append(f"{texts:<22} {statistics.mean(values):>5.1f}")
        print(f"{kind:<16} {'  '.join(columns)}")
    pooled = figures["pooled_patches"]
    print(f"{'pooled_patches':<16} AP {pooled['AP']:.1f}, top-1 {pooled['top1_accuracy']:.1f}")


if __name__ == "__main__":
    auto_cli(toy_guidance, as_positional=False)
