"""OpenImages boxes: both column layouts, and what else belongs to them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.samples import GENUINE, OURS, sample_files
from regionspot.annotations import (
    AnnotatedImages,
    CsvBlock,
    CsvColumn,
    KeepOrDrop,
    ReadOptions,
    Reason,
)
from regionspot.annotations import read_annotations as read_any
from regionspot.annotations.openimages import id_digits, image_ids, read_classes, read_openimages
from regionspot.annotations.options import Source
from regionspot.core.errors import (
    AnnotationError,
    ConfigError,
    MissingFileError,
    RegionSpotError,
    VocabularyError,
)

HEADER = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,"
    "IsDepiction,IsInside"
)
CLICKS = ",".join(f"XClick{n}{axis}" for axis in "XY" for n in range(1, 5))
A, B, C = "00000000000000aa", "ffffffffffffffff", "8000000000000000"
Read = Callable[..., AnnotatedImages]


def row(
    image: str = A,
    mid: str = "/m/cat",
    sides: str = "0.1,0.5,0.25,0.75",
    *,
    group: str = "0",
    depiction: str = "0",
) -> str:
    return f"{image},xclick,{mid},1,{sides},0,1,{group},{depiction},0"


@pytest.fixture
def read(tmp_path: Path) -> Read:
    classes = tmp_path / "classes.csv"
    classes.write_text("/m/dog,Dog\n/m/cat,Cat\n")

    def write_and_read(*rows: str, header: str = HEADER, **options: object) -> AnnotatedImages:
        path = tmp_path / "boxes.csv"
        path.write_bytes("".join(f"{line}\n" for line in (header, *rows)).encode())
        options = {"classes_path": classes, **options}
        return read_any("openimages", path, tmp_path, options=ReadOptions(**options))  # type: ignore[arg-type]

    return write_and_read


def test_boxes_stay_relative_until_the_image_is_decoded(read: Read) -> None:
    data = read(row(), row(C, "/m/dog"), row(sides="0,1,0,1"), row(B))
    assert data.vocabulary.names == ("Dog", "Cat")
    assert data.category_ids == (0, 1)
    first, second, third = data.records
    assert (first.key, first.file_name, first.image_id) == (A, f"{A}.jpg", 0xAA)
    assert first.annotated_size_hw is None
    assert first.box_unit == "relative"
    np.testing.assert_array_equal(
        first.boxes_xyxy, np.array([[0.1, 0.25, 0.5, 0.75], [0, 0, 1, 1]], np.float32)
    )
    assert first.labels.tolist() == [1, 1]
    assert first.resolved((200, 100)).record.boxes_xyxy.tolist() == [
        [10, 50, 50, 150],
        [0, 0, 100, 200],
    ]
    assert (second.key, second.image_id, second.labels.tolist()) == (C, -(2**63), [0])
    assert (third.key, third.image_id) == (B, -1)
    assert data.report.num_images_without_size == 3
    assert "3 images have no annotated size (clipped when decoded)" in data.report.lines()


OUR_ROWS = ("00a1b2c3d4e5f607", "/m/0lamp", [0.03125, 0.7, 0.265625, 0.953125])
GENUINE_ROWS = ("000002b66c9c498e", "/m/01g317", [0.025, 0.714063, 0.276563, 0.948438])


@pytest.mark.parametrize(
    ("path", "num_regions", "key", "mid", "second_box"),
    sample_files(
        (OURS / "openimages/boxes_13_columns.csv", 4, *OUR_ROWS),
        (OURS / "openimages/boxes_21_columns.csv", 3, *OUR_ROWS),
        (GENUINE / "openimages/train-annotations-bbox_v5_13col.csv", 6, *GENUINE_ROWS),
        (GENUINE / "openimages/oidv6-train-annotations-bbox_21col.csv", 3, *GENUINE_ROWS),
    ),
)
def test_whole_files_of_both_layouts_are_read(
    tmp_path: Path, path: Path, num_regions: int, key: str, mid: str, second_box: list[float]
) -> None:
    classes = tmp_path / "classes.csv"
    classes.write_text(f"/m/0cmf2,Airplane\n{mid},Person\n")
    options = ReadOptions(classes_path=classes)
    data = read_any("openimages", path, tmp_path, options=options)
    (record,) = data.records
    assert (record.key, record.image_id) == (key, int(key, 16))
    assert record.file_name == f"{key}.jpg"
    assert data.report.lines()[0] == f"1 images, {num_regions} regions of {num_regions} annotations"
    assert data.report.num_dropped == data.report.num_clipped == 0
    assert record.labels.tolist() == [1] * num_regions
    np.testing.assert_array_equal(record.boxes_xyxy[1], np.array(second_box, np.float32))


OUR_CLASSES = {b"/m/0door": "Door", b"/m/0lamp2": "Lamp, standing", b"/m/0mug": "Mug"}


@pytest.mark.parametrize(
    ("path", "wanted"),
    sample_files(
        (OURS / "openimages/classes.csv", OUR_CLASSES),
        (OURS / "openimages/classes_with_header.csv", OUR_CLASSES),
        (GENUINE / "openimages/class-descriptions-boxable.csv", {b"/m/0cmf2": "Airplane"}),
        (
            GENUINE / "openimages/oidv6-class-descriptions-boxable_with_header.csv",
            {b"/m/011k07": "Tortoise", b"/m/011q46kg": "Container", b"/m/012074": "Magpie"},
        ),
    ),
)
def test_class_descriptions_are_read_with_and_without_header(
    path: Path, wanted: dict[bytes, str]
) -> None:
    labels, vocabulary, _ = read_classes(path)
    assert labels == {mid: label for label, mid in enumerate(wanted)}
    assert vocabulary.names == tuple(wanted.values())


@pytest.mark.parametrize(
    ("path", "keys", "num_rotated"),
    sample_files(
        (OURS / "openimages/rotations.csv", ["00f1e2d3c4b5a697", "7788990011223344"], 1),
        (
            GENUINE / "openimages/train-images-boxable-with-rotation.csv",
            ["4fa8054781a4c382", "b37f763ae67d0888"],
            0,
        ),
    ),
)
def test_a_whole_list_of_rotations_is_read(
    read: Read, path: Path, keys: list[str], num_rotated: int
) -> None:
    data = read(*map(row, keys), row(A), rotations_path=path)
    assert data.report.num_rotated_images == num_rotated
    assert data.report.notes[0] == f"1 images are not in {path.name}"


def test_rotated_images_are_counted_and_kept_as_they_are(read: Read, tmp_path: Path) -> None:
    path = tmp_path / "rotations.csv"
    rows = [
        f'{A},train,"a ""title"", with\na line break",270.0',
        f"{B},train,,0.0",
        f"{C},train,x,",
        "1234567890abcdef,train,of another split,90",
    ]
    path.write_text("ImageID,Subset,Title,Rotation\n" + "\n".join(rows))
    with_list = read(row(), row(B), row(C), rotations_path=path)
    without = read(row(), row(B), row(C))
    assert with_list.report.num_rotated_images == 1
    assert "1 images are stored rotated (as are their boxes; kept)" in with_list.report.lines()
    assert with_list.annotation_sha256 == without.annotation_sha256
    for ours, theirs in zip(with_list.records, without.records, strict=True):
        np.testing.assert_array_equal(ours.boxes_xyxy, theirs.boxes_xyxy)
    for value in ("45", "left"):
        path.write_text(f"ImageID,Rotation\n{A},nan\n{B},{value}\n")
        message = rf"rotations\.csv, line 3: Rotation is '{value}'; wanted 0, 90, 180, 270 or nan"
        with pytest.raises(AnnotationError, match=message):
            read(row(), rotations_path=path)


@pytest.mark.parametrize(
    ("groups", "depictions", "num_regions", "num_groups", "num_depictions"),
    [
        (None, None, 3, 0, 1),
        ("drop", "drop", 2, 0, 0),
        ("keep", "keep", 5, 2, 2),
        ("keep", "drop", 3, 1, 0),
    ],
)
def test_groups_and_depictions_are_kept_or_dropped_as_asked_and_counted(
    read: Read,
    groups: KeepOrDrop | None,
    depictions: KeepOrDrop | None,
    num_regions: int,
    num_groups: int,
    num_depictions: int,
) -> None:
    rows = [
        row(sides="0,1,0,0.1"),
        row(sides="0,1,0,0.2", group="1"),
        row(sides="0,1,0,0.3", depiction="1"),
        row(sides="0,1,0,0.4", group="1", depiction="1"),
        row(sides="0,1,0,0.5", group="-1", depiction="-1"),  # nobody said
    ]
    data = read(*rows, groups=groups, depictions=depictions)
    report = data.report
    assert (report.num_regions, report.num_groups) == (num_regions, num_groups)
    assert report.num_depictions == num_depictions
    assert report.num_dropped == 5 - num_regions
    if groups != "keep":
        assert report.dropped_for(Reason.GROUP) == 2
        assert "dropped 2 boxes around a group (IsGroupOf) (rows[1, 3])" in report.lines()


def test_options_that_change_regions_change_the_identity(read: Read) -> None:
    identities = {
        read(row(), groups=groups, depictions=depictions).annotation_sha256
        for groups in (None, "keep", "drop")
        for depictions in ("keep", "drop")
    }
    assert len(identities) == 4
    assert read(row()).annotation_sha256 in identities


def test_what_is_no_region_is_dropped_and_counted_with_its_reason(read: Read) -> None:
    data = read(
        row(),
        row(),
        row(mid="/m/cow"),
        row(sides="0.5,0.1,0,1"),
        row(sides="0.5,0.5,0,1"),
        row(sides="1,1.5,0,1"),
        row(sides="nan,1,0,1"),
        row(sides="-0.5,0.5,0.5,2"),
    )
    assert {entry.reason: entry.first for entry in data.report.dropped} == {
        Reason.DUPLICATE: (1,),
        Reason.UNKNOWN_CATEGORY: (2,),
        Reason.NEGATIVE_SIZE: (3,),
        Reason.ZERO_AREA: (4,),
        Reason.OUTSIDE: (5,),
        Reason.NOT_FINITE: (6,),
    }
    assert data.records[0].boxes_xyxy[1].tolist() == [0, 0.5, 0.5, 1]
    assert data.report.num_clipped == 1


@pytest.mark.parametrize(
    "header", [f"{HEADER},{CLICKS}", "\ufeff" + HEADER, f"Extra,{HEADER}", HEADER + "\r"]
)
def test_columns_are_found_by_their_names(read: Read, header: str) -> None:
    before, after = ("x," if header.startswith("Extra") else ""), header.count("Click") * ",0"
    end = "\r" if header.endswith("\r") else ""
    data = read(*(f"{before}{row(image)}{after}{end}" for image in (A, B)), header=header)
    assert data.records.keys() == [A, B]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(), row("xyz")], r"line 3: ImageID is 'xyz'; wanted 16 digits of 0-9 and a-f"),
        ([row("00000000000000AA")], r"line 2: ImageID is '00000000000000AA'"),
        ([row(), row(sides="0,1,0,one")], r"line 3: YMax is 'one'; wanted a number"),
        ([row(), row(), row(group="yes")], r"line 4: IsGroupOf is 'yes'; wanted 0, 1 or -1"),
        ([row(), row() + ",1"], r"line 3 has 14 values; wanted 13, as in the header 'ImageID,"),
        ([row(), "", row()[:-2]], r"line 4 has 12 values; wanted 13"),
        ([row('"' + A)], r"line 2: unexpected end of data.*quotes"),
        ([], r"no row below its header"),
    ],
)
def test_a_broken_line_is_named(read: Read, rows: list[str], message: str) -> None:
    with pytest.raises(AnnotationError, match=rf"boxes\.csv.*{message}"):
        read(*rows)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("ImageID,Source,LabelName,Confidence", r"no column XMin,.*image-level labels, which have"),
        (HEADER.replace("LabelName", "LabelName1"), r"no column LabelName\..*visual relationships"),
        ("MaskPath,ImageID,LabelName", r"segmentation masks"),
        ("ImageID,Subset,OriginalURL,Rotation", r"a list of images \(see .*rotations_path\)"),
        ("LabelName,DisplayName", r"class descriptions \(see .*classes_path\)"),
        ("/m/0cmf2,Airplane", r"class descriptions"),
        ('{"images": [', r"it is JSON"),
        (
            "image,x1,y1,x2,y2,label",
            r"no column ImageID.*'image,x1,y1,x2,y2,label'\. Wanted a head",
        ),
        (HEADER + ",XMin", r"repeats a column"),
    ],
)
def test_another_file_is_called_by_its_name(read: Read, header: str, message: str) -> None:
    with pytest.raises(AnnotationError, match=message):
        read(row(), header=header)


def test_files_that_cannot_be_begun_say_why(tmp_path: Path, read: Read) -> None:
    read(row())
    options = ReadOptions(classes_path=tmp_path / "classes.csv")
    path = tmp_path / "boxes.csv"
    for data, message in (
        (b"", r"is empty \(0 bytes\)"),
        (b"\n \n", r"is empty \(3 bytes\)"),
        (b"\x1f\x8b\x08", r"is packed \(gzip\).*\.csv file inside"),
        (b"\xff\xfeI", r"no column ImageID"),
    ):
        path.write_bytes(data)
        with pytest.raises(AnnotationError, match=message):
            read_any("openimages", path, tmp_path, options=options)
    with pytest.raises(MissingFileError, match=r"no\.csv does not exist.*boxes\.csv, classes\.csv"):
        read_any("openimages", tmp_path / "no.csv", tmp_path, options=options)
    with pytest.raises(MissingFileError, match=r"no\.csv does not exist.*annotations.classes_path"):
        read(row(), classes_path=tmp_path / "no.csv")
    with pytest.raises(ConfigError, match=r"--annotations\.classes_path"):
        read_any("openimages", path, tmp_path)
    with pytest.raises(ConfigError, match=r"--annotations\.classes_path"):
        read_openimages(Source(path=path, images_dir=tmp_path, options=ReadOptions()))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("/m/a,A\n/m/b,B,C\n", AnnotationError, r"line 2 is '/m/b,B,C'; wanted a MID and a name"),
        ("id,name\n/m/a,A\nb,B\n", AnnotationError, r"line 3 is 'b,B'"),
        ("dog\ncat\n", AnnotationError, r"line 1 is 'dog'.*classes_path"),
        ("/m/a,A\n/m/a,B\n", AnnotationError, r"line 2: /m/a already stands for 'A'"),
        ("/m/a,A\n/m/b,A\n", VocabularyError, r"'A' already occurs.*boxable"),
        ("id,name\n", VocabularyError, r"holds no name"),
    ],
)
def test_broken_class_descriptions_are_named(
    tmp_path: Path, text: str, error: type[RegionSpotError], message: str
) -> None:
    path = tmp_path / "classes.csv"
    path.write_text(text)
    with pytest.raises(error, match=rf"classes\.csv.*{message}"):
        read_classes(path)


def test_names_of_classes_may_have_commas_and_any_letters(tmp_path: Path) -> None:
    path = tmp_path / "classes.csv"
    path.write_bytes('\ufeffid,name\r\n/m/a,"Tea, hot"\r\n/m/b,caf\u00e9\r\n'.encode())
    assert read_classes(path)[1].names == ("Tea, hot", "caf\u00e9")
    path.write_bytes(b"/m/a,caf\xe9\n")
    with pytest.raises(AnnotationError, match=r"byte 8 is not UTF-8"):
        read_classes(path)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20))
def test_ids_keep_their_bits(numbers: list[int]) -> None:
    values = [f"{number:016x}".encode() for number in numbers]
    block = CsvBlock(
        path=Path("a"), columns={"ImageID": CsvColumn.from_values(values)}, lines=range(len(values))
    )
    ids = image_ids(block)
    signed = [number - 2**64 if number >= 2**63 else number for number in numbers]
    assert ids.tolist() == signed
    assert [row.tobytes() for row in id_digits(ids)] == values


@pytest.mark.parametrize("character", ["\x0b", "\x1c", "\x85", "\u2028"])
def test_only_line_breaks_end_the_line_of_a_class(tmp_path: Path, character: str) -> None:
    path = tmp_path / "classes.csv"
    path.write_bytes(f"/m/a,sea{character}egg\r\n/m/b,bee\n".encode())
    labels, vocabulary, _ = read_classes(path)
    assert labels == {b"/m/a": 0, b"/m/b": 1}
    assert vocabulary.names == (f"sea{character}egg", "bee")
