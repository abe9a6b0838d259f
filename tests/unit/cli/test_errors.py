"""Deliberate errors become one message and exit code 2; bugs keep their traceback."""

import errno
import os
import signal
import time
import weakref

import pytest

from regionspot.cli.errors import run_cli, terminable
from regionspot.core.errors import ConfigError


def test_a_deliberate_error_is_one_message_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def command() -> None:
        raise ConfigError("preset 'huge' is unknown: use --models.preset bl.")

    with pytest.raises(SystemExit) as exit_info:
        run_cli(command)
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == "error: preset 'huge' is unknown: use --models.preset bl.\n"


def test_control_c_is_one_word_and_the_exit_code_of_shells(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def command() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as exit_info:
        run_cli(command)
    assert exit_info.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_arrives_in_a_weak_reference_s_callback_is_not_lost(
    number: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    class Thing:
        """Can be referred to weakly."""

    def interrupted(_dead: weakref.ref[Thing]) -> None:
        os.kill(os.getpid(), number)
        time.sleep(0)  # here Python answers the signal, and drops the exception

    def command() -> None:
        with terminable("whole shards are safe"):
            thing = Thing()
            _reference = weakref.ref(thing, interrupted)
            del thing
            time.sleep(30)

    with pytest.raises(SystemExit) as exit_info:
        run_cli(command)
    assert exit_info.value.code == code
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_a_library_takes_for_an_error_is_not_lost(
    number: signal.Signals, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        with terminable("whole shards are safe"):
            try:
                os.kill(os.getpid(), number)
                time.sleep(30)
            except BaseException:  # noqa: BLE001 - as torch does when it asks for a length
                raise ValueError("could not determine the shape") from None

    with pytest.raises(SystemExit) as exit_info:
        run_cli(command)
    assert exit_info.value.code == code
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_bug_keeps_its_traceback() -> None:
    def command() -> None:
        raise KeyError("bug")

    with pytest.raises(KeyError, match="bug"):
        run_cli(command)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "own.csv"),
            (
                "own.csv: Permission denied. Allow it to this user, or give another path; then give"
                " the same command again."
            ),
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            (
                "a file that was being written: No space left on device. Make room, or give another"
                " path; then give the same command again."
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
        run_cli(command)
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_another_error_of_the_system_keeps_its_traceback() -> None:
    def command() -> None:
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    with pytest.raises(ConnectionResetError):
        run_cli(command)
