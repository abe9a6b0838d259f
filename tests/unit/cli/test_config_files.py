"""Configuration files made to hang or to crash what reads them."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from regionspot.cli.cache import make_cache, parse_config
from regionspot.cli.train import train

WRITTEN_OUT = r"expanded there are .*e\+\d+ values; wanted at most 100,000"
LETTERS = "abcdefghi"
BOMB = "a: &a [x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in pairwise(LETTERS)
)
MERGED = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n"
    for before, name in pairwise(LETTERS)
)
HOSTILE = {
    "bomb": (BOMB.encode(), WRITTEN_OUT),
    "merged": (MERGED.encode(), WRITTEN_OUT),
    "deep": (b"name: " + b"[" * 600 + b"]" * 600, "more than 100 deep"),
    "deeper": (b"name: " + b"[" * 100_000, "maximum nesting depth"),
    "within itself": (b"name: &a [*a]", "contains itself"),
    "a long number": (b"images_per_shard: " + b"9" * 5000, "4300 digits"),
    "no text": (b"\xff\xfe\x00", r"is not UTF-8 text: it has b'\\xff"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("command", ["cache", "fit"])
def test_a_hostile_configuration_is_refused_in_one_line(
    tmp_path: Path, name: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    content, message = HOSTILE[name]
    path.write_bytes(content)
    run, words = (make_cache, []) if command == "cache" else (train, ["fit"])
    with pytest.raises(SystemExit) as stopped:
        run([*words, "--config", str(path)])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert re.search(message, said)
    assert "Traceback" not in said


def test_aliases_are_otherwise_as_in_yaml(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "annotations: {format: csv, path: a.csv, images_dir: &here images}\n"
        "models: {preset: toy}\ntemplates: &one [single]\noutput_dir: *here\n"
    )
    config = parse_config(["--config", str(path)])
    assert (config.output_dir, list(config.templates)) == ("images", ["single"])
