"""How Ctrl-C and SIGTERM end a command.

An exception raised in a signal handler surfaces wherever Python happens to be: in a finalizer,
where it is printed and dropped, or in a library, which may take it for an error of its own. So the
handler of this module, which the command line installs, never raises:

* Inside of `safe_points` it only notes the signal. Code there calls `check_stop` between batches,
  shards or steps, which raises `StoppedError`, so that the run ends in good order. A second signal
  ends the process at once.
* Everywhere else it ends the process at once. No file is lost: each is absent or whole at any
  moment (see `core.files`).

Without the command line no handler is installed, `check_stop` does nothing, and Ctrl-C raises
``KeyboardInterrupt`` as usual.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import NoReturn, TypeVar

from typing_extensions import override

_SAME_SIGNAL_S = 1.0
"""A launcher may signal both a process and its group; within this time it counts once."""
_POLL_S = 0.1
_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_NOTED = "stopping at the next safe point; a second signal ends the process at once"

T = TypeVar("T")


class StoppedError(SystemExit):
    """A signal ended the command; the exit code is 128 + ``number``, as shells report it."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(128 + number)
        self.message = message

    @override
    def __str__(self) -> str:
        return self.message


@dataclass(slots=True)
class _Process:
    """The signal state of this process."""

    number: int = 0
    """The noted signal; 0 for none."""
    noted_s: float = 0.0
    """When it was noted."""
    num_safe: int = 0
    """Number of nested `safe_points`."""
    advice: str = ""
    """What to do next, for the message."""
    helpers: list[Callable[[], object]] = field(default_factory=list)
    """Functions that end processes which must not outlive this one."""


_process = _Process()


def answer_signal(number: int, _frame: FrameType | None = None) -> None:
    """Signal handler: note the signal inside of `safe_points`, else end the process."""
    now = time.monotonic()
    if _process.number and now - _process.noted_s < _SAME_SIGNAL_S:
        return
    if _process.num_safe and not _process.number:
        _process.number, _process.noted_s = number, now
        _write_line(_NOTED)
        return
    _end_at_once(number)


@contextmanager
def safe_points() -> Iterator[None]:
    """Note signals in this block, which calls `check_stop` wherever it can end in good order.

    `check_stop` is also called at the end of the block.
    """
    _process.num_safe += 1
    try:
        yield
    finally:
        # First: `check_stop` sees a signal from before this line; a later one ends the process.
        _process.num_safe -= 1
    check_stop()


def check_stop() -> None:
    """Raise `StoppedError` if a signal was noted; may be called in any thread."""
    if _process.number:
        raise stopped_by(_process.number)


def noted_signal() -> int:
    """Return the noted signal, 0 for none."""
    return _process.number


def stopped_by(number: int) -> StoppedError:
    """Return the error of `check_stop` for a signal, which another process may have noted."""
    return StoppedError(number, _message(number))


def forget_signal() -> None:
    """Forget the noted signal, once what it was meant for has ended."""
    _process.number = 0


def sleep(seconds: float) -> None:
    """Sleep; raise `StoppedError` as soon as a signal is noted."""
    end = time.monotonic() + seconds
    check_stop()
    while (rest := end - time.monotonic()) > 0:
        time.sleep(min(rest, _POLL_S))
        check_stop()


def wait_for(future: "Future[T]") -> T:
    """Return a future's result, or raise its error; raise `StoppedError` once a signal is noted."""
    while not future.done():
        check_stop()
        wait([future], _POLL_S)
    return future.result()


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C, which a terminal sends to all processes, in processes started in the block.

    This process gets it after the block.
    """
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


@contextmanager
def stop_advice(advice: str) -> Iterator[None]:
    """Set the clause of advice to print if a signal ends the block; the outermost one wins."""
    former = _process.advice
    _process.advice = former or advice
    try:
        yield
    finally:
        _process.advice = former


def end_with_process(end: Callable[[], object]) -> None:
    """Register a function that ends other processes when a signal ends this one at once.

    Its errors are ignored. Processes of `multiprocessing` are ended without it.
    """
    _process.helpers.append(end)


def _end_at_once(number: int) -> NoReturn:
    for end in (*_process.helpers, *(one.kill for one in multiprocessing.active_children())):
        with suppress(Exception):
            end()
    _write_line(_message(number))
    os._exit(128 + number)


def _message(number: int) -> str:
    word = _WORDS.get(signal.Signals(number), signal.Signals(number).name)
    return f"{word}: {_process.advice}" if _process.advice else word


def _write_line(text: str) -> None:
    """Write to standard error, bypassing Python's stream, which may be in use at this moment."""
    with suppress(OSError):
        # On a line below a progress bar.
        os.write(2, f"\n{text}\n".encode() if os.isatty(2) else f"{text}\n".encode())
