"""Sections run in a process of their own, so that none takes the others' figures with it.

The process is kept from section to section, as loading torch takes long. After a section that
failed a new one is started: an error of a kernel spoils all later work of its process. A section
that exceeds its time is ended, with all that it started.
"""

import gc
import importlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from card.table import Row, SectionResult


@dataclass(frozen=True, kw_only=True)
class Section:
    """Some figures that are measured together."""

    letter: str
    """Which question it answers, a to g."""
    name: str
    """What it is called, also on the command line."""
    function: str
    """Where its function is, ``module:name``; it takes a `Setup` and yields rows."""
    limit_s: float
    """Seconds after which it is ended."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a section is told."""

    size: str
    """Name of the sizes, see ``sizes.py``."""
    device: str
    """Torch's name of the device."""
    figures: Mapping[str, float]
    """What earlier sections have measured, by what it is."""


_PATIENCE_S = 10


class WorkerError(RuntimeError):
    """What was asked of the process did not come to an end."""


class Worker:
    """A process that measures sections, one after the other; use it in a ``with`` block.

    Args:
        log: File for what it prints.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        self._process: Any = None
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()  # it ends when nobody can ask any more
            self._process.join(_PATIENCE_S)
            self._end()

    def ask(self, function: str, argument: object, timeout_s: float) -> object:
        """Return what a function of one argument returns in the process.

        Raises:
            WorkerError: It failed, or took too long.
        """
        answers = list(self._answers(function, argument, time.monotonic() + timeout_s))
        return answers[0] if answers else None

    def measure(self, section: Section, setup: Setup, timeout_s: float) -> SectionResult:
        """Run a section, for so many seconds at most."""
        result = SectionResult(letter=section.letter, name=section.name, status="done")
        start = time.monotonic()
        try:
            for row in self._answers(section.function, setup, start + timeout_s):
                assert isinstance(row, Row)  # noqa: S101 - for the type checker
                result.rows.append(row)
        except WorkerError as error:
            result.status, result.reason = "failed", str(error)
            self._end()
        if result.status == "done" and not result.rows:
            result.status, result.reason = "failed", "it has measured nothing"
        result.seconds = time.monotonic() - start
        return result

    def _answers(self, function: str, argument: object, deadline: float) -> Iterator[object]:
        connection = self._started()
        connection.send((function, argument))
        while True:
            if not connection.poll(max(0.0, deadline - time.monotonic())):
                raise WorkerError("it took too long, and was ended")
            try:
                kind, value = connection.recv()
            except (EOFError, OSError) as error:
                self._process.join(_PATIENCE_S)
                raise WorkerError(
                    f"its process ended with exit code {self._process.exitcode}"
                ) from error
            if kind == "end":
                return
            if kind == "error":
                raise WorkerError(value)
            yield value

    def _started(self) -> Connection:
        if self._connection is None:
            context = multiprocessing.get_context("spawn")  # CUDA survives no fork
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, self._log))
            self._process.start()
            theirs.close()
        return self._connection

    def _end(self) -> None:
        if self._connection is None:
            return
        self._connection.close()
        self._connection = None
        try:
            os.killpg(self._process.pid, signal.SIGKILL)  # with the processes that it started
        except ProcessLookupError:  # it has no group of its own yet, or is gone
            self._process.kill()
        self._process.join()


def _serve(connection: Connection, log: Path) -> None:
    """Answer until nobody asks any more."""
    os.setpgrp()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    while True:
        try:
            function, argument = connection.recv()
        except EOFError:
            return
        try:
            module, name = function.split(":")
            answer = getattr(importlib.import_module(module), name)(argument)
            for value in answer if isinstance(answer, Iterator) else [answer]:
                connection.send(("value", value))
        except Exception as error:  # noqa: BLE001 - told, whatever it is; the others go on
            traceback.print_exc()
            connection.send(("error", f"{type(error).__name__}: {error}"))
        else:
            connection.send(("end", None))
        _tidy_up()


def _tidy_up() -> None:
    """Leave the next section the memory of the device, and no compiled code."""
    gc.collect()
    if "torch" not in sys.modules:
        return
    import torch

    torch.compiler.reset()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
