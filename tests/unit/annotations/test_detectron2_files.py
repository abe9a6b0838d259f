"""Detectron2's files; the bytes are those that ``pickle`` and ``torch.save`` write for it."""

import builtins
import os
import pickle
import sys
import tracemalloc
import types
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typing_extensions import override

from regionspot.annotations import read_detections, read_proposals
from regionspot.annotations.detectron2 import BinaryKind, binary_kind
from regionspot.annotations.numpy_pickle import ALLOWED, load_numpy_pickle
from regionspot.core.errors import AnnotationError, MissingFileError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
FLOAT32_BOXES = np.array([[1, 2, 4, 6], [0, 0, 9, 9.5]], np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "box_proposals.pkl"


@pytest.fixture
def box_mode(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[IntEnum]]:
    """Detectron2's own enumeration, there while a file is written and gone when it is read."""
    module = types.ModuleType("detectron2.structures.boxes")
    BoxMode = IntEnum(
        "BoxMode",
        {"XYXY_ABS": 0, "XYWH_ABS": 1, "XYXY_REL": 2, "XYWH_REL": 3, "XYWHA_ABS": 4},
        module=module.__name__,
    )
    vars(module)["BoxMode"] = BoxMode
    for name in ("detectron2", "detectron2.structures"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    yield BoxMode
    monkeypatch.undo()


def content(**changes: object) -> dict[str, Any]:
    return {
        "boxes": [FLOAT32_BOXES, np.zeros((0, 4), np.float32)],
        "objectness_logits": [np.array([0, 2], np.float32), np.zeros(0, np.float32)],
        "ids": [139, 285],
        "bbox_mode": 0,
    } | changes


def write(path: Path, value: object, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def results(path: Path) -> list[list[dict[str, object]]]:
    return list(read_detections(path).images)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_gives_the_best_box_first(path: Path, protocol: int) -> None:
    first, second = results(write(path, content(), protocol))
    assert [entry["bbox"] for entry in first] == [[0, 0, 9, 9.5], [1, 2, 3, 4]]
    assert [entry["image_id"] for entry in first] == [139, 139]
    np.testing.assert_allclose(
        [float(str(entry["score"])) for entry in first], [0.8807970779778823, 0.5], rtol=1e-12
    )  # 1 / (1 + e^-2) and 1 / 2
    assert second == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pickled_box_mode_needs_no_detectron2(
    path: Path, protocol: int, box_mode: type[IntEnum], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path, content(bbox_mode=box_mode["XYWH_ABS"]), protocol)
    assert b"detectron2" in path.read_bytes()
    monkeypatch.undo()
    assert "detectron2" not in sys.modules
    assert results(path)[0][1]["bbox"] == [1, 2, 4, 6]


def test_other_box_modes_are_refused_by_name(path: Path, box_mode: type[IntEnum]) -> None:
    write(path, content(bbox_mode=box_mode["XYWHA_ABS"]))
    with pytest.raises(
        AnnotationError, match=r"bbox_mode is 4 \(XYWHA_ABS\); wanted 0 \(XYXY_ABS\)"
    ):
        read_detections(path)
    for mode in (7, "xyxy", [0], None):
        with pytest.raises(AnnotationError, match=r"bbox_mode is .*; wanted 0"):
            read_detections(write(path, content(bbox_mode=mode)))


def test_older_keys_and_probabilities_are_understood(path: Path) -> None:
    value = content()
    del value["bbox_mode"]
    value["indexes"] = np.array([139, 285])
    del value["ids"]
    logits = value.pop("objectness_logits")
    value["scores"] = [np.array([0.25, 0.75]), logits[1]]
    found = read_detections(write(path, value))
    assert found.scores_were == "probabilities"
    assert [entry["score"] for entry in next(found.images)] == [0.75, 0.25]
    value["scores"] = logits
    found = read_detections(write(path, value))
    assert found.scores_were == "logits"
    assert next(found.images)[1]["score"] == 0.5


def test_logits_beyond_floats_keep_their_order(path: Path) -> None:
    """Scores of 1 and 0 after rounding, but without a warning, and the better box first."""
    logits = [np.array([-2000, 50, 2000, 60], np.float64), np.zeros(0)]
    boxes = [np.array([[n, 0, n + 1, 1] for n in range(4)]), np.zeros((0, 4))]
    first = results(write(path, content(boxes=boxes, objectness_logits=logits)))[0]
    assert [entry["bbox"][0] for entry in first if isinstance(entry["bbox"], list)] == [2, 3, 1, 0]
    assert [entry["score"] for entry in first] == [1, 1, 1, 0]


def test_ids_may_be_texts_and_numpy_numbers(path: Path) -> None:
    for ids in (["139", "000285"], [np.int64(139), np.str_("285")], (139, 285)):
        write(path, content(ids=ids, boxes=[FLOAT32_BOXES] * 2, objectness_logits=[[0, 1]] * 2))
        assert [of_image[0]["image_id"] for of_image in results(path)] == [139, 285]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], r"holds a list; wanted a dict with the keys boxes"),
        ({"boxes": []}, r"has no list ids or indexes \(keys: boxes\)"),
        (content(boxes=3), r"has no list boxes"),
        (content(ids=[1]), r"has 1 ids, 2 boxes and 2 objectness_logits; wanted one of each"),
        (content(ids=["a", "b"]), r"image 0 \(id 'a'\): the id is no whole number"),
        (content(ids=[1.5, 2]), r"image 0 \(id 1\.5\): the id is no whole number"),
        (
            content(objectness_logits=[np.zeros(3), np.zeros(0)]),
            r"image 0 \(id 139\) has boxes of shape \(2, 4\) and 3 scores; wanted \(n, 4\) and n",
        ),
        (content(boxes=[np.zeros((2, 5)), []]), r"image 0 .*shape \(2, 5\) and 2 scores"),
        (
            content(boxes=[[["a"] * 4] * 2, []]),
            r"image 0 .*boxes is .*; wanted an array of numbers",
        ),
        (content(boxes=[FLOAT32_BOXES * np.nan, []]), r"image 0 .*boxes holds NaN or infinity"),
        (content(objectness_logits=[[0, np.inf], []]), r"objectness_logits\[0\] holds NaN or inf"),
        (content(objectness_logits=[[[0], [1]], []]), r"objectness_logits\[0\] has the shape"),
    ],
)
def test_pickles_of_something_else_say_what_where_and_what_was_expected(
    path: Path, value: object, message: str
) -> None:
    with pytest.raises(AnnotationError, match=message) as raised:
        results(write(path, value))
    assert str(path) in str(raised.value)


class Calls:
    """What unpickles by calling a function."""

    def __init__(self, function: object, *args: object) -> None:
        self.function, self.args = function, args

    @override
    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return self.function, self.args


def attacks(marker: Path) -> dict[str, tuple[object, str]]:
    """Each of these would make the file ``marker``; and the name that it is refused for."""
    code = f"__import__('os').mkdir({str(marker)!r})"
    system = Calls(os.system, f"touch {marker}")
    evaluate = Calls(builtins.eval, code)
    hidden = np.empty(1, object)
    hidden[0] = evaluate
    return {
        "system": (content(boxes=system), "posix.system"),
        "eval": (content(ids=[evaluate, 285]), "builtins.eval|__builtin__.eval"),
        "object array": (content(boxes=hidden), "builtins.eval|__builtin__.eval"),
        "exec": ({"boxes": Calls(builtins.exec, code)}, "builtins.exec|__builtin__.exec"),
        "mkdir": (OrderedDict(boxes=Calls(os.mkdir, str(marker))), "posix.mkdir"),
        "getattr": (Calls(builtins.getattr, Calls(__import__, "os"), "system"), "getattr|import"),
        "numpy": (Calls(np.testing.measure, code), "numpy.testing.*measure"),
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", list(attacks(Path())))
def test_a_malicious_pickle_runs_nothing(path: Path, name: str, protocol: int) -> None:
    marker = path.with_name("was_run")
    value, refused = attacks(marker)[name]
    write(path, value, protocol)
    with pytest.raises(AnnotationError, match=rf"asks for .*({refused});.*Nothing in it was run"):
        load_numpy_pickle(path)
    with pytest.raises(AnnotationError):
        read_detections(path)
    assert not marker.exists()


@pytest.mark.parametrize("name", sorted(attacks(Path()).keys() - {"getattr"}))
def test_the_attacks_are_genuine(path: Path, name: str) -> None:
    """The oracle of the test above: plain unpickling does run them."""
    marker = path.with_name("was_run")
    pickle.loads(pickle.dumps(attacks(marker)[name][0]))  # noqa: S301 - our own attack
    assert marker.exists()


@pytest.mark.parametrize(("module", "name"), ALLOWED)
@pytest.mark.parametrize("attribute", ["__defaults__", "new"])
def test_a_pickle_cannot_change_what_it_may_name(
    path: Path, module: str, name: str, attribute: str
) -> None:
    state = b"N}U" + bytes([len(attribute)]) + attribute.encode() + b"K\x01\x85s\x86"
    path.write_bytes(b"\x80\x02" + f"c{module}\n{name}\n".encode() + state + b"b.")
    with pytest.raises(AnnotationError, match=r"cannot be unpickled \(TypeError: state is set of"):
        load_numpy_pickle(path)


@pytest.mark.parametrize(
    "data", [b"\x80\x02", b"\x80\x04K\x05", b"\x80\x02(K\x01e.", b"\x80\x03cX\n"]
)
def test_a_damaged_pickle_is_called_one(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(AnnotationError, match=r"box_proposals\.pkl cannot be unpickled"):
        read_detections(path)


def test_every_cut_of_a_pickle_is_an_error_of_ours(path: Path) -> None:
    whole = pickle.dumps(content(), 4)
    for length in range(2, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(AnnotationError):
            read_detections(path)


def test_arrays_pickled_by_python_2_are_read(path: Path) -> None:
    # What cPickle of Python 2.7 and numpy 1.16 write at protocol 2 for [float32 array (1, 4)]:
    # bytes as text, and numbers for the two flags of a dtype.
    data = np.array([[1, 2, 4, 6]], "<f4").tobytes()
    dtype = (
        b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01K\x04\x86" + dtype + b"\x89U" + bytes([len(data)]) + data + b"tb"
    )
    path.write_bytes(b"\x80\x02]" + array + b"a.")
    value = load_numpy_pickle(path)
    assert isinstance(value, list)
    np.testing.assert_array_equal(value[0], np.array([[1, 2, 4, 6]], np.float32))


def dtype_with(code: str, state: str) -> bytes:
    """A dtype of this code with this state, given as instructions of protocol 0 and 2."""
    made = f"cnumpy\ndtype\nX\x02\0\0\0{code}K\0K\1\x87R"
    return made.encode("latin-1") + f"({state}tb".encode("latin-1")


def array_with(dtype: bytes, data: bytes, shape: bytes = b"K\1\x85") -> bytes:
    """An array of this type, shape and data, as protocol 3 spells it."""
    reconstruct = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\1b\x87R"
    return reconstruct + b"(K\1" + shape + dtype + b"\x89" + data + b"tb"


EIGHT_BYTES = b"C\x08ABCDEFGH"
PLAIN = dtype_with("f8", "K\3X\1\0\0\0<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0")
HOSTILE = {
    # numpy takes these eight bytes for the address of a Python object.
    "objects by a letter": array_with(dtype_with("O8", "K\3X\1\0\0\0|NNNK\x08K\1K\0"), EIGHT_BYTES),
    "objects by a field": array_with(
        dtype_with(
            "V8",
            "K\3X\1\0\0\0|NX\1\0\0\0a\x85}X\1\0\0\0acnumpy\ndtype\nX\2\0\0\0O8\x85RK\0\x86sK\x08K\1K\0",
        ),
        EIGHT_BYTES,
    ),
    "a subarray": array_with(
        dtype_with("V8", "K\3X\1\0\0\0|cnumpy\ndtype\nX\2\0\0\0f4\x85RK\2\x85\x86NNK\x08K\1K\0"),
        EIGHT_BYTES,
    ),
    "more numbers than bytes": array_with(PLAIN, EIGHT_BYTES, b"J\xff\xff\xff\x7f\x85"),
    "a negative shape": array_with(PLAIN, EIGHT_BYTES, b"J\xff\xff\xff\xff\x85"),
    "a memo of 8 GB": b"Nr\xff\xff\xff\x1f",
    "text of 2^62 bytes": b"\x8d" + (1 << 62).to_bytes(8, "little"),
    "bytes of 2^62": b"\x8e" + (1 << 62).to_bytes(8, "little"),
    "a bytearray of 2^62": b"\x96" + (1 << 62).to_bytes(8, "little"),
    "a number of 2 GB": b"\x8b" + (2**31 - 1).to_bytes(4, "little"),
    "a persistent id": b"Pabc\n",
    "an extension": b"\x82\x01",
    "an object": b"cnumpy\ndtype\n)\x81",
    "a call of a value": b"N)R",
    "bytes of a size": b"c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R",
    "packed text": b"c_codecs\nencode\nX\1\0\0\0aX\4\0\0\0zlib\x86R",
    "a list 100,000 deep": b"]" * 100_000 + b"a" * 99_999,
    "lists that hold each other": b"]q\0" + b"](" + b"h\0" * 9 + b"e" + b"](\x8e",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_pickle_made_to_crash_or_fill_the_memory_is_refused(path: Path, name: str) -> None:
    # A dict of one image: these boxes, the id 1, no scores.
    front, back = b"}(X\5\0\0\0boxes](", b"eX\3\0\0\0ids]K\1aX\6\0\0\0scores]]au."
    path.write_bytes(b"\x80\x03" + front + HOSTILE[name] + back)
    tracemalloc.start()
    with pytest.raises(AnnotationError, match=r"box_proposals\.pkl"):
        results(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64e6


@pytest.mark.parametrize("field", ["ids", "boxes", "objectness_logits"])
def test_lists_within_lists_are_refused_at_once(path: Path, field: str) -> None:
    """Ten lists, of which each holds the next one ten times: 10^10 numbers, and a deep one."""
    wide: list[Any] = [0.0]
    deep: list[Any] = []
    for _ in range(10):
        wide = [wide] * 10
    for _ in range(150):
        deep = [deep]
    for value in (wide, deep):
        with pytest.raises(AnnotationError, match=r"no whole number|wanted an array of numbers"):
            results(write(path, content(**{field: [value, value]})))


def test_an_array_given_to_a_million_images_is_refused(path: Path) -> None:
    boxes, logits = np.zeros((50, 4), np.float32), np.zeros(50, np.float32)
    value = content(boxes=[boxes] * 1000, objectness_logits=[logits] * 1000, ids=[1] * 1000)
    with pytest.raises(AnnotationError, match=r"more numbers than it has bytes"):
        read_detections(write(path, value))


def test_bytes_that_become_an_array_again_and_again_are_refused(path: Path) -> None:
    data = b"C\x08ABCDEFGHq\1"
    again = b"".join(array_with(PLAIN, b"h\1") for _ in range(10))
    path.write_bytes(b"\x80\x03](" + data + again + b"e.")
    assert isinstance(load_numpy_pickle(path), list)  # shorter than its instructions
    data = b"B" + (4000).to_bytes(4, "little") + bytes(4000) + b"q\1"
    again = b"".join(array_with(PLAIN, b"h\1", b"M\xf4\1\x85") for _ in range(10))
    path.write_bytes(b"\x80\x03](" + data + again + b"e.")
    with pytest.raises(AnnotationError, match=r"the same bytes again and again"):
        load_numpy_pickle(path)


def test_a_number_too_long_to_print_is_refused(path: Path) -> None:
    write(path, content(bbox_mode=10**5000))
    with pytest.raises(AnnotationError, match=r"bbox_mode is a int too large to show; wanted 0"):
        read_detections(path)


INSTANCE = {"image_id": 42, "category_id": 3, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5}


@pytest.mark.parametrize("is_zip", [True, False])
def test_predictions_of_a_coco_evaluator_are_read(tmp_path: Path, is_zip: bool) -> None:  # noqa: FBT001 - a parameter
    path = tmp_path / "instances_predictions.pth"
    mask = {"size": [4, 4], "counts": "0[{"}
    value = [
        {"image_id": 42, "instances": [{**INSTANCE, "segmentation": mask}]},
        {"image_id": 43, "instances": []},
    ]
    torch.save(value, path, _use_new_zipfile_serialization=is_zip)
    assert binary_kind(path) is BinaryKind.TORCH
    assert results(path) == [[INSTANCE], []]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"model": 1}, r"holds a dict; wanted a list of \{\"image_id\""),
        ([{"image_id": 42}], r"entry 0 is .*; wanted a dict with a list instances"),
        ([3], r"entry 0 is 3; wanted a dict"),
        ([{"instances": [INSTANCE, {"bbox": []}]}], r"entry 0: instances\[1\] has no image_id and"),
        ([{"instances": [None]}], r"entry 0: instances\[0\] is None; wanted a dict"),
    ],
)
def test_predictions_of_something_else_say_what_and_where(
    tmp_path: Path, value: object, message: str
) -> None:
    path = tmp_path / "predictions.pth"
    torch.save(value, path)
    with pytest.raises(AnnotationError, match=message):
        results(path)


@pytest.mark.parametrize("is_zip", [True, False])
def test_malicious_predictions_run_nothing(tmp_path: Path, is_zip: bool) -> None:  # noqa: FBT001 - a parameter
    path, marker = tmp_path / "predictions.pth", tmp_path / "was_run"
    attack = [{"image_id": 42, "instances": [Calls(os.system, f"touch {marker}")]}]
    torch.save(attack, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(AnnotationError, match=r"asks for posix\.system.*Nothing in it was run"):
        results(path)
    assert not marker.exists()


def test_packed_predictions_are_refused(tmp_path: Path) -> None:
    """Torch packs nothing, and a packed file of 1 MB may hold a gigabyte."""
    path = tmp_path / "predictions.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("predictions/data.pkl", pickle.dumps([b"0" * 1_000_000]))
    with pytest.raises(AnnotationError, match=r"is packed; wanted instances_predictions\.pth"):
        results(path)


def test_predictions_with_boxes_within_boxes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "predictions.pth"
    wide: list[Any] = [0.0]
    for _ in range(10):
        wide = [wide] * 4
    torch.save([{"image_id": 42, "instances": [{**INSTANCE, "bbox": wide}]}], path)
    with pytest.raises(AnnotationError, match=r"instances\[0\]\.bbox is .*; wanted plain numbers"):
        results(path)


def test_cut_predictions_are_called_so(tmp_path: Path) -> None:
    path = tmp_path / "predictions.pth"
    torch.save([{"image_id": 42, "instances": [INSTANCE]}], path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(AnnotationError, match=r"predictions\.pth cannot be loaded.*cut off"):
        results(path)


def test_other_files_are_of_no_kind(tmp_path: Path) -> None:
    path = tmp_path / "proposals.json"
    path.write_text("[]")
    with pytest.raises(AnnotationError, match=r"neither a pickle nor .*JSON need no conversion"):
        read_detections(path)
    with pytest.raises(MissingFileError, match=r"nowhere\.pkl does not exist"):
        read_detections(tmp_path / "nowhere.pkl")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("proposals.json", "[]")
    assert binary_kind(tmp_path / "a.zip") is None
    with pytest.raises(AnnotationError, match=r"is packed \(zip\).*--proposals\.path"):
        read_proposals(tmp_path / "a.zip")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pickle_given_as_proposals_names_the_command_that_converts_it(
    path: Path, protocol: int
) -> None:
    write(path, content(), protocol)
    with pytest.raises(
        AnnotationError,
        match=r"a pickle, as Detectron2 .*: regionspot convert-proposals .*\.pkl box_.*\.json",
    ):
        read_proposals(path)
    torch.save([], path)
    with pytest.raises(AnnotationError, match=r"a file of torch\.save.*convert-proposals"):
        read_proposals(path)
