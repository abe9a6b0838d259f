"""Runs the whole pipeline on a small generated data set, the toy world.

It prints and runs the other commands: generate the world, cache four data sets, train the paper's
head in two stages and a head with guidance, evaluate both. The last step writes a report and
``named_regions.jpg``, three images with the predicted names. A finished step is skipped unless its
command, its configuration, the weights of the tiny towers or an earlier step has changed, or one of
its files is missing.

A file quickstart.json in the output folder lists what quickstart makes there. ``--fresh`` removes
only that, and a folder that has files but no quickstart.json is refused.
"""

import json
import shlex
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from jsonargparse import Namespace

from regionspot.cli.main import main as run_command
from regionspot.cli.options import CommandParser
from regionspot.cli.run import reported_errors
from regionspot.cli.shipped_configs import shipped_text
from regionspot.core.errors import ConfigError, MissingExtraError, MissingFileError
from regionspot.core.files import sha256_bytes, sha256_file, write_bytes_atomic, write_text_atomic
from regionspot.core.json_text import load_json
from regionspot.core.stopping import stop_advice

SOURCES = ("toy365", "toyoi", "toyv3d")
REPORTED_WORLD_SEED = 2026
"""Seed of the world of the report. Nothing was tuned on this world; see docs/toy_world.md."""

_MARKER = "quickstart.json"
_MEMORY = "steps.json"
_STAGES = ("stage1", "stage2")
_GUIDED = "guided"
_TRAININGS = {
    "stage1": "stage 1",
    "stage2": "stage 2",
    _GUIDED: "stage 2 with guidance",
}
_REPORT_FILES = (
    *("metrics.json", "per_category.csv", "predictions.json", "report.html", "named_regions.jpg"),
)
_METHODS = ("clip_box_crop", "clip_mask_crop", "grey_outside_mask", "pooled_patches")
MADE = (
    *("configs", "world", "cache", *_STAGES, _GUIDED, "head", _MEMORY, *_REPORT_FILES),
    *(f"predictions_{method}.json" for method in _METHODS),
)
"""What quickstart makes in its output folder; quickstart.json lists it."""

_PACKAGES = {
    "toy": ("cv2", "simplejpeg", "pycocotools"),
    "extract": ("PIL", "open_clip", "segment_anything", "torchvision"),
    "eval": ("hotcoco", "matplotlib"),
}
"""The packages that the steps need, by extra."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command of the quickstart."""

    name: str
    """Name of the step in the report's table of times."""
    words: tuple[str, ...]
    """The command, as typed after ``regionspot``."""
    outputs: tuple[Path, ...]
    """Files and folders that later steps or users read. If a file is missing, the step is rerun."""
    folder: Path | None = None
    """Folder that only this step writes to; removed before the step is rerun."""
    copy_to: Path | None = None
    """Where to copy the files of the first output, a folder."""

    @property
    def config_paths(self) -> tuple[Path, ...]:
        """The configuration files of the command."""
        return tuple(
            Path(value)
            for option, value in pairwise(self.words)
            if option in ("--config", "--class_groups")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DoneStep:
    """The record of a finished step."""

    name: str
    command: str
    seconds: float
    inputs_sha256: str
    num_bytes: dict[str, int]
    """Sizes of its output files, by their paths in the output folder."""

    def is_still_done(self, step: Step, inputs_sha256: str, output_dir: Path) -> bool:
        """Return whether the step has the same inputs as before, and all of its files."""
        return (
            self.inputs_sha256 == inputs_sha256
            and all(path.exists() for path in step.outputs)
            and self.num_bytes.items() <= _num_bytes(step.outputs, output_dir).items()
        )


def plan_steps(output_dir: Path, configs_dir: Path, *, world_seed: int, seed: int) -> list[Step]:
    """Return the commands of the quickstart, in order.

    Args:
        output_dir: Folder to write everything to.
        configs_dir: Folder of the configurations, a copy of the package's or another.
        world_seed: Seed of the toy world: images, class frequencies and boxes.
        seed: Seed of training: initial weights and order of images.
    """
    world, caches = output_dir / "world", output_dir / "cache"
    return [
        Step(
            name="generate the toy world",
            words=("toy", "--output_dir", str(world), "--seed", str(world_seed)),
            outputs=(world,),
            folder=world,
        ),
        *(
            Step(
                name=f"cache {split}",
                words=(
                    *("cache", "--config", str(configs_dir / "cache.yaml")),
                    *("--annotations.path", str(world / f"{split}.json")),
                    *("--annotations.images_dir", str(world)),
                    *("--output_dir", str(caches / split)),
                ),
                outputs=(caches / split,),
                folder=caches / split,
            )
            for split in (*SOURCES, "val")
        ),
        _fit_step("stage1", SOURCES[:1], output_dir, configs_dir, seed),
        _fit_step("stage2", SOURCES, output_dir, configs_dir, seed, start="stage1"),
        _fit_step(_GUIDED, SOURCES, output_dir, configs_dir, seed, start="stage1"),
        Step(
            name="evaluate",
            words=(
                *("evaluate", "--config", str(configs_dir / "eval.yaml")),
                *("--cache", str(caches / "val"), "--annotations", str(world / "val.json")),
                *("--images_dir", str(world), "--output_dir", str(output_dir)),
                *("--class_groups", str(configs_dir / "class_groups.json")),
                *("--checkpoints", json.dumps(_named_heads(output_dir))),
                *("--steps", str(output_dir / "steps.json")),
                *(
                    "--training_dirs",
                    json.dumps([str(output_dir / s) for s in (*_STAGES, _GUIDED)]),
                ),
            ),
            outputs=tuple(output_dir / name for name in _REPORT_FILES),
        ),
    ]


def _named_heads(output_dir: Path) -> list[str]:
    return [f"fusion_head={output_dir / 'head'}", f"guided_head={output_dir / _GUIDED / 'head'}"]


def _fit_step(
    name: str,
    sources: Sequence[str],
    output_dir: Path,
    configs_dir: Path,
    seed: int,
    *,
    start: str | None = None,
) -> Step:
    run_dir = output_dir / name
    words = (
        *("fit", "--config", str(configs_dir / f"train_{name}.yaml")),
        *("--data.train", json.dumps([str(output_dir / "cache" / source) for source in sources])),
        *("--data.val", str(output_dir / "cache" / "val")),
        *("--val_annotations", str(output_dir / "world" / "val.json")),
        *("--trainer.default_root_dir", str(run_dir), "--seed_everything", str(seed)),
        *(("--model.init_from", str(output_dir / start / "head")) if start is not None else ()),
    )
    return Step(
        name=f"train the head, {_TRAININGS[name]}",
        words=words,
        outputs=(run_dir / "head", run_dir / "csv"),  # the report plots curves from csv
        folder=run_dir,
        copy_to=output_dir / "head" if name == _STAGES[-1] else None,
    )


def run_steps(steps: Sequence[Step], output_dir: Path) -> list[DoneStep]:
    """Run the steps that are not finished, and record each in ``steps.json``.

    Raises:
        ConfigError: ``steps.json`` is damaged.
        MissingFileError: A configuration is missing.
    """
    from regionspot.backbones.weights import shipped_weights_path  # needs the packages

    remembered = _read_memory(output_dir / _MEMORY)
    inputs = "".join(sha256_file(shipped_weights_path(tower)) for tower in ("sam", "clip"))
    for number, step in enumerate(steps, start=1):
        command = shlex.join(("regionspot", *step.words))
        inputs = sha256_bytes((inputs + command + _config_text(step)).encode())
        former = remembered.get(step.name)
        print(f"\n[{number}/{len(steps)}] {step.name}\n$ {command}", flush=True)
        if former is not None and former.is_still_done(step, inputs, output_dir):
            print(f"  already done, in {former.seconds:.0f} s")
        else:
            if former is not None:
                # Forgotten first, so that an interrupted step is rerun.
                del remembered[step.name]
                _write_memory(steps, remembered, output_dir)
                if step.folder is not None:
                    _remove(step.folder)
            start = time.monotonic()
            run_command(step.words)
            remembered[step.name] = DoneStep(
                name=step.name,
                command=command,
                seconds=time.monotonic() - start,
                inputs_sha256=inputs,
                num_bytes=_num_bytes(step.outputs, output_dir),
            )
            _write_memory(steps, remembered, output_dir)
        if step.copy_to is not None:
            for path in step.outputs[0].iterdir():
                write_bytes_atomic(step.copy_to / path.name, path.read_bytes())
    return [remembered[step.name] for step in steps]


def claim_folder(output_dir: Path, *, fresh: bool) -> None:
    """Claim a folder that is new, empty or already quickstart's; ``fresh`` removes what it made.

    Raises:
        ConfigError: The folder has files, but was not made by quickstart.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise ConfigError(f"--output_dir {output_dir} is a file; wanted a folder.")
    found = {path.name for path in output_dir.iterdir()} if output_dir.is_dir() else set()
    strange = sorted(found - {f"{_MARKER}.tmp"})
    made = _read_marker(output_dir / _MARKER) if _MARKER in found else []
    if strange and _MARKER not in found:
        raise ConfigError(
            f"{output_dir} was not made by quickstart: it has {', '.join(strange[:5])}, but no"
            f" {_MARKER}. Nothing was touched. Give an --output_dir that is new or empty."
        )
    if fresh:
        for name in made:
            _remove(output_dir / name)
        kept = sorted(found - {*made, _MARKER})
        if kept:
            print(f"kept in {output_dir}, not made by quickstart: {', '.join(kept)}")
    write_text_atomic(
        output_dir / _MARKER, json.dumps({"made": sorted({*made, *MADE})}, indent=1) + "\n"
    )


def _read_marker(path: Path) -> list[str]:
    """Return the names of what quickstart has made in the folder of this file."""
    try:
        made = json.loads(path.read_text(encoding="utf-8"))["made"]
        plain = [name for name in made if name not in {"", ".", ".."} and Path(name).name == name]
        if len(plain) == len(made):
            return plain
    except (ValueError, KeyError, TypeError):
        pass
    raise ConfigError(
        f"{path} was not written by quickstart, so nothing here may be removed or overwritten."
        " Nothing was touched. Give another --output_dir."
    )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:  # of a symbolic link, only the link itself
        path.unlink(missing_ok=True)


def _num_bytes(outputs: Iterable[Path], output_dir: Path) -> dict[str, int]:
    paths = [
        path
        for output in outputs
        for path in (sorted(output.rglob("*")) if output.is_dir() else [output])
    ]
    return {
        path.relative_to(output_dir).as_posix(): path.stat().st_size
        for path in paths
        if path.is_file()
    }


def _read_memory(path: Path) -> dict[str, DoneStep]:
    if not path.exists():
        return {}
    try:
        rows = cast("list[dict[str, Any]]", load_json(path.read_bytes()))
        return {one["name"]: DoneStep(**one) for one in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is damaged ({type(error).__name__}: {error}), so it does not tell which steps"
            " are done. Give --fresh to rerun all steps."
        ) from error


def _write_memory(steps: Sequence[Step], remembered: dict[str, DoneStep], output_dir: Path) -> None:
    rows = [asdict(remembered[step.name]) for step in steps if step.name in remembered]
    write_text_atomic(output_dir / _MEMORY, json.dumps(rows, indent=1) + "\n")


def _config_text(step: Step) -> str:
    for path in step.config_paths:
        if not path.is_file():
            raise MissingFileError(
                f"no configuration at {path}: leave --configs_dir out to use the package's, or"
                " correct it."
            )
    return "".join(path.read_text(encoding="utf-8") for path in step.config_paths)


def _check_packages() -> None:
    """Fail early if a package that a later step needs is missing."""
    missing = {
        extra: [package for package in packages if find_spec(package) is None]
        for extra, packages in _PACKAGES.items()
    }
    names = [name for packages in missing.values() for name in packages]
    if names:
        extras = ",".join(extra for extra, packages in missing.items() if packages)
        raise MissingExtraError(
            f"quickstart needs {', '.join(names)}, which {'is' if len(names) == 1 else 'are'} not"
            f' installed: pip install "regionspot[{extras}]".'
        )


@reported_errors()
def main(words: Sequence[str]) -> None:
    """Run the quickstart; see ``regionspot quickstart --help``."""
    parser = CommandParser(prog="regionspot quickstart", description=__doc__)
    parser.add_argument(
        "--output_dir", type=str, default="runs/quickstart", help="Folder to write everything to."
    )
    parser.add_argument(
        "--configs_dir",
        type=str | None,
        default=None,
        help="Folder with configurations to use instead of the package's (configs/toy).",
    )
    parser.add_argument(
        "--world_seed", type=int, default=REPORTED_WORLD_SEED, help="Random seed of the toy world."
    )
    parser.add_argument("--seed", type=int, default=0, help="Random seed of training.")
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="Remove what quickstart has made in the folder, and rerun all steps.",
    )
    options = parser.parse_args(words)
    with stop_advice("run the same command again to resume"):
        _run_all(options)


def _run_all(options: Namespace) -> None:
    _check_packages()
    output_dir = Path(options.output_dir)
    copies = output_dir / "configs"
    configs_dir = copies if options.configs_dir is None else Path(options.configs_dir)
    steps = plan_steps(output_dir, configs_dir, world_seed=options.world_seed, seed=options.seed)
    if options.configs_dir is not None:
        if configs_dir.resolve() == copies.resolve():
            raise ConfigError(
                f"--configs_dir {configs_dir} is where quickstart writes copies of its own"
                " configurations. Give another folder for modified ones."
            )
        for step in steps:
            _config_text(step)  # raises if it is missing
    claim_folder(output_dir, fresh=options.fresh)
    if options.configs_dir is None:
        # Copied, so that the printed commands work wherever the package is installed.
        for name in {path.name for step in steps for path in step.config_paths}:
            write_text_atomic(copies / name, shipped_text(f"configs/toy/{name}"))
    done = run_steps(steps, output_dir)
    print(f"\n{sum(one.seconds for one in done):.0f} s in total. Open {output_dir}/report.html")
