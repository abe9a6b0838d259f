"""``regionspot quickstart``: the whole way from images to an AP table, on the embedded toy world.

It only types the other commands, each printed before it runs, so that it is also a tour: generate
the world, cache four data sets, train two stages, evaluate. A step whose command, configuration,
towers and predecessors are unchanged since it was last done is not done again.
"""

import json
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from jsonargparse import ArgumentParser

from regionspot.backbones.shipped import shipped_weights_path
from regionspot.cli.errors import run_cli
from regionspot.cli.main import main as run_command
from regionspot.core.atomic import write_text_atomic
from regionspot.core.errors import ConfigError, MissingFileError
from regionspot.core.hashing import sha256_bytes, sha256_file
from regionspot.core.json_text import load_json

SOURCES = ("toy365", "toyoi", "toyv3d")
REPORTED_WORLD_SEED = 2026
"""The world that the report is about. Nothing was chosen on it: see docs/toy_world.md."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command of the tour."""

    name: str
    """What the step is called in the report's table of timings."""
    words: tuple[str, ...]
    """The command, as typed after ``regionspot``."""
    product: Path
    """The file that the step writes last: without it the step is not done."""
    folder: Path | None = None
    """What this step alone writes: removed before it is made otherwise than before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoneStep:
    """What is remembered of a step that was done."""

    name: str
    command: str
    seconds: float
    inputs_sha256: str


def plan_steps(output_dir: Path, configs_dir: Path, *, world_seed: int, seed: int) -> list[Step]:
    """Return the commands of the tour, in order.

    Args:
        output_dir: Everything is written below this folder.
        configs_dir: The folder with the toy configurations (``configs/toy`` of a clone).
        world_seed: Which toy world; its images, classes' frequencies and boxes follow from it.
        seed: Seed of the training: initial weights and order of the images.
    """
    world, caches = output_dir / "world", output_dir / "cache"
    steps = [
        Step(
            name="generate the toy world",
            words=("toy", "--output_dir", str(world), "--seed", str(world_seed)),
            product=world / "world.json",
            folder=world,
        )
    ]
    steps += [
        Step(
            name=f"cache {split}",
            words=(
                *("cache", "--config", str(configs_dir / "cache.yaml")),
                *("--annotations.path", str(world / f"{split}.json")),
                *("--annotations.images_dir", str(world)),
                *("--output_dir", str(caches / split)),
            ),
            product=caches / split / "index.h5",
            folder=caches / split,
        )
        for split in (*SOURCES, "val")
    ]
    steps += [
        _fit_step(1, SOURCES[:1], output_dir, configs_dir, seed),
        _fit_step(2, SOURCES, output_dir, configs_dir, seed),
        Step(
            name="evaluate",
            words=(
                *("evaluate", "--config", str(configs_dir / "eval.yaml")),
                *("--cache", str(caches / "val"), "--annotations", str(world / "val.json")),
                *("--images_dir", str(world), "--output_dir", str(output_dir)),
                *("--checkpoints", json.dumps([f"fusion_head={output_dir / 'head'}"])),
                *("--steps", str(output_dir / "steps.json")),
                *("--training_dirs", json.dumps([str(output_dir / s) for s in _STAGES])),
            ),
            product=output_dir / "report.html",
        ),
    ]
    return steps


_STAGES = ("stage1", "stage2")


def _fit_step(
    stage: int, sources: Sequence[str], output_dir: Path, configs_dir: Path, seed: int
) -> Step:
    run_dir = output_dir / f"stage{stage}"
    words: tuple[str, ...] = (
        *("fit", "--config", str(configs_dir / f"train_stage{stage}.yaml")),
        *("--data.train", json.dumps([str(output_dir / "cache" / name) for name in sources])),
        *("--data.val", str(output_dir / "cache" / "val")),
        *("--val_annotations", str(output_dir / "world" / "val.json")),
        *("--trainer.default_root_dir", str(run_dir), "--seed_everything", str(seed)),
    )
    if stage > 1:
        words = (*words, "--model.init_from", str(output_dir / f"stage{stage - 1}" / "head"))
    return Step(
        name=f"train the head, stage {stage}",
        words=words,
        product=run_dir / "head" / "head.safetensors",
        folder=run_dir,
    )


def run_steps(steps: Sequence[Step], output_dir: Path) -> list[DoneStep]:
    """Do the steps that are not done, and remember each in ``steps.json``."""
    memory = output_dir / "steps.json"
    remembered = _read_memory(memory)
    done: list[DoneStep] = []
    inputs = "".join(sha256_file(shipped_weights_path(tower)) for tower in ("sam", "clip"))
    for number, step in enumerate(steps, start=1):
        command = shlex.join(("regionspot", *step.words))
        inputs = sha256_bytes((inputs + command + _config_text(step)).encode())
        former = remembered.get(step.name)
        print(f"\n[{number}/{len(steps)}] {step.name}\n$ {command}", flush=True)
        if former is not None and former.inputs_sha256 == inputs and step.product.exists():
            print(f"  done before, in {former.seconds:.0f} s")
            done.append(former)
            continue
        if former is not None and former.inputs_sha256 != inputs and step.folder is not None:
            shutil.rmtree(step.folder, ignore_errors=True)
        start = time.monotonic()
        run_command(step.words)
        seconds = time.monotonic() - start
        if step.name.endswith("stage 2"):
            shutil.copytree(step.product.parent, output_dir / "head", dirs_exist_ok=True)
        # Remembered last, so that a step that was stopped anywhere is done again.
        done.append(
            DoneStep(name=step.name, command=command, seconds=seconds, inputs_sha256=inputs)
        )
        write_text_atomic(memory, json.dumps([asdict(one) for one in done], indent=1) + "\n")
    return done


def _read_memory(path: Path) -> dict[str, DoneStep]:
    if not path.exists():
        return {}
    try:
        steps = cast("list[dict[str, Any]]", load_json(path.read_bytes()))
        return {one["name"]: DoneStep(**one) for one in steps}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is not a list of the steps that were done ({type(error).__name__}: {error})."
            " Remove it to have them done again."
        ) from error


def _config_text(step: Step) -> str:
    if "--config" not in step.words:
        return ""
    path = Path(step.words[step.words.index("--config") + 1])
    if not path.is_file():
        raise MissingFileError(
            f"no configuration at {path}: quickstart runs in the folder of a clone of RegionSpot,"
            " where configs/ lies. Change into it, or pass --configs_dir."
        )
    return path.read_text(encoding="utf-8")


def main(args: Sequence[str] | None = None) -> None:
    """Run the tour; see ``regionspot quickstart --help``."""
    parser = ArgumentParser(prog="regionspot quickstart", description=__doc__)
    parser.add_argument("--output_dir", type=str, default="runs/quickstart")
    parser.add_argument("--configs_dir", type=str, default="configs/toy")
    parser.add_argument("--world_seed", type=int, default=REPORTED_WORLD_SEED)
    parser.add_argument("--seed", type=int, default=0, help="Seed of the training.")
    parser.add_argument("--fresh", action="store_true", help="Forget what was done before.")
    options = parser.parse_args(args)
    output_dir = Path(options.output_dir)
    if options.fresh and output_dir.exists():
        shutil.rmtree(output_dir)

    def tour() -> None:
        steps = plan_steps(
            output_dir,
            Path(options.configs_dir),
            world_seed=options.world_seed,
            seed=options.seed,
        )
        done = run_steps(steps, output_dir)
        print(f"\n{sum(one.seconds for one in done):.0f} s in all. Open {output_dir}/report.html")

    run_cli(tour)
