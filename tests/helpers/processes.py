"""``regionspot`` in processes of its own: started, and killed at a chosen place."""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch

from regionspot.cli.main import main

START = "from regionspot.cli.main import main; main()"

# To load all that a command needs takes seconds, to fork a process that has loaded it none.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["open_clip", "segment_anything", "regionspot.cli.cache", "regionspot.cli.train"]
)


class Fork:
    """A function in a process of its own, forked from one that has loaded everything already."""

    def __init__(
        self,
        function: Callable[..., object],
        *args: object,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        arguments = (self._folder.name, {**os.environ, **(env or {})}, function, args)
        self._process: ForkServerProcess = FORKS.Process(target=_run, args=arguments)
        self._process.start()

    def kill(self) -> None:
        """End it as a power cut would."""
        self._process.kill()

    def ended(self, timeout_s: float = 300) -> tuple[int, str, str]:
        """Wait for its end; return its exit code (negative: the signal), and what it printed."""
        self._process.join(timeout_s)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        output, errors = ((Path(self._folder.name) / name).read_text() for name in ("out", "err"))
        self._folder.cleanup()
        code = self._process.exitcode
        assert code is not None
        return code, output, errors


def _run(
    folder: str, env: dict[str, str], function: Callable[..., object], args: tuple[Any, ...]
) -> None:
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(folder) / name, os.O_CREAT | os.O_WRONLY), descriptor)
    os.environ.clear()
    os.environ.update(env)
    torch.set_num_threads(1)
    function(*args)


def fork_regionspot(words: Sequence[str]) -> Fork:
    """Start ``regionspot`` with one thread."""
    return Fork(main, list(words))


def start_regionspot(
    words: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> "subprocess.Popen[str]":
    """Start ``regionspot`` as a shell does, with one thread; what it prints is there to be read."""
    return subprocess.Popen(
        [sys.executable, "-c", START, *words],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
    )


def kill_at_renames(words: Sequence[str], numbers: Sequence[int]) -> list[int]:
    """Run a command once for each number, killed before the so manieth file gets its final name.

    Returns:
        The exit code of each run: -9 where it was killed.
    """
    return [Fork(_run_until_rename, list(words), number).ended()[0] for number in numbers]


def _run_until_rename(words: list[str], number: int) -> None:
    num_seen = 0

    def hear(event: str, args: tuple[Any, ...]) -> None:
        nonlocal num_seen
        if event == "os.rename" and str(args[0]).endswith(".tmp"):
            num_seen += 1
            if num_seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hear)
    main(words)
