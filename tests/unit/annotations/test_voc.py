"""Pascal VOC's XML files; torchvision's own parser of them is the oracle."""

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import VOCDetection

from regionspot.annotations import AnnotatedImages, ReadOptions, Reason, read_annotations
from regionspot.core.errors import AnnotationError, ConfigError, MissingFileError

OBJECT = """
  <object>
    <name>{name}</name><pose>Left</pose><truncated>{truncated}</truncated>
    <difficult>{difficult}</difficult>
    <bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>
    <part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox>
    </part>
  </object>"""


def an_object(name: str, *box: float, truncated: int = 0, difficult: int = 0) -> str:
    x1, y1, x2, y2 = box
    return OBJECT.format(
        name=name, x1=x1, y1=y1, x2=x2, y2=y2, truncated=truncated, difficult=difficult
    )


def write(root: Path, stem: str, *objects: str, size: str = "50 40", head: str = "") -> Path:
    width, height = size.split()
    path = root / "Annotations" / f"{stem}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"{head}<annotation><folder>VOC</folder><filename>{stem}.jpg</filename><size>"
        f"<width>{width}</width><height>{height}</height><depth>3</depth></size>"
        f"{''.join(objects)}\n</annotation>",
        encoding="utf-8",
    )
    return path


def read(root: Path, split: str | None = None, classes_path: Path | None = None) -> AnnotatedImages:
    return read_annotations(
        "voc", root, root, options=ReadOptions(split=split, classes_path=classes_path)
    )


def test_regions_are_those_of_torchvisions_parser_counted_from_1(tmp_path: Path) -> None:
    path = write(
        tmp_path, "b", an_object("dog", 1, 1, 50, 40), an_object("cat", 3, 4, 8, 9, truncated=1)
    )
    write(tmp_path, "a", an_object("dog", 2, 3, 10, 20.5, difficult=1))
    write(tmp_path, "c")
    data = read(tmp_path)
    parsed = VOCDetection.parse_voc_xml(ET.parse(path).getroot())["annotation"]  # noqa: S314
    first, second, empty = data.records
    assert [data.vocabulary[label] for label in second.labels] == [
        one["name"] for one in parsed["object"]
    ]
    corners = [
        [float(one["bndbox"][side]) for side in ("xmin", "ymin", "xmax", "ymax")]
        for one in parsed["object"]
    ]
    assert np.array_equal(second.boxes_xyxy, np.array(corners) - [1, 1, 0, 0])
    assert second.boxes_xyxy[0].tolist() == [0, 0, 50, 40], "the whole image"
    assert second.annotated_size_hw == (40, 50)
    assert (second.file_name, second.image_id) == (parsed["filename"], 1)
    assert first.boxes_xyxy.tolist() == [[1, 2, 10, 20.5]]
    assert len(empty.labels) == 0
    assert data.vocabulary.names == ("cat", "dog")
    assert data.report.notes == (
        "1 objects are difficult (kept)",
        "1 objects are truncated (kept)",
    )


def test_a_split_has_the_classes_and_ids_of_all_files(tmp_path: Path) -> None:
    for stem, name in (("a", "dog"), ("b", "cat"), ("c", "cow")):
        write(tmp_path, stem, an_object(name, 1, 1, 9, 9))
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("c\nb\n")
    data = read(tmp_path, "val")
    assert [(one.file_name, one.image_id) for one in data.records] == [("b.jpg", 1), ("c.jpg", 2)]
    assert data.vocabulary.names == ("cat", "cow", "dog")
    with pytest.raises(ConfigError, match=r"split is test, but there is no .*test\.txt"):
        read(tmp_path, "test")
    (lists / "val.txt").write_text("b\nd\n")
    with pytest.raises(AnnotationError, match=r"val\.txt, line 2: there is no .*d\.xml"):
        read(tmp_path, "val")


def test_a_list_of_classes_gives_the_vocabulary(tmp_path: Path) -> None:
    write(tmp_path, "a", an_object("dog", 1, 1, 9, 9), an_object("cow", 1, 1, 9, 9))
    classes = tmp_path / "classes.txt"
    classes.write_text("dog\ncat\n")
    data = read(tmp_path, classes_path=classes)
    assert data.vocabulary.names == ("dog", "cat")
    assert data.report.dropped_for(Reason.UNKNOWN_CATEGORY) == 1


def test_a_size_of_0_is_unknown(tmp_path: Path) -> None:
    write(tmp_path, "a", an_object("dog", 1, 1, 99, 99), size="0 0")
    (record,) = read(tmp_path).records
    assert record.annotated_size_hw is None
    assert record.resolved((20, 30)).record.boxes_xyxy.tolist() == [[0, 0, 30, 20]]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<xmax>9</xmax>", "<xmax>x</xmax>", r"a\.xml, line 2: xmax of .*'x'; wanted a number"),
        ("<xmax>9</xmax>", "", r"a\.xml, line 2: xmax of .*None"),
        ("<name>dog</name>", "", r"a\.xml, line 2: the object has no <name>"),
        ("</annotation>", "", r"a\.xml, line \d+ is not XML \(no element found\)"),
        ("<filename>a.jpg</filename>", "", "no <filename>"),
        ("annotation>", "CoCo>", "root <CoCo>; wanted <annotation>"),
        ("<height>40</height>", "<height>forty</height>", "size of the image is forty x 50"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = write(tmp_path, "a", an_object("dog", 1, 1, 9, 9))
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(AnnotationError, match=message):
        read(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    head = '<!DOCTYPE x [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;">]>'
    path = write(tmp_path, "a", an_object("&b;", 1, 1, 9, 9), head=head)
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    with pytest.raises(AnnotationError, match="has a document type"):
        read(tmp_path)


def test_two_files_of_one_image_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "a", an_object("dog", 1, 1, 9, 9))
    text = (tmp_path / "Annotations" / "a.xml").read_text(encoding="utf-8")
    (tmp_path / "Annotations" / "b.xml").write_text(text, encoding="utf-8")
    with pytest.raises(AnnotationError, match=r"both have the <filename> a\.jpg"):
        read(tmp_path)


def test_other_places_are_explained(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="gone does not exist"):
        read_annotations("voc", tmp_path / "gone", tmp_path)
    with pytest.raises(AnnotationError, match="holds no XML file"):
        read(tmp_path)
    (tmp_path / "a.csv").write_text("image,x1,y1,x2,y2,label")
    with pytest.raises(AnnotationError, match="may be in the format csv"):
        read_annotations("voc", tmp_path / "a.csv", tmp_path)
