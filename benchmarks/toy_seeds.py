"""Does the head beat CLIP on crops by more than chance? Three trainings on the toy world.

    python benchmarks/toy_seeds.py

Trains the quickstart's two stages with three seeds on the caches of `make quickstart` and scores
the three heads, the paper's two crop baselines and the two controls on its validation images.
Prints AP by method, and by how many spreads (largest less smallest AP of the three heads) the mean
of the heads lies above each method without a head. About four minutes on two cores.
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import auto_cli

from regionspot.cli.evaluate import parse_config
from regionspot.cli.main import main as regionspot
from regionspot.cli.quickstart import SOURCES
from regionspot.evaluation import run_evaluation
from regionspot.scoring.results import EvaluationResult, format_table

_TOY = Path(__file__).parents[1] / "configs" / "toy"


def train(quickstart_dir: Path, run_dir: Path, *, seed: int) -> Path:
    """Train both stages, unless that was done before; return the folder of the trained head."""
    train_stage(quickstart_dir, run_dir, 1, seed=seed)
    return train_stage(quickstart_dir, run_dir, 2, seed=seed)


def train_stage(
    quickstart_dir: Path,
    run_dir: Path,
    stage: int,
    *,
    seed: int,
    name: str | None = None,
    options: Sequence[str] = (),
) -> Path:
    """Train one stage, unless that was done before; return the folder of the trained head.

    Args:
        quickstart_dir: A finished quickstart.
        run_dir: Folder of the stages.
        stage: 1, or 2, which starts from the head of stage 1.
        seed: Seed of initial weights and order of images.
        name: Name of the stage's folder; None for ``stage<number>``.
        options: Further options of ``train.py fit``.
    """
    folder = run_dir / (name or f"stage{stage}")
    caches = [str(quickstart_dir / "cache" / source) for source in SOURCES]
    words = [
        *("fit", "--config", str(_TOY / f"train_stage{stage}.yaml")),
        *("--data.train", json.dumps(caches[:1] if stage == 1 else caches)),
        *("--seed_everything", str(seed)),
        *("--data.val", str(quickstart_dir / "cache" / "val")),
        *("--val_annotations", str(quickstart_dir / "world" / "val.json")),
        *("--trainer.default_root_dir", str(folder), *options),
    ]
    if stage > 1:
        words += ["--model.init_from", str(run_dir / "stage1" / "head")]
    if not (folder / "head" / "head.safetensors").is_file():
        regionspot(words)
    return folder / "head"


def compare(
    quickstart_dir: Path, output_dir: Path, heads: dict[str, Path], *, options: Sequence[str] = ()
) -> EvaluationResult:
    """Score all heads and all methods without one."""
    config = parse_config(
        [
            *("--config", str(_TOY / "eval.yaml"), "--output_dir", str(output_dir)),
            *("--cache", str(quickstart_dir / "cache" / "val")),
            *("--annotations", str(quickstart_dir / "world" / "val.json")),
            *("--images_dir", str(quickstart_dir / "world"), "--num_pictures", "0"),
            *("--checkpoints", json.dumps([f"{name}={path}" for name, path in heads.items()])),
            *options,
        ]
    )
    return run_evaluation(config)


def toy_seeds(
    quickstart_dir: Path = Path("runs/quickstart"),
    output_dir: Path = Path("runs/toy_seeds"),
    seeds: tuple[int, ...] = (0, 1, 2),
) -> None:
    """Train, score and print.

    Args:
        quickstart_dir: A finished quickstart (`make quickstart`).
        output_dir: Folder of the runs.
        seeds: Seeds of initial weights and order of images.
    """
    if not (quickstart_dir / "report.html").is_file():
        raise SystemExit(f"error: no finished quickstart in {quickstart_dir}: type make quickstart")
    heads = {
        f"head_seed{seed}": train(quickstart_dir, output_dir / f"seed{seed}", seed=seed)
        for seed in seeds
    }
    result = compare(quickstart_dir, output_dir, heads)
    figures = {method.name: method.scores.figures()["AP"] or 0.0 for method in result.methods}
    of_heads = [figures[name] for name in heads]
    mean, spread = statistics.mean(of_heads), max(of_heads) - min(of_heads)
    print(f"\n{format_table(result.methods)}\n")
    print(f"heads: mean AP {mean:.2f}, spread over {len(seeds)} seeds {spread:.2f}")
    for name, value in figures.items():
        if name not in heads:
            above = mean - value
            print(f"above {name}: {above:+.2f} AP = {above / max(spread, 1e-9):+.1f} spreads")


if __name__ == "__main__":
    auto_cli(toy_seeds, as_positional=False)
