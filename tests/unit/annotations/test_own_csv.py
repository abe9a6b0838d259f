"""A person's own CSV file, and how CSV is cut into blocks (the oracle is the csv module)."""

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from helpers.samples import GENUINE, OURS, sample_files
from regionspot.annotations import (
    AnnotatedImages,
    CsvBlock,
    CsvColumn,
    ReadOptions,
    Reason,
    read_annotations,
)
from regionspot.annotations.columns import image_key
from regionspot.annotations.csv_table import CsvTable
from regionspot.core.errors import AnnotationError, MissingFileError, VocabularyError

HEADER = "image,x1,y1,x2,y2,label"
Read = Callable[..., AnnotatedImages]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def write_and_read(
        *rows: str, header: str = HEADER, classes_path: Path | None = None
    ) -> AnnotatedImages:
        path = tmp_path / "own.csv"
        path.write_bytes("\n".join([header, *rows]).encode())
        options = ReadOptions(classes_path=classes_path)
        return read_annotations("csv", path, tmp_path, options=options)

    return write_and_read


def test_rows_become_regions_in_pixels(read: Read) -> None:
    data = read(
        "b/2.jpg,1,2,30.5,40,tennis ball",
        "a.jpg,0,0,5,5,lemon",
        "b/2.jpg,3,3,4,4,lemon",
        "./a.jpg,1e1,0,50,5,caf\u00e9",
    )
    assert data.vocabulary.names == ("tennis ball", "lemon", "caf\u00e9")
    assert (data.name, data.category_ids) == ("own", (0, 1, 2))
    first, second = data.records
    assert (first.key, first.image_id, first.file_name) == ("b-2f2-2ejpg", 0, "b/2.jpg")
    assert (second.key, second.image_id, second.file_name) == ("a-2ejpg", 1, "a.jpg")
    assert (first.annotated_size_hw, first.box_unit) == (None, "pixel")
    assert first.boxes_xyxy.tolist() == [[1, 2, 30.5, 40], [3, 3, 4, 4]]
    assert (first.labels.tolist(), second.labels.tolist()) == ([0, 1], [1, 2])
    assert first.resolved((20, 10)).record.boxes_xyxy.tolist() == [[1, 2, 10, 20], [3, 3, 4, 4]]
    assert data.report.num_regions == 4
    assert data.report.notes == ()


def test_columns_stand_in_any_order_and_others_are_ignored_with_a_note(read: Read) -> None:
    header = "\ufeffscore, label ,x2,y2,image,x1,y1,split,"
    data = read('1,"a, b",3,4," a 1.jpg ",1,2,train,', header=header)
    assert data.records[0].boxes_xyxy.tolist() == [[1, 2, 3, 4]]
    assert data.records[0].file_name == "a 1.jpg"
    assert data.vocabulary.names == ("a, b",)
    assert data.report.notes == ("ignored the columns 'score', 'split', ''",)
    assert data.report.lines()[-1] == data.report.notes[0]


def test_a_list_of_classes_gives_the_vocabulary(read: Read, tmp_path: Path) -> None:
    classes = tmp_path / "classes.txt"
    classes.write_text("lemon\nsea egg\ntennis ball\n")
    data = read("a.jpg,0,0,5,5,tennis ball", "a.jpg,0,0,5,5,orange", classes_path=classes)
    assert data.vocabulary.names == ("lemon", "sea egg", "tennis ball")
    assert data.records[0].labels.tolist() == [2]
    assert data.report.dropped_for(Reason.UNKNOWN_CATEGORY) == 1
    classes.write_text("lemon\nlemon\n")
    with pytest.raises(VocabularyError, match=r"classes\.txt, line 2.*'lemon' already occurs"):
        read("a.jpg,0,0,5,5,lemon", classes_path=classes)
    classes.write_bytes(b"caf\xe9\n")
    with pytest.raises(VocabularyError, match=r"classes\.txt: byte 3 is not UTF-8"):
        read("a.jpg,0,0,5,5,lemon", classes_path=classes)
    with pytest.raises(MissingFileError, match=r"no\.txt"):
        read("a.jpg,0,0,5,5,lemon", classes_path=tmp_path / "no.txt")


@pytest.mark.parametrize(
    ("path", "number", "first", "label"),
    sample_files(
        (OURS / "v3det/names.txt", 5, ("egg timer",), 1),
        (
            GENUINE / "v3det/category_name_13204_v3det_2023_v1.txt",
            13_204,
            ("ashtray", "cash machine", "popper"),
            388,
        ),
    ),
)
def test_the_names_of_v3det_are_such_a_list(
    read: Read, path: Path, number: int, first: tuple[str, ...], label: int
) -> None:
    data = read("a.jpg,0,0,5,5,joe\u0308lette", "a.jpg,0,0,5,5,jo\u00eblette", classes_path=path)
    assert len(data.vocabulary) == number
    assert data.vocabulary.names[: len(first)] == first
    assert data.records[0].labels.tolist() == [label]
    assert data.report.num_dropped == 1  # spelled with another code


def test_what_is_no_region_is_dropped_and_counted_with_its_reason(read: Read) -> None:
    data = read(
        "a.jpg,0,0,5,5,cat",
        "a.jpg,0,0,5,5,cat",
        "a.jpg,5,0,0,5,cat",
        "a.jpg,5,0,5,5,cat",
        "a.jpg,-9,0,-5,5,cat",
        "a.jpg,nan,0,5,5,cat",
        "a.jpg,0,0,inf,5,cat",
        "b.jpg,-1,0,5,9e9,cat",
    )
    assert {entry.reason: entry.first for entry in data.report.dropped} == {
        Reason.DUPLICATE: (1,),
        Reason.NEGATIVE_SIZE: (2,),
        Reason.ZERO_AREA: (3,),
        Reason.OUTSIDE: (4,),
        Reason.NOT_FINITE: (5, 6),
    }
    assert data.report.num_clipped == 1
    assert "boxes with NaN or infinity in bbox (rows[5, 6])" in "\n".join(data.report.lines())


def test_a_row_that_only_names_an_image_stands_for_an_image_without_boxes(read: Read) -> None:
    data = read("a.jpg,0,0,5,5,cat", "empty.jpg,,,,,", '"b.jpg", , , , ,', "b.jpg,1,1,2,2,dog")
    assert [(record.file_name, record.labels.tolist()) for record in data.records] == [
        ("a.jpg", [0]),
        ("empty.jpg", []),
        ("b.jpg", [1]),
    ]
    assert data.report.num_images_without_regions == 1
    assert {entry.reason: entry.first for entry in data.report.dropped} == {Reason.BLANK: (1, 2)}


def test_a_row_that_is_blank_in_part_is_refused(read: Read) -> None:
    with pytest.raises(AnnotationError, match=r"line 2: x2 is ''; wanted a number"):
        read("a.jpg,0,0,,5,cat")
    with pytest.raises(AnnotationError, match=r"line 2: label is ''; wanted text"):
        read("a.jpg,0,0,5,5,")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("file,xmin,ymin,xmax,ymax,class", r"no column image, x1, y1, x2, y2, label\. Its first"),
        ("image,x1,y1,x2,y2", r"no column label\..*'image,x1,y1,x2,y2'\. Wanted a header with"),
        ("Image,x1,y1,x2,y2,label", r"no column image\."),
        ("image,x1,y1,x2,y2,label,label", r"repeats a column"),
        ("image;x1;y1;x2;y2;label", r"it is not separated by commas"),
        ("a.jpg,1,2,3,4,cat", r"it is a row, not a header"),
        ("ImageID,Source,LabelName", r"it is OpenImages \(type --annotations\.format openimages"),
        ('{"images": []}', r"it is JSON"),
    ],
)
def test_a_wrong_header_names_what_is_missing(read: Read, header: str, message: str) -> None:
    with pytest.raises(AnnotationError, match=rf"own\.csv .*{message}"):
        read("a.jpg,1,2,3,4,cat", header=header)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a.jpg,1,2,3,4,cat", "a.jpg,1,2,3,4"], r"line 3 has 5 values; wanted 6, as in the head"),
        (["a.jpg,1,2,x,4,cat"], r"line 2: x2 is 'x'; wanted a number"),
        (["a.jpg,1,,3,4,cat"], r"line 2: y1 is ''; wanted a number"),
        (["", "", "a.jpg,1,2,3,4, "], r"line 4: label is ''; wanted text"),
        ([",1,2,3,4,cat"], r"line 2: image is ''; wanted text"),
        (['"a\nb.jpg",1,2,3,4,cat', "a.jpg,1,2,3,no,cat"], r"line 4: y2 is 'no'"),
        (['a.jpg,1,2,3,4,"cat'], r"line 2: unexpected end of data"),
        (['a.jpg,1,2,3,4,"cat"s'], r"line 2: ',' expected after '\"'"),
        ([], r"no row below its header"),
        (["/a.jpg,1,2,3,4,cat"], r"'/a\.jpg' is not a path below the images folder"),
        (["../a.jpg,1,2,3,4,cat"], r"not a path below the images folder"),
        (["a.jpg,1,2,3,4," + "x" * 200_000 + '"'], r"line 2: field larger than field limit"),
    ],
)
def test_a_broken_line_is_named(read: Read, rows: list[str], message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        read(*rows)


def test_a_label_over_two_lines_is_refused(read: Read) -> None:
    with pytest.raises(VocabularyError, match=r"own\.csv: labels .*'a\\nb' is empty or spans"):
        read('a.jpg,1,2,3,4,"a\nb"')


def test_text_that_is_not_utf8_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    for row, message in (
        (b"caf\xe9.jpg,1,2,3,4,cat", r"line 3: image is 'caf.\.jpg'; wanted text, in UTF-8"),
        (b'a.jpg,1,2,3,4,"caf\xe9"', r"line 3 is not UTF-8 text \(b'\\xe9"),
    ):
        path.write_bytes(HEADER.encode() + b"\na.jpg,1,2,3,4,cat\n" + row + b"\n")
        with pytest.raises(AnnotationError, match=message):
            read_annotations("csv", path, tmp_path)


PATHS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


@given(PATHS, PATHS)
def test_keys_are_spelled_with_few_characters_and_differ_as_paths_do(left: str, right: str) -> None:
    keys = [image_key(left), image_key(right)]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,80}", key) for key in keys)
    assert (keys[0] == keys[1]) == (left == right)
    for path, key in zip((left, right), keys, strict=True):
        if not key.startswith("--"):
            spelled = re.sub(r"-([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), key)
            assert spelled.encode("latin-1").decode() == path


def test_long_paths_have_keys_too() -> None:
    long = [f"{'a' * 90}{number}.jpg" for number in range(50)]
    assert len({image_key(path) for path in long}) == 50
    assert {len(image_key(path)) for path in long} == {66}
    assert image_key("--2d.jpg") == "-2d-2d2d-2ejpg"


WHITE_SPACE = [character for code in range(0x110000) if (character := chr(code)).isspace()]
NO_WHITE_SPACE = ["\u200b", "\ufeff", "\u2060"]  # of no width, and no white space by Unicode
VALUES = st.text(st.sampled_from('ab" ,\n\u00e9'), max_size=5)
# One kind of special character a file, so that plain blocks stay plain but for it.
SPACED = st.sampled_from([*WHITE_SPACE, *NO_WHITE_SPACE]).flatmap(
    lambda character: st.lists(
        st.tuples(*[st.text(st.sampled_from(["a", "\u00e9", character]), max_size=4)] * 3),
        max_size=8,
    )
)


@given(
    rows=st.lists(st.tuples(VALUES, VALUES, VALUES), max_size=8) | SPACED,
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    ending=st.sampled_from(["\n", "\r\n"]),
    block_bytes=st.integers(1, 40),
)
def test_blocks_hold_what_the_csv_module_reads(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str, str]],
    quoting: int,
    ending: str,
    block_bytes: int,
) -> None:
    # Before Python 3.13, the writer does not quote a carriage return, which ends a row for readers.
    is_quoted = quoting == csv.QUOTE_ALL or ending == "\r\n"
    assume(is_quoted or "\r" not in "".join(value for row in rows for value in row))
    path = tmp_path_factory.getbasetemp() / "rows.csv"
    text = io.StringIO()
    writer = csv.writer(text, quoting=quoting, lineterminator=ending)  # type: ignore[arg-type]
    writer.writerows([("x", "y", "z"), *rows])
    path.write_bytes(text.getvalue().encode())
    found: list[tuple[bytes, ...]] = []
    for block in CsvTable(path, ("z", "x"), block_bytes=block_bytes).blocks():
        columns = [block.columns[name].values() for name in ("x", "z")]
        assert columns[0] == block.columns["x"].short_values()
        assert len(columns[0]) == len(block) == len(block.lines)
        found += zip(*columns, strict=True)
    # White space around values does not count.
    plain = [[value.strip().encode() for value in row] for row in rows]
    assert found == [(x, z) for x, _, z in plain]


@pytest.mark.parametrize(
    "space",
    [space for space in WHITE_SPACE if space not in "\r\n"],
    ids=lambda space: f"U+{ord(space):04X}",
)
def test_a_label_is_stripped_of_white_space_in_a_plain_block_as_in_any_other(
    read: Read, space: str
) -> None:
    plain = read(f"a.jpg,0,0,5,5,{space}cat{space}", "a.jpg,9,0,50,5,cat")
    quoted = read(f"a.jpg,0,0,5,5,{space}cat{space}", 'a.jpg,9,0,50,5,"cat"')
    assert plain.vocabulary.names == quoted.vocabulary.names == ("cat",)


def test_sizes_stay_unknown_without_regions(read: Read) -> None:
    data = read("a.jpg,,,,,", "b.jpg,5,5,50,50,cat")
    assert data.records[0].boxes_xyxy.shape == (0, 4)
    assert data.records[0].boxes_xyxy.dtype == np.float32
    assert data.report.num_images_without_regions == 1


NUMBERS = st.one_of(
    st.floats().map(repr),
    st.floats(0, 1).map("{:.6f}".format),
    st.integers().map(str),
    st.from_regex(r"[0-9]{0,9}\.?[0-9]{0,9}", fullmatch=True),
    st.text(st.sampled_from("0123456789.e-+_n"), max_size=6),
    st.just("x" * 40),
)


@given(st.lists(NUMBERS, max_size=6))
def test_numbers_are_those_of_float(texts: list[str]) -> None:
    column = CsvColumn.from_values(text.encode() for text in texts)
    block = CsvBlock(path=Path("a.csv"), columns={"x1": column}, lines=range(2, len(texts) + 2))
    assert column.values() == column.short_values() == [text.encode() for text in texts]
    try:
        wanted = [float(text) for text in texts]
    except ValueError:
        with pytest.raises(AnnotationError, match=r"a\.csv, line \d: x1 is .*wanted a number"):
            block.numbers("x1")
    else:
        found = block.numbers("x1")
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, wanted)
