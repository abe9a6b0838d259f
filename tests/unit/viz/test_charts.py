import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regionspot.core.errors import ConfigError, MissingFileError
from regionspot.viz import (
    draw_ap_bars,
    draw_ap_curve,
    draw_guidance,
    draw_loss_curve,
    find_metrics_csv,
    read_training_log,
)

PNG = b"\x89PNG"

STAGE_1 = """epoch,step,train/loss,val/AP,val/APr
0,0,2.0,,
0,9,1.0,,
0,9,,12.5,
1,19,0.5,,
1,19,,25.0,5.0
"""
STAGE_2 = """step,epoch,val/AP,train/loss
4,0,,0.25
4,0,30.0,
"""


@pytest.fixture
def stages(tmp_path: Path) -> list[tuple[str, Path]]:
    found = []
    for name, text in (("stage 1", STAGE_1), ("stage 2", STAGE_2)):
        path = tmp_path / name / "lightning_logs" / "version_0" / "metrics.csv"
        path.parent.mkdir(parents=True)
        path.write_text(text)
        found.append((name, path))
    return found


def test_stages_follow_each_other(stages: list[tuple[str, Path]]) -> None:
    log = read_training_log(stages)
    assert log.stage_starts == (0, 20)
    assert log.curves["train/loss"].steps.tolist() == [0, 9, 19, 24]
    assert log.curves["train/loss"].values.tolist() == [2.0, 1.0, 0.5, 0.25]
    assert log.curves["val/AP"].steps.tolist() == [9, 19, 24]
    assert log.curves["val/APr"].values.tolist() == [5.0]


def test_curves_are_drawn_as_png_without_pyplot(stages: list[tuple[str, Path]]) -> None:
    pyplot_before = "matplotlib.pyplot" in sys.modules
    log = read_training_log(stages)
    for draw in (draw_loss_curve, draw_ap_curve):
        picture = draw(log)
        assert picture is not None
        assert picture.startswith(PNG)
    assert ("matplotlib.pyplot" in sys.modules) == pyplot_before


def test_what_was_not_logged_is_not_drawn(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,lr\n0,1,0.5\n0,,1\n")
    log = read_training_log([("only", path)])
    assert draw_loss_curve(log) is None
    assert draw_ap_curve(log) is None
    assert draw_guidance(log) is None


def test_a_panel_shows_the_guidance_of_each_block(tmp_path: Path) -> None:
    names = [f"train/guidance/block{block}_head{head}" for block in (0, 1) for head in range(12)]
    (tmp_path / "one.csv").write_text(
        "\n".join(
            [",".join(["step", *names]), ",".join(["0"] * 25), ",".join(["9", *["1.5"] * 24])]
        )
    )
    (tmp_path / "two.csv").write_text("\n".join([f"step,{names[0]}", "0,0", "9,1.5"]))
    two, one = (
        Image.open(io.BytesIO(draw_guidance(read_training_log([("a", tmp_path / name)])) or b""))
        for name in ("one.csv", "two.csv")
    )
    assert two.format == one.format == "PNG"
    assert two.width == 2 * one.width


def test_the_newest_log_is_found(stages: list[tuple[str, Path]]) -> None:
    folder = stages[0][1].parents[2]
    newer = folder / "lightning_logs" / "version_1" / "metrics.csv"
    newer.parent.mkdir()
    newer.write_text(STAGE_1)
    os.utime(stages[0][1], (1, 1))
    assert find_metrics_csv(folder) == newer


def test_missing_logs_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="CSVLogger"):
        find_metrics_csv(tmp_path)
    with pytest.raises(MissingFileError, match="no training log"):
        read_training_log([("a", tmp_path / "metrics.csv")])


def test_bars_show_every_method_and_leave_gaps_for_undefined_figures() -> None:
    methods: dict[str, dict[str, float | None]] = {
        "fusion_head": {"AP": 60.0, "APr": None, "APc": 50.0, "APf": 70.0},
        "clip_box_crop": {"AP": 50.0},
    }
    assert draw_ap_bars(methods).startswith(PNG)
    assert draw_ap_bars(methods) == draw_ap_bars(methods)


def test_no_methods_cannot_be_drawn() -> None:
    with pytest.raises(ConfigError, match="no method"):
        draw_ap_bars({})


def test_long_logs_are_smoothed_without_moving_a_constant(tmp_path: Path) -> None:
    from regionspot.viz.curves import _smoothed

    np.testing.assert_allclose(_smoothed(np.full(400, 3.0)), 3.0)
