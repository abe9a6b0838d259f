"""The ``regionspot`` command finds its sub-commands and helps a person who mistypes one."""

import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from regionspot.cli.help_texts import (
    WRITTEN_BY_HAND,
    rendered_help,
    stored_help,
    unlisted_option,
)
from regionspot.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[2]
BASH = shutil.which("bash") or ""
OPTION = re.compile(r"--[a-z][\w.-]+")
LARGE = ("torch", "lightning", "torchmetrics", "numpy", "PIL", "h5py")


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(args)
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]]
    assert listed == [
        *("init", "cache", "fit", "validate", "evaluate", "ablate", "report", "recognize", "index"),
        *("search", "demo", "info", "export", "verify", "convert", "convert-proposals"),
        *("toy", "quickstart", "completion"),
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
    ("words", "suggested"),
    [
        (["trian"], None),
        (["evalute"], "evaluate"),
        (["cache", "verfy"], "cache verify"),
    ],
)
def test_a_similar_command_is_suggested(
    words: list[str], suggested: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(words)
    first_line = capsys.readouterr().err.splitlines()[0]
    assert ("Did you mean" in first_line) == (suggested is not None)
    assert f"Did you mean {suggested}" in first_line or suggested is None


@pytest.mark.parametrize(
    ("words", "suggested"),
    [
        (["cache", "--annotations.pth", "x"], "--annotations.path"),
        (["verify", "x", "--jsn"], "--json"),
        (["fit", "--data.trian", "[x]"], "--data.train"),
    ],
)
def test_a_similar_option_is_suggested(
    words: list[str], suggested: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(words)
    assert exit_info.value.code == 2
    message = capsys.readouterr().err
    assert f"Did you mean {suggested}" in message
    assert "usage:" not in message


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in WRITTEN_BY_HAND])
def test_the_stored_help_is_that_of_the_parser(command: str) -> None:
    """If this fails, type ``python -m regionspot.cli.help_texts``."""
    assert stored_help(command).split() == rendered_help(command).split()


@pytest.mark.parametrize("command", WRITTEN_BY_HAND)
def test_help_written_by_hand_names_options_of_the_parser_and_fits_on_a_screen(
    command: str,
) -> None:
    text = stored_help(command)
    known = set(OPTION.findall(rendered_help(command)))
    assert set(OPTION.findall(text)) - known == {"--help-all"}
    assert len(text.splitlines()) < 55
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("recognize", ["--model", "x", "--boxes=1,2,3,4", "a.png"]),
        ("recognize", ["--top", "3"]),
        ("recognize", ["--", "--odd.png"]),
        ("evaluate", ["--title", "-- a title", "--models.preset", "toy"]),
        ("cache", ["--proposals.path", "x.json", "--templates+=single"]),
    ],
)
def test_what_the_parser_understands_is_not_taken_for_mistyped(
    command: str, words: list[str]
) -> None:
    assert unlisted_option(command, words) is None


def test_help_and_errors_about_mistyped_words_import_no_large_package() -> None:
    script = f"""
import contextlib, io, sys
from regionspot.cli.main import COMMANDS, main
mistyped = [["recognise"], ["recognize", "--modle", "x"], ["cache", "--annotations.pth", "x"]]
helps = [[*name.split(), "--help"] for name in COMMANDS]
for words in [[], ["--version"], *mistyped, *helps]:
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        with contextlib.suppress(SystemExit):
            main(words)
    assert output.getvalue(), words
print([name for name in {LARGE!r} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("script", ["cache_features.py", "evaluate.py", "train.py"])
def test_a_script_prints_the_help_of_its_command(script: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / script, "--help"], capture_output=True, text=True, check=False
    )
    command = {"cache_features.py": "cache", "evaluate.py": "evaluate", "train.py": "fit"}[script]
    assert (done.returncode, done.stdout) == (0, stored_help(command))


def test_the_package_runs_as_a_module_and_tells_its_version() -> None:
    run = [sys.executable, "-m", "regionspot", "--version"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.stdout == f"regionspot {version('regionspot')}\n"


@pytest.mark.skipif(not BASH, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ev"], {"evaluate"}),
        (["evaluate", "--image_"], {"--image_ids"}),
        (["cache", "--codec", ""], {"float16", "bfloat16", "int8"}),
        (["cache", "v"], {"verify"}),
        (["fit", "--model.optimizer.l"], {"--model.optimizer.lr"}),
    ],
)
def test_bash_completes_commands_options_and_choices(
    words: list[str], expected: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["completion", "bash"])
    line = " ".join(["regionspot", *words])
    asked = f"""
COMP_WORDS=(regionspot {" ".join(word or "''" for word in words)}); COMP_CWORD={len(words)}
COMP_LINE={line!r}; COMP_POINT={len(line)}
_shtab_regionspot; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    script = capsys.readouterr().out + asked
    done = subprocess.run([BASH, "-c", script], capture_output=True, text=True, check=False)
    assert set(done.stdout.split()) == expected, done.stderr
