"""Deliberate errors become one message and exit code 2; bugs keep their traceback."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from regionspot.cli.main import main
from regionspot.cli.run import reported_errors
from regionspot.core.errors import ConfigError
from regionspot.core.stopping import (
    answer_signal,
    check_stop,
    forget_signal,
    safe_points,
    stop_advice,
)


def test_a_deliberate_error_is_one_message_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def command() -> None:
        raise ConfigError("preset 'huge' is unknown: use --models.preset bl.")

    with pytest.raises(SystemExit) as exit_info:
        reported_errors()(command)()
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == "error: preset 'huge' is unknown: use --models.preset bl.\n"


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_stop_is_one_message_and_the_exit_code_of_shells(
    number: int, code: int, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        with stop_advice("whole shards are safe"), safe_points():
            answer_signal(number)
            check_stop()

    try:
        with pytest.raises(SystemExit) as exit_info:
            reported_errors()(command)()
    finally:
        forget_signal()
    assert exit_info.value.code == code
    assert capsys.readouterr().err == f"{word}: whole shards are safe\n"


def test_a_command_that_python_calls_leaves_signals_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    main(["--help"])
    assert capsys.readouterr().out.startswith("usage: regionspot COMMAND")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_bug_keeps_its_traceback() -> None:
    def command() -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError, match="bug"):
        reported_errors()(command)()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "own.csv"),
            (
                "own.csv: Permission denied. Grant this user access, or give another path; then"
                " run the same command again."
            ),
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            (
                "a file being written: No space left on device. Make room, or give another"
                " path; then run the same command again."
            ),
        ),
    ],
)
def test_what_the_system_refuses_is_one_message_and_exit_code_2(
    error: OSError, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as exit_info:
        reported_errors()(command)()
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_another_error_of_the_system_keeps_its_traceback() -> None:
    def command() -> None:
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    with pytest.raises(ConnectionResetError):
        reported_errors()(command)()


# A few lines are written when the command ends, many before.
@pytest.mark.parametrize("num_lines", [10, 100_000])
def test_an_output_that_nobody_reads_ends_the_command_quietly(num_lines: int) -> None:
    program = (
        "from regionspot.cli.run import reported_errors\n"
        "with reported_errors():\n"
        f"    print('line\\n' * {num_lines})\n"
    )
    reader, writer = os.pipe()
    os.close(reader)
    found = subprocess.run(
        [sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (found.returncode, found.stderr) == (141, b"")


def test_another_broken_pipe_is_a_bug() -> None:
    def command() -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        reported_errors()(command)()
