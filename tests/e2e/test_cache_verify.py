"""``regionspot cache verify``: what a script and a person learn about a cache."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.files import flip_bit
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
    flip_bit(tar, 2000, bit=0)
    with pytest.raises(SystemExit) as exit_info:
        main(["cache", "verify", str(sound), str(damaged)])
    assert exit_info.value.code == 1
    problem, header, *rows = capsys.readouterr().out.splitlines()
    assert problem.startswith(f"{tar}, image image005, ")
    assert header.split() == ["cache", "problems", "damaged", "shards", "verdict"]
    assert [row.split() for row in rows] == [
        [str(sound), "0", "0", "whole"],
        [str(damaged), "1", "1", "damaged"],
    ]
    assert len({len(line) for line in (header, *rows)}) == 1  # columns stand below each other


def json_objects(text: str) -> list[Any]:
    """Read JSON objects that stand one below the other."""
    decoder, objects = json.JSONDecoder(), []
    while text := text.strip():
        value, end = decoder.raw_decode(text)
        objects.append(value)
        text = text[end:]
    return objects


def test_json_tells_a_script_the_same(
    make_cache: MakeCache, capsys: pytest.CaptureFixture[str]
) -> None:
    sound, damaged = make_cache("sound"), make_cache("damaged")
    sidecar = damaged / "shards" / "000001.json"
    start = json.loads(sidecar.read_text(encoding="utf-8"))["offsets"][2][1]
    tar = damaged / "shards" / "000001.tar"
    flip_bit(tar, start + 130, bit=0)
    with pytest.raises(SystemExit) as exit_info:
        main(["cache", "verify", "--json", str(sound), str(damaged)])
    assert exit_info.value.code == 1
    assert json_objects(capsys.readouterr().out) == [
        {"cache_dir": str(sound), "is_whole": True, "problems": []},
        {
            "cache_dir": str(damaged),
            "is_whole": False,
            "problems": [
                {
                    "message": "the contents was changed after it was written",
                    "shard": 1,
                    "key": "image007",
                    "member": "feature_map.npy",
                    "offset": start,
                }
            ],
        },
    ]


@pytest.mark.parametrize("command", ["verify", "stats", "gc"])
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["table", "json"])
def test_a_folder_that_is_no_cache_does_not_keep_from_the_others_and_exits_with_2(
    command: str,
    options: list[str],
    make_cache: MakeCache,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, last = make_cache("first"), make_cache("last")
    with pytest.raises(SystemExit) as exit_info:
        main(["cache", command, *options, str(first), str(tmp_path), str(last)])
    assert exit_info.value.code == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert f"{tmp_path} " in err
    if options:
        assert [value["cache_dir"] for value in json_objects(out)] == [str(first), str(last)]
    else:
        header, *rows = out.splitlines()
        assert header.startswith("cache  ")
        assert [row.split()[0] for row in rows] == [str(first), str(last)]


def test_a_folder_that_is_no_cache_exits_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["cache", "verify", str(tmp_path)])
    assert exit_info.value.code == 2
    assert "is no feature cache" in capsys.readouterr().err
