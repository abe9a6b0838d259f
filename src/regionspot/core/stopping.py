"""How Ctrl-C and SIGTERM end a command.

An exception that a signal handler raises surfaces wherever Python happens to be: in a finalizer,
where it is printed and dropped, or in a library, which takes it for an error of its own. So the
handler of this module, which the command line installs, never raises:

* Inside of `safe_points` it only notes the signal. The work there calls `check_stop` between
  batches, shards or steps, which raises `StoppedError`, so that the work ends in good order. A
  second signal ends the process at once.
* Everywhere else it ends the process at once. No file is lost by that: what is written is absent
  or whole at any moment (see `core.files`).

Library code that is used without the command line sees none of this: no handler is installed,
`check_stop` does nothing, and Ctrl-C is Python's ``KeyboardInterrupt``.
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
"""Launchers and shells send a signal to a process and to its group: that is one signal."""
_POLL_S = 0.1
_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_NOTED = "stopping at the next safe point; a second signal ends the process at once"

T = TypeVar("T")


class StoppedError(SystemExit):
    """A signal asked for the end of the command; its exit code is the one that shells report.

    Args:
        number: The signal.
        message: What to tell the user.
    """

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
    """The signal that was noted; 0 for none."""
    noted_s: float = 0.0
    """When."""
    num_safe: int = 0
    """How many `safe_points` the main thread is in."""
    advice: str = ""
    """What to do next, for the message."""
    helpers: list[Callable[[], object]] = field(default_factory=list)
    """What ends processes that must not outlive this one."""


_process = _Process()


def answer_signal(number: int, _frame: FrameType | None = None) -> None:
    """Note a signal inside of `safe_points`; end the process otherwise. A signal handler."""
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
    """Let signals wait in this block, which calls `check_stop` wherever it can end in good order.

    The end of the block is such a place.

    Raises:
        StoppedError: A signal arrived after the last `check_stop`.
    """
    _process.num_safe += 1
    try:
        yield
    finally:
        # First this: a signal that arrives after it ends the process, and one before it is seen.
        _process.num_safe -= 1
    check_stop()


def check_stop() -> None:
    """Raise `StoppedError` if a signal was noted. May be called in any thread."""
    if _process.number:
        raise stopped_by(_process.number)


def noted_signal() -> int:
    """Return the signal that was noted, 0 for none."""
    return _process.number


def stopped_by(number: int) -> StoppedError:
    """Return what `check_stop` raises for a signal, which another process may have noted."""
    return StoppedError(number, _message(number))


def forget_signal() -> None:
    """Forget a signal that was noted: what it was meant for is over."""
    _process.number = 0


def sleep(seconds: float) -> None:
    """Sleep, but not longer than until a signal is noted.

    Raises:
        StoppedError: One was.
    """
    end = time.monotonic() + seconds
    check_stop()
    while (rest := end - time.monotonic()) > 0:
        time.sleep(min(rest, _POLL_S))
        check_stop()


def wait_for(future: "Future[T]") -> T:
    """Return the result of a future, but wait for it no longer than until a signal is noted.

    Raises:
        StoppedError: One was.
        BaseException: What the future raised.
    """
    while not future.done():
        check_stop()
        wait([future], _POLL_S)
    return future.result()


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C, which a terminal sends to all processes, in processes started in the block.

    In this process it is delivered after the block.
    """
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


@contextmanager
def stop_advice(advice: str) -> Iterator[None]:
    """Set the advice that is printed if a signal ends the block; that of the outermost block wins.

    Args:
        advice: What to do next, as a clause for the message.
    """
    former = _process.advice
    _process.advice = former or advice
    try:
        yield
    finally:
        _process.advice = former


def end_with_process(end: Callable[[], object]) -> None:
    """Register a function to call when a signal ends this process at once.

    Processes of `multiprocessing` are ended without it.

    Args:
        end: Ends other processes; its errors are ignored.
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
    """Write to standard error past Python's own stream, which may be in use at this moment."""
    with suppress(OSError):
        # Away from a progress bar.
        os.write(2, f"\n{text}\n".encode() if os.isatty(2) else f"{text}\n".encode())
