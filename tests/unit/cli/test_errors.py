"""Deliberate errors become one message and exit code 2; bugs keep their traceback."""

import errno

import pytest

from regionspot.cli.errors import run_cli
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
