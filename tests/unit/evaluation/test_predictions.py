import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from regionspot.core.errors import AnnotationError, MissingFileError, ShapeError
from regionspot.scoring import Predictions, read_results_file

RESULT = '[{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}]'


def predictions(*rows: tuple[int, int, tuple[float, float, float, float], float]) -> Predictions:
    return Predictions(
        image_ids=np.array([row[0] for row in rows], np.int64),
        category_ids=np.array([row[1] for row in rows], np.int64),
        boxes_xywh=np.array([row[2] for row in rows], np.float64).reshape(-1, 4),
        scores=np.array([row[3] for row in rows], np.float64),
    )


def test_the_file_is_the_lvis_results_format(tmp_path: Path) -> None:
    path = tmp_path / "new" / "predictions.json"
    predictions((7, 3, (1.5, 2, 30, 40.25), 0.5), (9, 1, (0, 0, 4, 5), 0.25)).write_lvis_json(path)
    assert json.loads(path.read_text()) == [
        {"image_id": 7, "category_id": 3, "bbox": [1.5, 2.0, 30.0, 40.25], "score": 0.5},
        {"image_id": 9, "category_id": 1, "bbox": [0.0, 0.0, 4.0, 5.0], "score": 0.25},
    ]


numbers = st.floats(-1e6, 1e6)
rows = st.tuples(
    st.integers(0, 2**62), st.integers(0, 9999), st.tuples(*[numbers] * 4), st.floats(0, 1)
)


@given(st.lists(rows, max_size=9))
def test_reading_gives_back_exactly_what_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: list[tuple[int, int, tuple[float, float, float, float], float]],
) -> None:
    path = tmp_path_factory.mktemp("results") / "predictions.json"
    written = predictions(*drawn)
    written.write_lvis_json(path)
    read = Predictions.read_lvis_json(path)
    for name in ("image_ids", "category_ids", "boxes_xywh", "scores"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))


def test_no_predictions_make_an_empty_list(tmp_path: Path) -> None:
    Predictions.empty().write_lvis_json(tmp_path / "none.json")
    assert json.loads((tmp_path / "none.json").read_text()) == []
    assert len(Predictions.read_lvis_json(tmp_path / "none.json")) == 0


def test_a_files_further_keys_and_masks_are_ignored(tmp_path: Path) -> None:
    entry = {
        "image_id": 1,
        "category_id": 2,
        "bbox": [0, 0, 3, 4],
        "score": 1,
        "segmentation": {"size": [9, 9], "counts": "abc"},
        "area": 12,
    }
    path = tmp_path / "masks.json"
    path.write_text(json.dumps([entry]))
    read = Predictions.read_lvis_json(path)
    assert read.boxes_xywh.tolist() == [[0, 0, 3, 4]]


EMPTY_MASK = {"size": [4, 5], "counts": "d0"}
MASK = {"size": [4, 5], "counts": "04`0"}
MASKS: list[dict[str, Any]] = [
    {"image_id": 2**53 + 1, "category_id": 2, "segmentation": MASK, "score": 0.1},
    {"image_id": 9, "category_id": 1, "segmentation": MASK, "score": 0.25, "bbox": None},
    {"image_id": 9, "category_id": 3, "segmentation": EMPTY_MASK, "score": 1, "area": 3},
]


@pytest.mark.parametrize("extra", [[], [{**MASKS[1], "image_id": 7.0}]], ids=["typed", "careful"])
def test_masks_are_read_as_pycocotools_reads_them(
    tmp_path: Path, extra: list[dict[str, Any]]
) -> None:
    path = tmp_path / "masks.json"
    path.write_text(json.dumps([*MASKS, *extra]))
    read = Predictions.read_lvis_json(path, iou_type="segm")
    assert read.image_ids.tolist() == [2**53 + 1, 9, 9, *([7] if extra else [])]
    assert read.scores.tolist()[:3] == [0.1, 0.25, 1]
    assert read.masks is not None
    for row, entry in enumerate([*MASKS, *extra]):
        found = {"size": read.masks.sizes_hw[row].tolist(), "counts": read.masks.counts[row]}
        assert found == {**entry["segmentation"], "counts": found["counts"]}
        np.testing.assert_array_equal(
            coco_mask.decode(found), coco_mask.decode(entry["segmentation"])
        )
        assert read.boxes_xywh[row].tolist() == coco_mask.toBbox(entry["segmentation"]).tolist()
    assert read.masks.areas().tolist()[:3] == [4, 4, 0]


def test_masks_that_are_written_are_read_back(tmp_path: Path) -> None:
    (tmp_path / "masks.json").write_text(json.dumps(MASKS))
    read = Predictions.read_lvis_json(tmp_path / "masks.json", iou_type="segm")
    read.write_lvis_json(tmp_path / "again.json")
    again = Predictions.read_lvis_json(tmp_path / "again.json", iou_type="segm")
    assert read.masks is not None
    assert again.masks is not None
    assert again.masks.counts.tolist() == read.masks.counts.tolist()
    assert again.masks.sizes_hw.tolist() == read.masks.sizes_hw.tolist()
    assert again.scores.tolist() == read.scores.tolist()
    assert again.num_repeated() == 0


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"size": [4, 5], "counts": "04`1"}, "mask of entry 1, .*04`1.*, does not describe"),
        ({"size": [4, 5], "counts": "\u00e9"}, "does not describe"),
        ({"size": [-4, -5], "counts": "04`0"}, "does not describe"),
        ({"size": [2**33, 2**33], "counts": "04`0"}, "does not describe"),
        ({"size": [4, 5], "counts": [0, 20]}, "not a compressed RLE"),
        ([[0, 0, 1, 0, 1, 1]], "not a compressed RLE"),
        (None, "not a compressed RLE"),
    ],
)
def test_masks_that_are_none_are_refused(tmp_path: Path, mask: object, message: str) -> None:
    path = tmp_path / "masks.json"
    path.write_text(json.dumps([MASKS[0], {**MASKS[1], "segmentation": mask}]))
    with pytest.raises(AnnotationError, match=message):
        Predictions.read_lvis_json(path, iou_type="segm")


def test_boxes_are_no_masks(tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(RESULT)
    with pytest.raises(AnnotationError, match=r"lacks \['segmentation'\].*\"size\": \[height"):
        Predictions.read_lvis_json(path, iou_type="segm")


@pytest.mark.parametrize("image_id", ["1", "1.0"], ids=["typed", "careful"])
@pytest.mark.parametrize("name", ["annotations", "results"])
def test_a_file_may_name_its_categories(tmp_path: Path, name: str, image_id: str) -> None:
    path = tmp_path / "named.json"
    rows = RESULT.replace('"image_id": 1', f'"image_id": {image_id}')
    path.write_text(
        f'{{"info": {{"a": 1}}, "{name}": {rows},'
        ' "categories": [{"id": 2, "name": "sea egg", "image_count": 3}]}'
    )
    read = read_results_file(path)
    assert read.categories == {2: "sea egg"}
    assert (read.image_ids.tolist(), read.scores.tolist()) == ([1], [0.5])
    path.write_text(rows)
    assert read_results_file(path).categories is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "not JSON"),
        ('{"annotations": [{"id": 1}]}', r"lacks \['image_id'"),
        ('{"images": []}', "no list of results"),
        ('{"annotations": [], "results": []}', "no list of results"),
        ('{"results": [], "categories": [{"id": 1}]}', "categories are no list"),
        ("[[1, 2]]", "no list of results"),
        ("3", "no list of results"),
        ('[{"image_id": 1, "category_id": 2, "bbox": [1, 2], "score": 1}]', "not four numbers"),
        ('[{"image_id": 1, "category_id": 2, "score": 1}]', r"lacks \['bbox'\]"),
        ('[{"image_id": "a", "category_id": 2, "bbox": [0,0,1,1], "score": 1}]', "not a number"),
    ],
)
def test_other_files_are_refused_with_the_format_wanted(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(AnnotationError, match=message):
        Predictions.read_lvis_json(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"nothing\.json"):
        Predictions.read_lvis_json(tmp_path / "nothing.json")


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ShapeError, match="columns of shapes"):
        Predictions(
            image_ids=np.zeros(2, np.int64),
            category_ids=np.zeros(1, np.int64),
            boxes_xywh=np.zeros((2, 4)),
            scores=np.zeros(2),
        )


def test_scores_that_are_nan_are_refused() -> None:
    with pytest.raises(ShapeError, match="not finite"):
        predictions((1, 1, (0, 0, 1, 1), float("nan")))


def test_many_rows_are_written_as_one_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regionspot.scoring.predictions._WRITE_ROWS", 2)
    predictions(*[(i, 1, (0, 0, 1, 1), 0.5) for i in range(5)]).write_lvis_json(tmp_path / "a.json")
    assert [row["image_id"] for row in json.loads((tmp_path / "a.json").read_text())] == [*range(5)]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '[{"image_id": ' + "9" * 5000 + "}]",
        "\xff",
        RESULT.replace('"image_id": 1', '"image_id": 18446744073709551616'),
        RESULT.replace('"image_id": 1', '"image_id": 1.5'),
        RESULT.replace('"category_id": 2', '"category_id": 1e300'),
        RESULT.replace('"score": 0.5', f'"score": 1{"0" * 400}'),
    ],
)
def test_a_results_file_with_numbers_or_nests_that_cannot_be_is_an_error_of_the_file(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(AnnotationError, match=r"results\.json (is not JSON|holds a number)"):
        Predictions.read_lvis_json(path)


def test_ids_as_float_tables_write_them_are_whole_numbers(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(RESULT.replace('"image_id": 1', '"image_id": 1.0'))
    assert Predictions.read_lvis_json(path).image_ids.tolist() == [1]


def test_repeated_rows_are_counted() -> None:
    row = (7, 3, (1.5, 2.0, 30.0, 40.25), 0.5)
    assert predictions(row, row, (8, *row[1:]), (*row[:3], 0.25), row).num_repeated() == 2
    assert Predictions.empty().num_repeated() == 0


def test_every_number_is_read_as_json_reads_it(tmp_path: Path) -> None:
    """Both readers, the typed one and the one that finds faults, against `json.loads`."""
    rows = [
        {"image_id": 2**53 + 1, "category_id": 1, "bbox": [0.1, 1e-7, 3, 1e5], "score": 0.1},
        {"image_id": 1, "category_id": 2, "bbox": [1, 2, 3.5, 4], "score": 1, "extra": [None]},
    ]
    for extra in ({}, {"image_id": 3.0, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}):
        wanted = [*rows, *([extra] if extra else [])]
        path = tmp_path / "results.json"
        path.write_text(json.dumps(wanted))
        read = Predictions.read_lvis_json(path)
        assert read.image_ids.tolist() == [row["image_id"] for row in wanted]
        assert read.boxes_xywh.tolist() == [row["bbox"] for row in wanted]
        assert read.scores.tolist() == [row["score"] for row in wanted]
