"""``regionspot recognize``: what is typed in, the table that comes out, and mistakes."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.heads import random_head
from regionspot.backbones import ModelsConfig, load_frozen_models
from regionspot.cli.recognize import format_table, recognize
from regionspot.cli.values import parse_rows, parse_vocabulary
from regionspot.core.errors import ConfigError, MissingFileError, VocabularyError
from regionspot.core.vocabulary import Vocabulary
from regionspot.inference import Regions
from regionspot.model import (
    save_trained_head,
)

NAMES = ("striped red circle", "plain blue square", "sea egg")


@pytest.mark.parametrize(
    ("text", "num_values", "rows"),
    [
        ("10,20,80,90", 4, [[10, 20, 80, 90]]),
        ("10,20,80,90 15,5,40,60", 4, [[10, 20, 80, 90], [15, 5, 40, 60]]),
        ("10,20,80,90;15,5,40,60", 4, [[10, 20, 80, 90], [15, 5, 40, 60]]),
        ("  10,20,80,90 ;\n 15,5,40,60; ", 4, [[10, 20, 80, 90], [15, 5, 40, 60]]),
        ("1.5,-2e1", 2, [[1.5, -20]]),
        (" ", 2, []),
    ],
)
def test_rows_are_numbers_between_commas(
    text: str, num_values: int, rows: list[list[float]]
) -> None:
    assert parse_rows(text, num_values, option="--boxes") == rows


@pytest.mark.parametrize(
    ("text", "num_values", "message"),
    [
        ("10,20,80", 4, "--boxes '10,20,80' has a row of 3 numbers. Wanted x1,y1,x2,y2 in pixels"),
        ("10,20,80,90,5", 4, "has a row of 5 numbers"),
        ("1,2,3,4 1,2", 4, "has a row of 2 numbers"),
        ("10,20,80,x", 4, "could not convert string to float: 'x'. Wanted x1,y1,x2,y2"),
        ("10, 20, 80, 90", 4, 'for instance "10,20,80,90 15,5,40,60"'),
        ("1,2,3,4,", 4, "could not convert string to float: ''"),
        ("5", 2, 'Wanted x,y in pixels of the image, for instance "45,55 20,30"'),
    ],
)
def test_rows_of_anything_else_are_refused_with_an_example(
    text: str, num_values: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_rows(text, num_values, option="--boxes")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("lemon", ["lemon"]),
        ("lemon,tennis ball", ["lemon", "tennis ball"]),
        (" lemon , tennis  ball,Sea Egg ", ["lemon", "tennis  ball", "Sea Egg"]),
    ],
)
def test_a_vocabulary_is_names_between_commas(text: str, names: list[str]) -> None:
    assert list(parse_vocabulary(text)) == names


def test_a_vocabulary_may_be_a_file_with_a_name_a_line(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("lemon\nbat, the animal \n\u00fcber\n", encoding="utf-8")
    assert list(parse_vocabulary(str(path))) == ["lemon", "bat, the animal", "\u00fcber"]


def test_a_list_of_names_may_be_longer_than_the_name_of_a_file() -> None:
    names = [f"class {number}" for number in range(2000)]
    assert list(parse_vocabulary(",".join(names))) == names
    assert list(parse_vocabulary("a" * 5000)) == ["a" * 5000]


def test_a_file_in_another_encoding_is_told_with_the_byte(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"heart\ncaf\xe9\n")
    (tmp_path / "utf16.txt").write_bytes("heart\nstar\n".encode("utf-16"))
    (tmp_path / "utf16le.txt").write_bytes("heart\nstar\n".encode("utf-16-le"))
    for name, message in (
        ("latin.txt", "byte 9 is not UTF-8 text. Give a text file with one class name per line"),
        ("utf16.txt", "byte 0 is not UTF-8 text"),
        ("utf16le.txt", r"line 1: the class name 'h\\x00e\\x00a.* is not UTF-8 text"),
    ):
        with pytest.raises(VocabularyError, match=rf"{name}\b.*{message}"):
            parse_vocabulary(str(tmp_path / name))


@pytest.mark.parametrize("line", ["heart,star,moon\n", "heart; star", "heart\tstar\n"])
def test_a_file_of_one_line_with_several_names_is_asked_about(tmp_path: Path, line: str) -> None:
    (tmp_path / "names.txt").write_text(line)
    with pytest.raises(VocabularyError, match=r"names\.txt is one line with .* wanted one"):
        parse_vocabulary(str(tmp_path / "names.txt"))


@pytest.mark.parametrize(
    "text", ["no_such_file.txt", "lists/names", "~/names", r"C:\lists\names", "a.txt,b.txt"]
)
def test_a_path_that_does_not_exist_is_no_name(text: str) -> None:
    with pytest.raises(MissingFileError, match="no vocabulary file at"):
        parse_vocabulary(text)


@pytest.mark.parametrize("text", ["heart;star", "heart|star", "heart\nstar"])
def test_names_that_commas_do_not_separate_are_asked_about(text: str) -> None:
    with pytest.raises(VocabularyError, match="is one name; wanted names separated by commas"):
        parse_vocabulary(text)


def test_names_of_public_lists_are_names() -> None:
    names = ["cabinet/shelf", "St. Bernard", "bat_(animal)", "7.5 cm nail"]
    assert list(parse_vocabulary(",".join(names))) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lemon,,egg", "entry 1: the class name '' is empty"),
        ("lemon,egg, lemon", "entry 2: the class name 'lemon' already occurs at 0"),
    ],
)
def test_a_vocabulary_with_an_empty_or_repeated_name_is_refused(text: str, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        parse_vocabulary(text)


def make_regions(top_class_ids: list[list[int]], top_scores: list[list[float]]) -> Regions:
    boxes = [[10, 20.4, 119.6, 90], [0, 0, 5, 1000]][: len(top_class_ids)]
    num = len(boxes)
    return Regions(
        image=np.zeros((1000, 120, 3), np.uint8),
        vocabulary=Vocabulary(NAMES),
        boxes_xyxy=np.array(boxes, np.float32).reshape(num, 4),
        top_class_ids=np.array(top_class_ids, np.int64).reshape(num, -1 if num else 1),
        top_scores=np.array(top_scores, np.float32).reshape(num, -1 if num else 1),
        top_confidences=np.array(top_scores, np.float32).reshape(num, -1 if num else 1),
        embeddings=np.zeros((num, 2), np.float32),
        kept_masks=None,
    )


def test_the_table_has_a_line_for_each_region() -> None:
    regions = make_regions([[2, 0], [1, 2]], [[0.75, 0.1996], [1, 0]])
    assert format_table(regions).split("\n") == [
        "region  x1  y1   x2    y2  names and scores in %",
        "     0  10  20  120    90  sea egg 75.0, striped red circle 20.0",
        "     1   0   0    5  1000  plain blue square 100.0, sea egg 0.0",
    ]


def test_the_table_of_no_regions_is_its_head() -> None:
    assert format_table(make_regions([], [])) == "region  x1  y1  x2  y2  names and scores in %"


@pytest.fixture(scope="module")
def head_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random head for the tiny towers that come with the package."""
    torch.set_num_threads(1)
    models = load_frozen_models(ModelsConfig(preset="toy"))
    trained = random_head(models, seed=0, vocabulary=NAMES, templates="single")
    folder = tmp_path_factory.mktemp("head")
    save_trained_head(folder, trained)
    return folder


@pytest.fixture(scope="module")
def picture_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "noise.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture
def options(head_dir: Path, picture_path: Path) -> list[str]:
    return [str(picture_path), "--model", str(head_dir), "--device", "cpu"]


def names_of(line: str) -> list[str]:
    return re.findall(r"([a-z][a-z ]*[a-z]) (?:\d+\.\d)", line)


def test_regions_are_named_in_a_table(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    recognize([*options, "--boxes", "10,20,80,90 15.4,5,129.6,60"])
    head, first, second = capsys.readouterr().out.splitlines()
    assert head == "region  x1  y1   x2  y2  names and scores in %"
    assert first.startswith("     0  10  20   80  90  ")
    assert second.startswith("     1  15   5  130  60  ")
    for line in (first, second):
        assert sorted(names_of(line)) == sorted(NAMES)
        scores = [float(score) for score in re.findall(r"\d+\.\d", line)]
        assert sum(scores) == pytest.approx(100, abs=0.2)


def test_points_and_other_names_may_be_given(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    recognize(
        [*options, "--points", "45,55;20,30", "--vocabulary", "red star, lamp", "--top_k", "1"]
    )
    _head, *lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert len(names_of(line)) == 1
        assert names_of(line)[0] in {"red star", "lamp"}


def test_names_that_clip_cannot_tell_apart_may_be_merged(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--points", "45,55", "--vocabulary", "Egg,lamp,egg", "--same_tokens", "merge"]
    recognize([*options, *words])
    _head, line = capsys.readouterr().out.splitlines()
    assert sorted(re.findall(r"([A-Za-z]+) \d", line)) == ["Egg", "lamp"]


def test_everything_that_sam_finds_is_named_best_first(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["--grid.points_per_side", "4", "--grid.max_regions", "5"]
    grid += ["--grid.pred_iou_thresh", "0", "--grid.stability_score_thresh", "0"]
    recognize([*options, "--everything", *grid, "--top_k", "1"])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("region")
    assert [line.split()[0] for line in lines] == ["0", "1", "2", "3", "4"]
    scores = [float(line.split()[-1]) for line in lines]
    assert scores == sorted(scores, reverse=True)
    assert all(names_of(line)[0] in NAMES for line in lines)


def test_where_sam_finds_nothing_the_way_out_is_named(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "nothing.png"
    grid = ["--grid.points_per_side", "2", "--grid.pred_iou_thresh", "1"]
    recognize([*options, "--everything", *grid, "--output", str(output)])
    head, hint, picture = capsys.readouterr().out.splitlines()
    assert head == "region  x1  y1  x2  y2  names and scores in %"
    assert hint.startswith("SAM proposed no regions: lower --grid.pred_iou_thresh")
    assert picture == f"picture: {output}"
    assert output.is_file()


def test_a_picture_is_written_where_it_is_wanted(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "folder" / "named.png"
    recognize([*options, "--boxes", "10,20,80,90", "--output", str(output)])
    assert capsys.readouterr().out.splitlines()[-1] == f"picture: {output}"
    with Image.open(output) as picture:
        assert (picture.format, picture.size) == ("PNG", (130 * 6, 90 * 6))


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ([], "wanted exactly one of --boxes or --points"),
        (["--boxes", ""], "wanted exactly one of --boxes or --points"),
        (["--boxes", "1,2,30,40", "--points", "3,4"], "wanted exactly one of --boxes or --points"),
        ([], "or --everything, which lets SAM find them"),
        (["--boxes", "1,2,30,40", "--everything"], "found --boxes and --everything; wanted"),
        (["--everything", "--grid.points_per_side", "0"], "points_per_side is 0; wanted at least"),
        (
            ["--points", "3,4", "--grid.points_per_side", "8"],
            "--grid requires --everything; found --points",
        ),
        (["--boxes", "1,2,30"], "--boxes '1,2,30' has a row of 3 numbers"),
        (["--points", "1,2,30"], "--points '1,2,30' has a row of 3 numbers"),
        (
            ["--boxes", "10,20,80,90 1,2,30,400"],
            "box 1 (1, 2, 30, 400) lies outside the image of 130 x 90 pixels",
        ),
        (["--boxes", "0.1,0.2,0.3,1.02"], "box 0 is (0.1, 0.2, 0.3, 1.02): these boxes look norm"),
        (
            ["--boxes", "100.5,20,20,50"],
            "(100.5, 20, 20, 50) has no area; wanted (x1, y1, x2, y2) with x1 < x2 and y1 < y2.",
        ),
        (
            ["--boxes", "100.5,20,20,50"],
            "If it is (x, y, width, height), its corners are (100.5, 20, 120.5, 70)",
        ),
        (["--points", "0.5,0.25"], "point (0.5, 0.25): the points look normalised"),
        (["--boxes", "1,2,30,40", "--vocabulary", "no_such.txt"], "no vocabulary file at no_such"),
        (["--boxes", "1,2,30,40", "--vocabulary", "egg,egg"], "'egg' already occurs at 0"),
        (["--boxes", "1,2,30,40", "--vocabulary", ""], "--vocabulary is empty: give names"),
        (["--boxes", "1,2,30,40", "--max_image_pixels", "9"], "is 9; wanted at least the default"),
        (["--boxes", "1,2,30,40", "--vocabulary", "cat,dog"], "does not know, and all of these"),
        (
            ["--boxes", "1,2,30,40", "--vocabulary", "Egg,egg", "--same_tokens", "refuse"],
            "the encoder tiny cannot tell them apart: 'Egg' = 'egg'",
        ),
        (["--boxes", "1,2,30,40", "--top_k", "0"], "top_k is 0"),
        (["--boxes", "1,2,30,40", "--batch_size", "0"], "batch_size is 0"),
        (["--boxes", "1,2,30,40", "--templates", "poem"], "no template set 'poem'"),
        (["--boxes", "1,2,30,40", "--output", "x.txt"], "--output x.txt: wanted a name that ends"),
        (["--boxes", "1,2,30,40", "--model", "nowhere"], "no trained head at nowhere"),
        (["--boxes", "1,2,30,40", "--device", "abacus"], "abacus"),
        (["--boxes", "1,2,30,40", "--clip_weights", "random"], "clip_weights_sha256: found"),
    ],
)
def test_mistakes_exit_with_2_and_one_message(
    options: list[str], capsys: pytest.CaptureFixture[str], mistake: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        recognize([*options, *mistake])
    assert exit_info.value.code == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("error:") == 1
    assert "Traceback" not in printed.err
    assert not printed.out


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (["--boxes", "10,20,80,90 1,2,30,400"], "box 1 (1, 2, 30, 400) lies outside the image"),
        (["--boxes", "", "--points", "500,3"], "point (500, 3) of region 0 lies outside the image"),
        (["--boxes", "1,2,30"], "--boxes '1,2,30' has a row of 3 numbers"),
        (["--vocabulary", "no_such.txt"], "no vocabulary file at no_such"),
        (["--top_k", "0"], "top_k is 0"),
        (["--templates", "poem"], "no template set 'poem'"),
        (["--output", "x.txt"], "--output x.txt: wanted a name that ends"),
        (["--output", f"{__file__}/x.png"], "test_recognize.py is a file; wanted the name of a"),
        (["--model", "nowhere"], "no trained head at nowhere"),
    ],
)
def test_mistakes_are_told_before_sam_and_clip_are_loaded(
    options: list[str], capsys: pytest.CaptureFixture[str], mistake: list[str], message: str
) -> None:
    no_models = ["--sam_weights", "nowhere.pth", "--clip_weights", "nowhere.pth"]
    for words, told in (([], "no weights file at nowhere.pth"), (mistake, message)):
        with pytest.raises(SystemExit) as exit_info:
            recognize([*options, "--boxes", "1,2,30,40", *no_models, *words])
        assert exit_info.value.code == 2
        assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("nowhere.png", "no image file or folder at nowhere.png"),
        (__file__, "test_recognize.py is no image that Pillow can open"),
    ],
)
def test_what_is_no_image_is_told_before_sam_and_clip_are_loaded(
    options: list[str], image: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        recognize([image, *options[1:], "--boxes", "1,2,30,40", "--sam_weights", "nowhere.pth"])
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


def test_an_image_of_more_pixels_is_read_if_the_limit_is_raised(
    options: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # restored at the end
    path = tmp_path / "large.png"
    Image.new("1", (20_000, 4_500)).save(path)
    words = [str(path), *options[1:], "--boxes", "100,100,9000,4000"]
    with pytest.raises(SystemExit):
        recognize(words)
    message = capsys.readouterr().err
    assert "more than 89,478,485" in message
    assert "raise --max_image_pixels of" in message
    recognize([*words, "--max_image_pixels", "90000000"])
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_folder_is_no_picture(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "named.png").mkdir()
    with pytest.raises(SystemExit):
        recognize([*options, "--boxes", "1,2,30,40", "--output", str(tmp_path / "named.png")])
    assert f"{tmp_path / 'named.png'} is a folder; wanted the name of a" in capsys.readouterr().err


def test_a_box_over_the_edge_is_told_once(
    options: list[str], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    recognize([*options, "--boxes", "10,20,140,90"])
    (record,) = caplog.records
    assert "is clipped to (10, 20, 130, 90)" in record.message
    assert capsys.readouterr().out.splitlines()[1].split()[1:5] == ["10", "20", "130", "90"]


def test_what_is_missing_or_mistyped_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    for args, message in (
        (["x.png"], "model"),
        (["x.png", "--model", "x", "--boxs", "1,2,3,4"], "boxs"),
        (["x.png", "--model", "x", "--top_k", "many"], "top_k"),
    ):
        with pytest.raises(SystemExit) as exit_info:
            recognize(args)
        assert exit_info.value.code == 2
        assert message in capsys.readouterr().err
