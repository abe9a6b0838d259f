"""``regionspot demo`` says what is missing before it loads anything."""

from pathlib import Path

import pytest

from regionspot.cli.main import main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no trained head at runs/quickstart. Type regionspot quickstart"),
        (["--model", "mine", "--images_dir", "photos"], "--images_dir requires --cache"),
        (["--model", "mine", "--limits.max_names", "0"], "limits.max_names is 0"),
        (["--model", "mine", "--vocabulary", "lost.txt"], "lost.txt"),
    ],
)
def test_mistakes_are_reported(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["demo", *words])
    assert caught.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
