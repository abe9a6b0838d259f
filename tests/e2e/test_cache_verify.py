"""``regionspot cache verify``: what a script and a person learn about a cache."""

from collections.abc import Callable
from pathlib import Path

import pytest

from regionspot.cli.main import main

MakeCache = Callable[..., Path]


def test_a_whole_cache_is_called_whole(
    make_cache: MakeCache, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_cache()
    main(["cache", "verify", str(folder)])
    assert capsys.readouterr().out == f"{folder}: whole\n"


def test_one_flipped_bit_is_named_and_the_exit_code_is_1(
    make_cache: MakeCache, capsys: pytest.CaptureFixture[str]
) -> None:
    sound, damaged = make_cache("sound"), make_cache("damaged")
    tar = damaged / "shards" / "000001.tar"
    content = bytearray(tar.read_bytes())
    content[2000] ^= 1
    tar.write_bytes(content)
    with pytest.raises(SystemExit) as exit_info:
        main(["cache", "verify", str(sound), str(damaged)])
    assert exit_info.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{sound}: whole"
    assert str(tar) in lines[1]
    assert lines[-1].startswith(f"{damaged}: ")
    assert lines[-1].endswith(" problems")


def test_a_folder_that_is_no_cache_exits_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["cache", "verify", str(tmp_path)])
    assert exit_info.value.code == 2
    assert "is no feature cache" in capsys.readouterr().err
