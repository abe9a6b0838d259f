"""What options and configurations may name: code of RegionSpot, Lightning, and what is allowed."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override

from regionspot.cli.main import main
from regionspot.cli.options import code_limited_to, take_allow_code
from regionspot.cli.train import LimitedArgumentParser, TrainCLI
from regionspot.core.errors import ConfigError
from regionspot.data import CachedRegions
from regionspot.training import RegionSpotModule

MODULE = "code_of_a_stranger"


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What importing the module `MODULE` creates, as any code could."""
    marker = tmp_path / "marker"
    text = f"""
from pathlib import Path
from lightning.pytorch.callbacks import Callback as C
Path({str(marker)!r}).touch()
class Own(C): pass
def function(): return Own()
"""
    (tmp_path / f"{MODULE}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    return marker


class BuiltError(Exception):
    """The parser of ``train.py``, which takes seconds to build."""


@pytest.fixture(scope="module")
def parser() -> LightningArgumentParser:
    class OnlyParser(TrainCLI):
        @override
        def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
            raise BuiltError(parser)

    with pytest.raises(BuiltError) as built:
        OnlyParser(RegionSpotModule, CachedRegions, parser_class=LimitedArgumentParser, args=[])
    return built.value.args[0]


def refused(parser: LightningArgumentParser, *words: str) -> str:
    with code_limited_to(), pytest.raises(ConfigError) as error_info:
        parser.parse_args(["fit", *words])
    return str(error_info.value)


def write_config(folder: Path, **trainer: object) -> Path:
    config = {
        "trainer": {"default_root_dir": str(folder / "run"), "accelerator": "cpu", **trainer},
        "data": {"train": [str(folder / "no_cache")]},
    }
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


NAMED = [
    {"callbacks": [{"class_path": f"{MODULE}.Own"}]},
    {"callbacks": [f"{MODULE}.function"]},
    {"callbacks": {"class_path": f"{MODULE}.Own"}},
    {"logger": {"class_path": f"{MODULE}.Own"}},
    {"logger": [{"class_path": f"{MODULE}.Own", "dict_kwargs": {"x": 1}}]},
    {"plugins": [{"class_path": f"{MODULE}.Own"}]},
    {"profiler": {"class_path": f"{MODULE}.Own"}},
    {"strategy": {"class_path": f"{MODULE}.Own"}},
    {"accelerator": {"class_path": f"{MODULE}.Own"}},
    {
        "callbacks": [
            {
                "class_path": "lightning.pytorch.callbacks.LambdaCallback",
                "init_args": {"on_fit_start": f"{MODULE}.function"},
            }
        ]
    },
    {
        "logger": {
            "class_path": "lightning.pytorch.loggers.WandbLogger",
            "init_args": {"experiment": {"class_path": f"{MODULE}.Own"}},
        }
    },
]


@pytest.mark.parametrize("trainer", NAMED, ids="-".join)
def test_no_configuration_imports_other_code(
    trainer: dict[str, object], marker: Path, tmp_path: Path, parser: LightningArgumentParser
) -> None:
    error = refused(parser, "--config", str(write_config(tmp_path, **trainer)))
    assert f"names {MODULE}." in error
    assert f"--allow_code {MODULE}" in error
    assert not marker.exists()


@pytest.mark.parametrize(
    "option",
    [
        f"--trainer.callbacks+={MODULE}.Own",
        f"--trainer.callbacks.class_path={MODULE}.Own",
        f"--trainer.logger={MODULE}.Own",
        f"--trainer.logger.help={MODULE}.Own",
        f'--model.head={{"class_path": "{MODULE}.Own"}}',
        f"--model.spec={MODULE}.Own",
    ],
)
def test_no_option_imports_other_code(
    option: str, marker: Path, tmp_path: Path, parser: LightningArgumentParser
) -> None:
    error = refused(parser, "--config", str(write_config(tmp_path)), option)
    assert f"--allow_code {MODULE}" in error
    assert not marker.exists()


@pytest.mark.parametrize("name", ["os.system", "lightning.pytorch.os.system", "shutil.rmtree"])
def test_programs_and_files_are_out_of_reach_by_any_name(
    name: str, tmp_path: Path, parser: LightningArgumentParser
) -> None:
    config = write_config(tmp_path, callbacks=[{"class_path": name}])
    assert name.rpartition(".")[2] in refused(parser, "--config", str(config))


def test_any_value_stays_a_value(
    marker: Path, tmp_path: Path, parser: LightningArgumentParser
) -> None:
    # W&B's own keywords, which Lightning passes on as they are.
    keywords = {"config": {"class_path": f"{MODULE}.Own"}}
    logger = {"class_path": "lightning.pytorch.loggers.WandbLogger", "dict_kwargs": keywords}
    with code_limited_to():
        config = parser.parse_args(["fit", "--config", str(write_config(tmp_path, logger=logger))])
    assert config.fit.trainer.logger.init_args.config == keywords["config"]
    assert not marker.exists()


def test_the_command_line_allows_code(
    marker: Path, tmp_path: Path, parser: LightningArgumentParser
) -> None:
    config = str(write_config(tmp_path, callbacks=[{"class_path": f"{MODULE}.Own"}]))
    with code_limited_to([MODULE]):
        parser.parse_args(["fit", "--config", config])
    assert marker.exists()
    # For one command, not for those that come after it in the same process.
    assert f"--allow_code {MODULE}" in refused(parser, "--config", config)


def test_no_configuration_allows_itself_anything(
    marker: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for trainer, message in (
        ({"callbacks": [{"class_path": f"{MODULE}.Own"}]}, f"names {MODULE}.Own"),
        ({}, f"a configuration has allow_code: {MODULE}"),
    ):
        path = write_config(tmp_path, **trainer)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"allow_code: {MODULE}\n")
        with pytest.raises(SystemExit) as exit_info:
            main(["fit", "--config", str(path)])
        assert exit_info.value.code == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
        assert not marker.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", f'--models={{"class_path": "{MODULE}.Own"}}'],
        ["cache", f'--annotations={{"class_path": "{MODULE}.Own"}}'],
        ["convert", "a.pth", "b", f'--models={{"class_path": "{MODULE}.Own"}}'],
        ["recognize", "a.jpg", f'--grid={{"class_path": "{MODULE}.Own"}}'],
    ],
    ids=lambda words: words[0],
)
def test_no_other_command_imports_what_an_option_names(words: list[str], marker: Path) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(words)
    assert exit_info.value.code == 2
    assert not marker.exists()


def test_only_names_of_modules_can_be_allowed() -> None:
    assert take_allow_code(["fit", "--allow_code", "a.b, c", "--x=1", "--allow_code=d"]) == (
        ["fit", "--x=1"],
        ["a.b", "c", "d"],
    )
    assert take_allow_code(["--allow_code", "lightning.pytorch"]) == ([], [])
    for name in ("*", "", "my-package", "jsonargparse", "a..b"):
        with pytest.raises(ConfigError, match="wanted packages or modules"):
            take_allow_code(["fit", "--allow_code", name])


@pytest.mark.parametrize("option", ["callbacks", "logger", "plugins"])
def test_what_lightning_itself_would_import_by_name_is_no_way_around(
    option: str, parser: LightningArgumentParser, marker: Path
) -> None:
    init = {"class_path": f"{MODULE}.Own"}
    path = "lightning.pytorch.cli.instantiate_class"  # imports what ``init`` names, and calls it
    value = [{"class_path": path, "init_args": {"args": [], "init": init}}]
    with code_limited_to(), pytest.raises((SystemExit, ConfigError)):
        parser.instantiate_classes(
            parser.parse_args(["fit", f"--trainer.{option}", json.dumps(value)])
        )
    assert not marker.exists()
