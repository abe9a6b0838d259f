"""Signals never raise: work that has safe points ends there, and all else ends at once."""

import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import h5py
import pytest

from regionspot.core import stopping
from regionspot.core.stopping import (
    StoppedError,
    answer_signal,
    check_stop,
    forget_signal,
    interrupts_blocked,
    noted_signal,
    safe_points,
    sleep,
    stop_advice,
    wait_for,
)
from regionspot.storage import attempt

SIGNALS = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
LONG_S = 60.0


@pytest.fixture(autouse=True)
def _answered_signals() -> Iterator[None]:
    """Answer signals as the command line does."""
    before = {number: signal.signal(number, answer_signal) for number, _, _ in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    forget_signal()


def send(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0)  # here Python calls the handler, if not before


# --- Places that used to garble or drop an exception of a handler --------------------------------


def in_a_weak_reference_s_callback(number: int) -> None:
    class Thing:
        """Can be referred to weakly."""

    thing = Thing()
    _reference = weakref.ref(thing, lambda _dead: send(number))
    del thing


def in_a_finalizer(number: int) -> None:
    class Thing:
        def __del__(self) -> None:
            send(number)

    Thing()


def where_a_length_is_asked_for(number: int) -> None:
    class Rows:
        def __len__(self) -> int:
            send(number)
            return 3

    assert len(Rows()) == 3


def while_h5py_lets_go_of_an_object(number: int) -> None:
    # h5py looks at an identifier, in C, whenever it lets go of one.
    with h5py.File("in_memory.h5", "w", driver="core", backing_store=False) as file:
        group = file.create_group("group")
        weakref.finalize(group, send, number)
        del group


@pytest.mark.parametrize(("number", "code", "word"), SIGNALS)
@pytest.mark.parametrize(
    "place",
    [
        in_a_weak_reference_s_callback,
        in_a_finalizer,
        where_a_length_is_asked_for,
        while_h5py_lets_go_of_an_object,
    ],
)
def test_a_signal_anywhere_is_raised_at_the_next_safe_point_and_nowhere_else(
    place: Callable[[int], None],
    number: int,
    code: int,
    word: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dropped: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", dropped.append)
    reached = False
    with (
        pytest.raises(StoppedError) as stop,
        stop_advice("whole shards are safe"),
        safe_points(),
    ):
        place(number)
        reached = True
        check_stop()
    assert reached
    assert dropped == []
    assert stop.value.code == code
    assert stop.value.message == f"{word}: whole shards are safe"


# --- Safe points ---------------------------------------------------------------------------------


def test_the_end_of_a_block_is_a_safe_point() -> None:
    reached = False
    with pytest.raises(StoppedError), safe_points():
        send()
        reached = True
    assert reached


def test_without_a_signal_nothing_is_raised() -> None:
    with safe_points():
        check_stop()
        sleep(0.0)
    assert noted_signal() == 0


def test_a_signal_s_copy_to_the_process_group_is_no_second_signal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stopping, "_SAME_SIGNAL_S", LONG_S)
    with pytest.raises(StoppedError) as stop, safe_points():
        send(signal.SIGINT)
        send(signal.SIGTERM)
        send(signal.SIGINT)
    assert stop.value.code == 130


def test_the_advice_of_the_outermost_command_is_given() -> None:
    with (
        pytest.raises(StoppedError, match="^interrupted: give quickstart again$"),
        stop_advice("give quickstart again"),
        stop_advice("give cache again"),
        safe_points(),
    ):
        send()


def test_what_waits_sees_a_signal() -> None:
    def signal_soon() -> None:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    never: Future[None] = Future()
    waits: list[Callable[[], None]] = [lambda: sleep(LONG_S), lambda: wait_for(never)]
    for waiting in waits:
        start = time.monotonic()
        with pytest.raises(StoppedError), safe_points():
            signal_soon()
            waiting()
        assert time.monotonic() - start < LONG_S
        forget_signal()


def test_a_server_that_does_not_answer_is_not_waited_for_after_a_signal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REGIONSPOT_RETRY_SECONDS", str(LONG_S))
    num_tries = 0

    def ask() -> None:
        nonlocal num_tries
        num_tries += 1
        send()
        raise ConnectionResetError

    with pytest.raises(StoppedError), safe_points():
        attempt("s3://bucket/file", ask)
    assert num_tries == 1


# --- The end at once -----------------------------------------------------------------------------


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    start = """
import multiprocessing, os, signal, subprocess, sys, time
from regionspot.cli.run import answer_signals
from regionspot.core import stopping
from regionspot.core.stopping import end_with_process, safe_points, stop_advice
answer_signals()
"""
    return subprocess.run(
        [sys.executable, "-c", start + script],
        capture_output=True,
        text=True,
        check=False,
        timeout=LONG_S,
    )


@pytest.mark.parametrize(("number", "code", "word"), SIGNALS)
def test_outside_of_safe_points_a_signal_ends_the_process_at_once(
    number: int, code: int, word: str
) -> None:
    done = run_script(f"""
try:
    with stop_advice("nothing is lost"):
        os.kill(os.getpid(), {number:d})
        time.sleep({LONG_S})
finally:
    print("this is not reached")
""")
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == f"{word}: nothing is lost\n"


def test_a_second_signal_ends_the_process_at_once() -> None:
    done = run_script(f"""
stopping._SAME_SIGNAL_S = 0.0
with safe_points():
    os.kill(os.getpid(), signal.SIGINT)
    print("still at work", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep({LONG_S})
""")
    assert (done.returncode, done.stdout) == (143, "still at work\n")
    first, second = done.stderr.splitlines()
    assert first.startswith("stopping at the next safe point; a second signal ends")
    assert second == "terminated"


def test_no_process_outlives_one_that_ends_at_once() -> None:
    # Both hold the other end of our pipe: reading it to its end waits for the end of both.
    done = run_script(f"""
if __name__ == "__main__":
    multiprocessing.get_context("fork").Process(target=time.sleep, args=({LONG_S * 10},)).start()
    launched = subprocess.Popen([sys.executable, "-c", "import time; time.sleep({LONG_S * 10})"])
    end_with_process(launched.kill)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep({LONG_S})
""")
    assert done.returncode == 143


def test_a_command_answers_from_the_start_before_its_packages_are_imported(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    )
    done = run_script(f"""
from regionspot import cli
from regionspot.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
cli.__path__.append({str(tmp_path)!r})
sys.argv = ["regionspot", "demo"]
main.COMMANDS["demo"] = ("slow:run", "")
main.main()
""")
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_signal_that_a_shell_lets_a_job_ignore_stays_ignored() -> None:
    done = run_script("""
signal.signal(signal.SIGINT, signal.SIG_IGN)
answer_signals()
os.kill(os.getpid(), signal.SIGINT)
print("still at work")
""")
    assert (done.returncode, done.stdout) == (0, "still at work\n")


def test_helpers_are_started_deaf_to_control_c() -> None:
    script = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    with safe_points(), interrupts_blocked():
        helper = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
    assert helper.stdout == "True\n"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
