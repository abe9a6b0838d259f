"""The ``regionspot`` command finds its sub-commands and helps a person who mistypes one."""

import pytest

from regionspot.cli.main import main


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(args)
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]]
    assert listed == [
        *("cache", "fit", "validate", "evaluate", "recognize", "export", "verify", "convert"),
        "convert-proposals",
        *("toy", "quickstart"),
    ]


def test_an_unknown_command_exits_with_2_and_lists_the_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["trian"])
    assert exit_info.value.code == 2
    message = capsys.readouterr().err
    assert "there is no command 'trian'" in message
    assert "evaluate" in message


def test_an_unknown_second_word_exits_with_2_and_lists_the_known(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["cache", "verfy", "caches/mine"])
    assert exit_info.value.code == 2
    message = capsys.readouterr().err
    assert "there is no command 'cache verfy'" in message
    assert "cache verify" in message


@pytest.mark.parametrize(
    "command",
    [
        *("cache", "fit", "evaluate", "recognize", "export", "verify", "convert"),
        *("convert-proposals", "toy", "quickstart"),
    ],
)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([command, "--help"])
    assert exit_info.value.code == 0
    assert "usage:" in capsys.readouterr().out
