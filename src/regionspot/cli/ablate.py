"""``regionspot ablate``: trains and evaluates the heads of several tables, and writes the tables.

A run is a folder below ``<output_dir>/runs``: a folder for each stage of training and for each
evaluation. ``step.json`` in such a folder holds its command and whether it is finished, so that the
same command continues where it stopped.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from regionspot.cli.main import main as run_command
from regionspot.cli.options import parse_options
from regionspot.cli.run import reported_errors
from regionspot.core.errors import ConfigError, RegionSpotError
from regionspot.core.files import write_text_atomic
from regionspot.core.json_text import load_json
from regionspot.core.stopping import end_with_process, safe_points, sleep, stop_advice
from regionspot.evaluation.ablation import (
    AblationConfig,
    AblationRow,
    summarize_ablation,
)
from regionspot.evaluation.ablation_page import ABLATION_NAME, write_ablation
from regionspot.extraction import Part

_STEP = "step.json"
_PREPARED = "prepared.json"
_POLL_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run with one seed; None for methods that need no training."""

    name: str
    seed: int | None

    def folder(self, config: AblationConfig) -> Path:
        """Return the folder of its stages and evaluations."""
        run_dir = Path(config.output_dir) / "runs" / self.name
        return run_dir if self.seed is None else run_dir / f"seed{self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command of a job."""

    words: tuple[str, ...]
    folder: Path
    output: str
    """File below the folder that the command writes last."""

    @property
    def command(self) -> str:
        """The command as typed."""
        return shlex.join(("regionspot", *self.words))

    def is_done(self) -> bool:
        """Return whether the command was finished.

        Raises:
            ConfigError: The folder was made by another command.
        """
        path = self.folder / _STEP
        if not path.is_file():
            return False
        found = load_json(path.read_bytes())
        if not isinstance(found, dict) or found.get("command") != self.command:
            raise ConfigError(
                f"{self.folder} was made by another command than this ablation wants. Found\n"
                f"  {found.get('command') if isinstance(found, dict) else found}\nwanted\n"
                f"  {self.command}\nRemove that folder, or give another --output_dir."
            )
        return bool(found.get("is_done")) and (self.folder / self.output).is_file()

    def run(self) -> None:
        """Run the command; training continues from its last checkpoint."""
        self._note(is_done=False)
        words = list(self.words)
        if words[0] == "fit" and (self.folder / "checkpoints" / "last.ckpt").is_file():
            words += ["--ckpt_path", "last"]
        run_command(words)
        self._note(is_done=True)

    def _note(self, *, is_done: bool) -> None:
        found = {"command": self.command, "is_done": is_done}
        write_text_atomic(self.folder / _STEP, json.dumps(found) + "\n")


@reported_errors()
def ablate(words: Sequence[str]) -> None:
    """Train and evaluate the heads of several tables, each with several seeds.

    ``regionspot ablate --config configs/ablation/toy.yaml``. Writes every run to a folder of its
    own, and the tables to ``ablation.json``, ``ablation.html`` and ``ablation.md``. The same
    command continues an interrupted ablation, or updates the tables.
    """
    if not words:
        raise ConfigError(
            "ablate needs a configuration: --config configs/ablation/toy.yaml, or one of your own"
            " (docs/ablation.md)."
        )
    config = parse_options(AblationConfig, words, prog="regionspot ablate", about=ablate.__doc__)
    part = Part(index=0, count=1)
    if config.part is not None:
        part = Part.parse(config.part, os.environ)
    with stop_advice("run the same command again to continue"), safe_points():
        _prepare(config, part)
        jobs = plan_jobs(config)
        mine = [job for number, job in enumerate(jobs) if part.has(number)]
        if config.num_processes > 1:
            _run_processes(words, config, part, mine)
        else:
            for job in mine:
                _run_job(config, job)
    missing = [job for job in jobs if not is_done(config, job)]
    if missing:
        print(f"{len(missing)} of {len(jobs)} runs are not finished: other parts have them.")
        return
    result = summarize_ablation(
        config,
        lambda row, evaluation, figure: read_figures(config, row, evaluation, figure),
        command=shlex.join(["regionspot", "ablate", *words]),
        date=datetime.now(UTC).date().isoformat(),
    )
    write_ablation(Path(config.output_dir), result)
    print(f"tables: {Path(config.output_dir) / ABLATION_NAME}.html")


def plan_jobs(config: AblationConfig) -> list[Job]:
    """Return the runs that the tables need, seed by seed, so that parts take equally long."""
    used = [name for name in config.runs if config.evaluations_of(name)]
    untrained = [Job(name=name, seed=None) for name in used if config.runs[name].methods]
    trained = [name for name in used if not config.runs[name].methods]
    return [*untrained, *(Job(name=name, seed=seed) for seed in config.seeds for name in trained)]


def plan_steps(config: AblationConfig, job: Job) -> list[Step]:
    """Return the commands of a run: the stages of training, then the evaluations."""
    run, folder = config.runs[job.name], job.folder(config)
    data = config.data if run.data is None else run.data
    steps: list[Step] = []
    head = ""
    for number, stage in enumerate(config.stages if not run.methods else []):
        stage_dir = folder / f"stage{number + 1}"
        options = {**stage.options, **run.fit, **dict(*run.stages[number : number + 1])}
        options |= {"trainer.default_root_dir": str(stage_dir), "seed_everything": job.seed}
        if head:
            options["model.init_from"] = head
        head = str(stage_dir / "head")
        words = ("fit", "--config", stage.config, *_option_words(options, data))
        steps.append(Step(words=words, folder=stage_dir, output="head/head.safetensors"))
    for name in config.evaluations_of(job.name):
        evaluation = config.evaluations[name]
        options = {**evaluation.options, **run.evaluate, "output_dir": str(folder / name)}
        options |= {"checkpoints": [head] if head else [], "methods": run.methods}
        words = ("evaluate", "--config", evaluation.config, *_option_words(options, data))
        steps.append(Step(words=words, folder=folder / name, output="metrics.json"))
    return steps


def _option_words(options: Mapping[str, Any], data: str) -> Iterator[str]:
    for name, value in options.items():
        text = value if isinstance(value, str) else json.dumps(value)
        yield from (f"--{name}", text.replace("{data}", data))


def is_done(config: AblationConfig, job: Job) -> bool:
    """Return whether all commands of a run are finished."""
    return all(step.is_done() for step in plan_steps(config, job))


def _run_job(config: AblationConfig, job: Job) -> None:
    for step in plan_steps(config, job):
        if not step.is_done():
            print(f"$ {step.command}", flush=True)
            step.run()


def _run_processes(
    words: Sequence[str], config: AblationConfig, part: Part, jobs: Sequence[Job]
) -> None:
    """Run this part in several processes, each of which takes a part of it."""
    count = part.count * config.num_processes
    cores = len(os.sched_getaffinity(0))
    environ = {"OMP_NUM_THREADS": str(max(1, cores // config.num_processes)), **os.environ}
    logs = Path(config.output_dir) / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    processes = []
    for number in range(config.num_processes):
        own = f"{part.index + number * part.count + 1}/{count}"
        log = logs / f"part_{own.replace('/', '_of_')}.txt"
        command = [sys.executable, "-m", "regionspot", "ablate", *words]
        with log.open("ab") as file:
            process = subprocess.Popen(  # noqa: S603 - our own command
                [*command, "--part", own, "--num_processes", "1"],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environ,
            )
        end_with_process(process.kill)
        processes.append((process, log))
    try:
        _wait(config, jobs, [process for process, _ in processes])
        failed = [log for process, log in processes if process.returncode]
    finally:
        for process, _ in processes:
            process.terminate()
        for process, _ in processes:
            process.wait()
    if failed:
        lines = failed[0].read_text(encoding="utf-8", errors="replace").splitlines()
        raise RegionSpotError("\n".join([f"a process failed; {failed[0]} ends with", *lines[-8:]]))


def _wait(
    config: AblationConfig, jobs: Sequence[Job], processes: Sequence["subprocess.Popen[bytes]"]
) -> None:
    """Report progress until all processes have ended, or one has failed."""
    started_s, missing = time.monotonic(), list(jobs)
    shown = -1
    while any(process.poll() is None for process in processes):
        if any(process.returncode for process in processes):
            return
        missing = [job for job in missing if not is_done(config, job)]
        if len(missing) != shown:
            shown = len(missing)
            minutes = (time.monotonic() - started_s) / 60
            print(
                f"{len(jobs) - shown} of {len(jobs)} runs finished, {minutes:.0f} min", flush=True
            )
        sleep(_POLL_S)


def _prepare(config: AblationConfig, part: Part) -> None:
    """Run the commands that make the data, in part 1 only; other parts wait for it."""
    commands = [command.replace("{data}", config.data) for command in config.prepare]
    path = Path(config.output_dir) / _PREPARED
    wanted = json.dumps(commands) + "\n"

    def is_prepared() -> bool:
        return path.is_file() and path.read_text(encoding="utf-8") == wanted

    if part.index > 0 and not is_prepared():
        print("waiting for part 1 to prepare the data", flush=True)
        while not is_prepared():
            sleep(_POLL_S)
    if is_prepared():
        return
    for command in commands:
        print(f"$ regionspot {command}", flush=True)
        run_command(shlex.split(command))
    write_text_atomic(path, wanted)


def read_figures(
    config: AblationConfig, row: AblationRow, evaluation: str, figure: str
) -> list[float]:
    """Return a figure of each seed of a run.

    Raises:
        ConfigError: There is no such method or figure.
    """
    run = config.runs[row.run]
    jobs = [Job(name=row.run, seed=seed) for seed in ([None] if run.methods else config.seeds)]
    values = []
    for job in jobs:
        path = job.folder(config) / evaluation / "metrics.json"
        methods: Any = load_json(path.read_bytes())
        found = methods["methods"].get(row.method, {})
        value = found.get(figure)
        if not isinstance(value, int | float):
            raise ConfigError(
                f"row {row.name!r}: {path} has no figure {figure!r} of method {row.method!r};"
                f" wanted one of {', '.join(methods['methods'])} and of {', '.join(found)}."
            )
        values.append(float(value))
    return values
