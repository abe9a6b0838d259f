"""Runs that are killed, stopped or not allowed something: the same command ends in the same bytes.

The oracle is the tree that an undisturbed run leaves, file by file.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from helpers.files import tree
from helpers.processes import START
from helpers.worlds import cache_options, write_world
from regionspot.cache import FeatureCache
from regionspot.core.errors import CacheCorruptError

NUM_IMAGES, IMAGES_PER_SHARD = 4, 2
NUM_STOPPED = 200
FILES = (
    *("manifest.json", "text_banks.h5", "000000.tar", "000000.json"),
    *("000001.tar", "000001.json", "quarantine.jsonl", "index.h5"),
)
STEPS = tuple(
    step
    for name in FILES
    for step in (
        *(f"open {name}.tmp", f"fsync {name}.tmp"),
        *(f"rename {name}.tmp", f"fsync folder {name}"),
    )
)
"""All that an undisturbed run does to its files, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a run."""

    code: int
    seconds: float
    steps: Sequence[str]
    out: str
    err: str


class Server:
    """Runs the command in forks of one process; see forking_server.py."""

    def __init__(self, folder: Path, *modules: str) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forking_server.py")), *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(
        self,
        words: Sequence[str],
        *,
        before: str | None = None,
        after_s: float | None = None,
        number: signal.Signals = signal.SIGKILL,
        is_bound: bool = False,
    ) -> Outcome:
        assert self._process.stdin
        assert self._process.stdout
        job = {
            "words": words,
            "folder": str(self._folder),
            "is_bound": is_bound,
            "before": before,
            "after_s": after_s,
            "signal": int(number),
        }
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        out, err = ((self._folder / name).read_text(encoding="utf-8") for name in ("out", "err"))
        return Outcome(**answer, out=out, err=err)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"), NUM_IMAGES)


def words(world: Path, cache: Path, *command: str) -> list[str]:
    options = cache_options(world / "own.csv", world, cache, images_per_shard=IMAGES_PER_SHARD)
    return ["cache", *command, *options, "--max_quarantined_share", "0.5"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What an undisturbed run leaves, and how long it takes."""

    cache: Path
    tree: dict[str, bytes]
    seconds: float


@pytest.fixture(scope="module")
def finished(server: Server, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    cache = tmp_path_factory.mktemp("finished") / "cache"
    first = server.run(words(world, cache), before="nothing")
    assert first.code == 0, first.err
    assert [step for step in first.steps if not step.startswith("read ")] == list(STEPS)
    second = server.run(words(world, cache.with_name("again")))
    assert tree(cache.with_name("again")) == tree(cache)
    return Finished(cache=cache, tree=tree(cache), seconds=second.seconds)


def check_absent_or_whole(cache: Path, finished: Finished) -> None:
    """Whatever has its final name has its final bytes, and a reader is not taken in by the rest."""
    for name, content in tree(cache).items():
        assert name.endswith((".tmp", ".lock")) or content == finished.tree[name], name
    if not (cache / "index.h5").exists() and (cache / "manifest.json").exists():
        with pytest.raises(CacheCorruptError, match="is not finished"):
            FeatureCache.open(cache)


# --- SIGKILL ---------------------------------------------------------------------------------


def test_a_run_killed_at_every_step_of_every_file_ends_in_the_same_bytes(
    server: Server, world: Path, finished: Finished, tmp_path: Path
) -> None:
    """One folder: each run finds what the former left, and comes one step further."""
    for step in STEPS:
        killed = server.run(words(world, tmp_path), before=step)
        assert (killed.code, killed.steps[-1]) == (-signal.SIGKILL, step), killed.err
        check_absent_or_whole(tmp_path, finished)
    last = server.run(words(world, tmp_path))
    assert last.code == 0, last.err
    assert tree(tmp_path) == finished.tree


@pytest.mark.parametrize("number", [0, NUM_IMAGES - 1])
def test_a_run_killed_amid_its_images_ends_in_the_same_bytes(
    number: int, server: Server, world: Path, finished: Finished, tmp_path: Path
) -> None:
    killed = server.run(words(world, tmp_path), before=f"read {number}.png")
    assert killed.code == -signal.SIGKILL, killed.err
    check_absent_or_whole(tmp_path, finished)
    assert server.run(words(world, tmp_path)).code == 0
    assert tree(tmp_path) == finished.tree


def moments(number: int, duration_s: float, *, seed: int | None = None) -> list[float]:
    """One random moment in each of equal parts of a duration."""
    rng = np.random.default_rng(number if seed is None else seed)
    return ((np.arange(number) + rng.random(number)) / number * duration_s).tolist()


@pytest.mark.parametrize("number", [8, pytest.param(50, marks=pytest.mark.slow)])
def test_runs_killed_at_random_moments_end_in_the_same_bytes(
    number: int, server: Server, world: Path, finished: Finished, tmp_path: Path
) -> None:
    shares, seconds = moments(number, 1.0), finished.seconds
    num_killed = num_runs = 0
    while num_killed < number:
        num_runs += 1
        assert num_runs <= 10 * number
        cache = tmp_path / str(num_runs)
        killed = server.run(words(world, cache), after_s=shares[num_killed] * seconds)
        assert killed.code in {0, -signal.SIGKILL}, killed.err
        if killed.code == 0:  # too late: the machine has become faster
            seconds = min(seconds, killed.seconds)
        else:
            num_killed += 1
        check_absent_or_whole(cache, finished)
        again = server.run(words(world, cache))
        assert again.code == 0, again.err
        assert tree(cache) == finished.tree, killed.seconds


@pytest.mark.parametrize("step", ["rename 000001.tar.tmp", "open index.h5.tmp"])
def test_a_killed_repair_is_gone_on_with(
    step: str, server: Server, world: Path, finished: Finished, tmp_path: Path
) -> None:
    cache = Path(shutil.copytree(finished.cache, tmp_path / "cache"))
    tar = cache / "shards" / "000001.tar"
    tar.write_bytes(tar.read_bytes()[:-1000])
    killed = server.run(words(world, cache, "repair"), before=step)
    assert killed.code == -signal.SIGKILL, killed.err
    again = server.run(words(world, cache, "repair"))
    assert again.code == 0, again.err
    assert tree(cache) == finished.tree


# --- Signals that a run answers ----------------------------------------------------------------

ADVICE = "finished shards are safe; run the same command again to resume"
ANSWERING = (
    "from regionspot.cli.run import answer_signals; answer_signals();"
    " print('answering', flush=True)"
)
WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


@pytest.mark.parametrize("number", list(WORDS))
@pytest.mark.parametrize("command", [(), ("repair",)], ids=["cache", "repair"])
def test_a_stopped_run_says_so_leaves_whole_files_and_is_gone_on_with(
    number: signal.Signals,
    command: tuple[str, ...],
    server: Server,
    world: Path,
    finished: Finished,
    tmp_path: Path,
) -> None:
    for place, moment in enumerate(moments(3, finished.seconds)):
        cache = tmp_path / str(place)
        if command:
            shutil.copytree(finished.cache, cache)
            (cache / "shards" / "000000.tar").unlink()
        stopped = server.run(words(world, cache, *command), after_s=moment, number=number)
        check_stopped(stopped, number)
        if stopped.code:
            *_, last = stopped.err.splitlines()
            # The advice comes with the options, which are read first.
            assert last in {WORDS[number], f"{WORDS[number]}: {ADVICE}"}
        check_absent_or_whole(cache, finished)
        again = server.run(words(world, cache, *command))
        assert again.code == 0, again.err
        assert tree(cache) == finished.tree


def check_stopped(outcome: Outcome, number: signal.Signals) -> None:
    """The run came to its end, or was stopped: it says so, and nothing else went wrong."""
    assert outcome.code in {0, 128 + number}, outcome.err
    for text in ("Traceback", "Exception ignored"):
        assert text not in outcome.err + outcome.out, outcome.err
    if outcome.code:
        *_, last = outcome.err.splitlines()
        assert last.startswith(WORDS[number]), outcome.err


@pytest.fixture
def _busy_machine() -> Iterator[None]:
    """Twice as many processes at work as there are cores."""
    command = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(command) for _ in range(2 * (os.cpu_count() or 1))]
    yield
    for process in busy:
        process.kill()
        process.wait()


def commands_of_a_toy_world(folder: Path) -> dict[str, list[str]]:
    """Each command, with ``OUT`` for its output folder; the former ones make what it reads."""
    toy = Path(__file__).parents[2] / "configs" / "toy"
    world, cache, run = folder / "toy", folder / "cache", folder / "fit"
    data = ["--data.train", f"[{cache}]", "--data.val", str(cache)]
    return {
        "toy": ["toy", "--num_val", "16", "--num_train", "4", "--output_dir", "OUT"],
        "cache": [
            *("cache", "--config", str(toy / "cache.yaml"), "--images_per_shard", "4"),
            *("--annotations.path", f"{world}/val.json", "--annotations.images_dir", str(world)),
            *("--batch_size", "2", "--device", "cpu", "--output_dir", "OUT"),
        ],
        "verify": ["cache", "verify", str(cache)],
        "fit": [
            *("fit", "--config", str(toy / "train_stage1.yaml"), *data, "--max_images", "640"),
            *("--val_annotations", f"{world}/val.json", "--trainer.val_check_interval", "10"),
            *("--trainer.accelerator", "cpu", "--trainer.default_root_dir", "OUT"),
        ],
        "evaluate": [
            *("evaluate", "--config", str(toy / "eval.yaml"), "--cache", str(cache)),
            *("--annotations", f"{world}/val.json", "--images_dir", str(world)),
            *("--checkpoints", f"[fusion_head={run}]", "--methods", "[clip_box_crop]"),
            *("--device", "cpu", "--num_pictures", "2", "--output_dir", "OUT"),
        ],
    }


@pytest.mark.slow
@pytest.mark.usefixtures("_busy_machine")
def test_two_hundred_runs_stopped_at_random_moments_under_load_say_so(tmp_path: Path) -> None:
    commands = commands_of_a_toy_world(tmp_path)
    modules = ("regionspot.cli.train", "regionspot.cli.evaluate", "regionspot.toy", "hotcoco")
    with Server(tmp_path, *modules) as server:

        def run(name: str, out: Path, **options: Any) -> Outcome:
            words = [str(out) if word == "OUT" else word for word in commands[name]]
            return server.run(words, **options)

        seconds = {}
        for name in commands:
            for out in (tmp_path / name, tmp_path / "again" / name):  # the second one is warm
                outcome = run(name, out)
                assert outcome.code == 0, outcome.err
                seconds[name] = outcome.seconds
        num_stopped = 0
        for place in range(NUM_STOPPED):
            name, number = list(commands)[place % len(commands)], list(WORDS)[place % len(WORDS)]
            (moment,) = moments(1, seconds[name], seed=place)
            out = tmp_path / "stopped" / str(place)
            stopped = run(name, out, after_s=moment, number=number)
            check_stopped(stopped, number)
            num_stopped += stopped.code != 0
            shutil.rmtree(out, ignore_errors=True)
    assert num_stopped > NUM_STOPPED / 2


@pytest.mark.slow
@pytest.mark.parametrize("number", list(WORDS))
def test_no_helper_process_has_anything_to_say_when_a_terminal_stops_all(
    number: signal.Signals, tmp_path: Path
) -> None:
    """Ctrl-C goes to the whole process group: to those that render, too."""
    sizes = ["--num_val", "4", "--num_train", "1000"]
    for place, moment in enumerate((1.0, 2.0, 3.0, 4.5, 6.0, 8.0)):
        start = time.perf_counter()
        words = ["toy", "--output_dir", str(tmp_path / str(place)), *sizes]
        process = subprocess.Popen(
            [sys.executable, "-c", f"{ANSWERING}; {START}", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stdout
        assert process.stdout.readline() == "answering\n"  # Python itself does so before
        time.sleep(moment)
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=120)  # to the end of all that hold the pipes
        seconds = time.perf_counter() - start
        check_stopped(
            Outcome(code=process.returncode, seconds=seconds, steps=(), out=out, err=err), number
        )


# --- What a run is not allowed -------------------------------------------------------------------

ALLOW = "Grant this user access, or give another path; then run the same command again."
CANNOT_WRITE = (
    "cannot write to {cache}: Permission denied. Finished shards are safe: make room, or allow"
    " writing there, and run the same command again; or set another --output_dir."
)


@pytest.fixture
def own_world(world: Path, tmp_path: Path) -> Path:
    """A copy of the world to do as one likes with."""
    return Path(shutil.copytree(world, tmp_path / "world"))


def test_an_annotation_file_that_may_not_be_read_is_told(
    server: Server, own_world: Path, finished: Finished, tmp_path: Path
) -> None:
    annotations, cache = own_world / "own.csv", tmp_path / "cache"
    annotations.chmod(0)
    refused = server.run(words(own_world, cache), is_bound=True)
    assert refused.code == 2, refused.err
    assert refused.err == f"error: {annotations}: Permission denied. {ALLOW}\n"
    assert not cache.exists()
    annotations.chmod(0o644)
    assert server.run(words(own_world, cache), is_bound=True).code == 0
    assert tree(cache) == finished.tree


def test_an_image_that_may_not_be_read_is_left_out_until_it_may(
    server: Server, own_world: Path, finished: Finished, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    (own_world / "2.png").chmod(0)
    run = server.run(words(own_world, cache), is_bound=True)
    assert run.code == 0, run.err
    (line,) = (cache / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["reason"] == "cannot be read: Permission denied"
    (own_world / "2.png").chmod(0o644)
    retried = words(own_world, cache, "repair", "--retry_quarantined", "true")
    assert server.run(retried, is_bound=True).code == 0
    assert tree(cache) == finished.tree


@pytest.mark.parametrize(
    ("place", "mode", "message"),
    [
        ("closed", 0o555, CANNOT_WRITE),
        ("closed/cache", 0o555, CANNOT_WRITE),
        ("closed/cache", 0o600, f"{{cache}}: Permission denied. {ALLOW}"),
    ],
)
def test_a_folder_that_may_not_be_written_to_is_told(
    place: str,
    mode: int,
    message: str,
    server: Server,
    world: Path,
    finished: Finished,
    tmp_path: Path,
) -> None:
    cache, closed = tmp_path / place, tmp_path / "closed"
    closed.mkdir()
    closed.chmod(mode)
    refused = server.run(words(world, cache), is_bound=True)
    assert refused.code == 2, refused.err
    assert refused.err.splitlines()[-1] == f"error: {message.format(cache=cache)}"
    assert tree(closed) == {}
    closed.chmod(0o755)
    assert server.run(words(world, cache), is_bound=True).code == 0
    assert tree(cache) == finished.tree
