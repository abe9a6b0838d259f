"""Configurations of the package in a folder without any; oracle: the files of the repository."""

from pathlib import Path

import pytest
import yaml

from regionspot.cli.main import main
from regionspot.cli.shipped_configs import with_shipped_configs

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", [["--config", "{}"], ["--config={}"]])
def test_a_command_reads_a_configuration_of_the_package(
    empty: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    name = "configs/eval/lvis_gt.yaml"
    with pytest.raises(SystemExit) as exit_info:
        main(["evaluate", *(word.format(name) for word in words), "--print_config"])
    assert exit_info.value.code == 0
    printed = capsys.readouterr()
    wanted = yaml.safe_load((CONFIGS / "eval" / "lvis_gt.yaml").read_text(encoding="utf-8"))
    read = yaml.safe_load(printed.out)
    for option in ("cache", "annotations", "output_dir", "title"):
        assert read[option] == wanted[option]
    assert f"{name} is not in this folder; using the package's" in printed.err


def test_a_file_of_the_current_folder_comes_first(empty: Path) -> None:
    path = Path("configs/toy/cache.yaml")
    path.parent.mkdir(parents=True)
    path.write_text("output_dir: mine")
    assert with_shipped_configs([str(path)]) == [str(path)]


@pytest.mark.parametrize("word", ["configs/toy", "configs/new.yaml", "toy/cache.yaml", "--config"])
def test_other_words_stay_as_they_are(empty: Path, word: str) -> None:
    assert with_shipped_configs([word]) == [word]


@pytest.mark.parametrize("name", ["bl", "toy", "toy_worlds"])
def test_the_configurations_that_an_ablation_names_are_found(empty: Path, name: str) -> None:
    text = (CONFIGS / "ablation" / f"{name}.yaml").read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    commands = [*config["stages"], *config["evaluations"].values()]
    names = {command["config"] for command in commands}
    names |= {word for command in config["prepare"] for word in command.split() if ".yaml" in word}
    assert len(names) > 2
    assert all(Path(word).is_file() for word in with_shipped_configs(sorted(names)))
