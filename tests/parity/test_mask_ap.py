"""Mask AP against `lvis.LVISEval` and pycocotools' `COCOeval` with iou_type segm, bit-equal."""

import io
import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from regionspot.annotations import CocoMasks
from regionspot.core.errors import AnnotationError, ConfigError
from regionspot.core.rle_masks import RleMasks
from regionspot.scoring import (
    CocoGroundTruth,
    CocoScorer,
    LvisGroundTruth,
    LvisScorer,
    Predictions,
    draw_figures,
    score_lvis,
)
from regionspot.scoring.lvis_reference import reference_lvis_figures, run_reference

DATA = Path(__file__).parents[1] / "data"
LVIS_FILE, COCO_FILE = DATA / "lvis" / "ground_truth.json", DATA / "coco" / "instances.json"


@dataclass(frozen=True, kw_only=True)
class World:
    """How a small random data set is drawn."""

    seed: int = 0
    num_images: int = 10
    num_categories: int = 8
    predictions_per_image: int = 40
    score_decimals: int = 6
    share_without_predictions: float = 0.0
    categories_never_annotated: int = 0
    share_ignored: float = 0.0
    share_crowds: float = 0.0


WORLDS = {
    "plain": World(),
    "tied scores": World(seed=1, score_decimals=1),
    "all scores equal": World(seed=2, score_decimals=0),
    "more than 300 predictions an image": World(
        seed=3, num_images=2, predictions_per_image=420, score_decimals=2
    ),
    "images without predictions": World(seed=4, share_without_predictions=0.5),
    "categories without ground truth": World(seed=5, categories_never_annotated=4),
    "ignored annotations": World(seed=6, share_ignored=0.4),
    "crowds": World(seed=7, share_crowds=0.4, score_decimals=1),
}

SIZE_HW = (90, 120)


@pytest.fixture(params=sorted(WORLDS))
def world(request: pytest.FixtureRequest) -> World:
    return WORLDS[request.param]


def draw(world: World, folder: Path) -> tuple[Path, Predictions]:
    """Draw a file of polygons and RLEs of both kinds, and masks that hit, nearly hit and miss."""
    generator = np.random.default_rng(world.seed)
    category_ids = np.arange(1, world.num_categories + 1) * 3
    annotated = category_ids[: world.num_categories - world.categories_never_annotated]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(world.num_images):
        chosen = generator.permutation(category_ids)
        images.append(
            {
                "id": 1000 + 7 * index,
                "height": SIZE_HW[0],
                "width": SIZE_HW[1],
                "neg_category_ids": np.setdiff1d(chosen[:3], annotated).tolist(),
                "not_exhaustive_category_ids": chosen[3:4].tolist(),
            }
        )
        for _ in range(int(generator.integers(2, 7))):
            segmentation = drawn_segmentation(generator)
            rle = as_rle(segmentation)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": images[-1]["id"],
                    "category_id": int(generator.choice(annotated)),
                    "segmentation": segmentation,
                    "bbox": coco_mask.toBbox(rle).tolist(),
                    # As in real files, not quite that of the pixels.
                    "area": float(coco_mask.area(rle)) * 1.01 + 0.1,
                    "ignore": int(generator.random() < world.share_ignored),
                    "iscrowd": int(generator.random() < world.share_crowds),
                }
            )
    categories = [
        {"id": int(number), "name": f"class {number}", "frequency": "rcf"[index % 3]}
        for index, number in enumerate(category_ids)
    ]
    path = folder / "annotations.json"
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
    return path, predictions_near(
        path,
        generator,
        count=world.predictions_per_image,
        score_decimals=world.score_decimals,
        share_without=world.share_without_predictions,
    )


def drawn_segmentation(generator: np.random.Generator) -> Any:
    height, width = SIZE_HW
    side = generator.choice([8.0, 30.0, 60.0], 2)
    x, y = generator.random(2) * ([width, height] - side)
    right, low = x + side[0], y + side[1]
    corners = np.array([x, y, right, y, right, low, x + side[0] / 3, low])
    polygon = (corners + generator.normal(0, 1, 8)).round(2).tolist()
    kind = generator.integers(4)
    if kind == 0:
        return [polygon, [value + 4 for value in polygon]]
    if kind == 1:
        return [polygon]
    rle = as_rle([polygon])
    if kind == 2:
        return {"size": list(SIZE_HW), "counts": rle["counts"].decode()}
    pixels = np.asarray(coco_mask.decode(rle)).T.ravel()
    turns = np.flatnonzero(np.diff(np.concatenate([[0], pixels])))
    runs = np.diff(np.concatenate([[0], turns, [pixels.size]]))
    return {"size": list(SIZE_HW), "counts": runs.tolist()}


def as_rle(segmentation: Any, size_hw: tuple[int, int] = SIZE_HW) -> dict[str, Any]:
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, *size_hw))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, *size_hw)
    return {"size": list(size_hw), "counts": segmentation["counts"].encode()}


def predictions_near(
    path: Path,
    generator: np.random.Generator,
    *,
    count: int,
    score_decimals: int,
    share_without: float = 0.0,
) -> Predictions:
    """Draw masks near those of a file, ``count`` an image, some empty or of other classes."""
    content = json.loads(path.read_text())
    category_ids = [category["id"] for category in content["categories"]]
    rows = []
    for image in content["images"]:
        own = [entry for entry in content["annotations"] if entry["image_id"] == image["id"]]
        if not own or generator.random() < share_without:
            continue
        size_hw = (image["height"], image["width"])
        pixels = [coco_mask.decode(as_rle(entry["segmentation"], size_hw)) for entry in own]
        for _ in range(count):
            chosen = int(generator.integers(len(own)))
            shift = generator.choice([0, 0, 1, 3], 2)
            moved = np.roll(np.asarray(pixels[chosen], np.uint8), shift, axis=(0, 1))
            if generator.random() < 0.03:
                moved = moved * 0
            is_right = generator.random() < 0.7
            rows.append(
                (
                    image["id"],
                    own[chosen]["category_id"] if is_right else int(generator.choice(category_ids)),
                    coco_mask.encode(np.asfortranarray(moved))["counts"],
                    size_hw,
                    round(float(generator.random()), score_decimals),
                )
            )
    masks = RleMasks.of_lists([row[2] for row in rows], [row[3] for row in rows])
    return Predictions(
        image_ids=np.array([row[0] for row in rows], np.int64),
        category_ids=np.array([row[1] for row in rows], np.int64),
        boxes_xywh=masks.boxes_xywh(),
        scores=np.array([row[4] for row in rows], np.float64),
        masks=masks,
    )


def assert_equal_to_lvis(annotations: Path, predictions: Predictions) -> None:
    theirs = reference_lvis_figures(annotations, predictions)
    wanted = {
        name.removesuffix("@300"): None if value == -1 else 100 * value
        for name, value in theirs.items()
    }
    ours = score_lvis(annotations, predictions, iou_type="segm")
    assert ours.figures() == wanted
    assert score_lvis(annotations, predictions, iou_type="segm", scorer="reference") == ours


def test_lvis_figures_are_those_of_lvis(world: World, tmp_path: Path) -> None:
    assert_equal_to_lvis(*draw(world, tmp_path))


def test_lvis_curves_are_those_of_lvis(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotations, predictions = draw(world, tmp_path)
    seen: list[NDArray[np.float64]] = []
    summarize = LvisScorer._summarize

    def spy(scorer: LvisScorer, *curves: NDArray[np.float64]) -> Any:
        seen.extend(curves)
        return summarize(scorer, *curves)

    monkeypatch.setattr(LvisScorer, "_summarize", spy)
    score_lvis(annotations, predictions, iou_type="segm")
    reference = run_reference(annotations, predictions).eval
    np.testing.assert_array_equal(seen[0], reference["precision"])
    np.testing.assert_array_equal(seen[1], reference["recall"])


@pytest.mark.parametrize("score_decimals", [1, 6])
def test_the_lvis_sample_file_is_scored_as_by_lvis(score_decimals: int) -> None:
    generator = np.random.default_rng(5)
    predictions = predictions_near(
        LVIS_FILE, generator, count=20, score_decimals=score_decimals, share_without=0.2
    )
    assert_equal_to_lvis(LVIS_FILE, predictions)


def test_an_annotation_with_the_id_0_is_found_by_none_as_in_lvis(tmp_path: Path) -> None:
    path, predictions = draw(World(seed=9), tmp_path)
    content = json.loads(path.read_text())
    content["annotations"][0]["id"] = 0
    path.write_text(json.dumps(content))
    assert_equal_to_lvis(path, predictions)


def by_pycocotools(path: Path, predictions: Predictions) -> tuple[dict[str, float | None], Any]:
    assert predictions.masks is not None
    with redirect_stdout(io.StringIO()):
        annotated = COCO(str(path))
        found = annotated.loadRes(
            [
                {
                    "image_id": int(predictions.image_ids[row]),
                    "category_id": int(predictions.category_ids[row]),
                    "score": float(predictions.scores[row]),
                    "segmentation": mask,
                }
                for row, mask in enumerate(predictions.masks.to_coco())
            ]
        )
        evaluation = COCOeval(annotated, found, "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "", "", "AR", "ARs", "ARm", "ARl")
    figures = {
        name: None if value == -1 else 100 * float(value)
        for name, value in zip(names, evaluation.stats, strict=True)
        if name
    }
    return figures, evaluation.eval


def coco_truth(path: Path) -> CocoGroundTruth:
    found = CocoMasks.read(path)
    return CocoGroundTruth.of_masks(found, found.sizes_hw)


def assert_equal_to_pycocotools(path: Path, predictions: Predictions) -> None:
    wanted, curves = by_pycocotools(path, predictions)
    truth = coco_truth(path)
    ours = CocoScorer(truth, iou_type="segm").score(predictions)
    assert ours.figures() == wanted
    assert CocoScorer(truth, iou_type="segm", scorer="reference").score(predictions) == ours
    precision = curves["precision"][:, :, :, 0, -1]
    order = np.argsort(truth.category_ids)
    for rank, label in enumerate(order.tolist()):
        mean = float(np.mean(precision[:, :, rank].ravel()))
        value = None if mean == -1 else 100 * mean
        assert value == ours.per_category[label].AP


def test_coco_figures_are_those_of_pycocotools(world: World, tmp_path: Path) -> None:
    assert_equal_to_pycocotools(*draw(world, tmp_path))


@pytest.mark.parametrize("score_decimals", [1, 6])
def test_the_coco_sample_file_with_crowds_is_scored_as_by_pycocotools(score_decimals: int) -> None:
    assert any(entry["iscrowd"] for entry in json.loads(COCO_FILE.read_text())["annotations"])
    generator = np.random.default_rng(6)
    predictions = predictions_near(COCO_FILE, generator, count=20, score_decimals=score_decimals)
    assert_equal_to_pycocotools(COCO_FILE, predictions)


def truths(path: Path) -> Iterator[LvisGroundTruth | CocoGroundTruth]:
    yield LvisGroundTruth.read(path, with_masks=True)
    yield coco_truth(path)


def test_a_bootstrap_draw_of_every_image_once_gives_the_figures(tmp_path: Path) -> None:
    path, predictions = draw(World(seed=8), tmp_path)
    for truth in truths(path):
        once = np.ones((1, len(truth.image_ids)), np.int64)
        found = draw_figures(truth, predictions, once, iou_type="segm")
        if isinstance(truth, LvisGroundTruth):
            wanted = score_lvis(truth, predictions, iou_type="segm").figures()
        else:
            wanted = CocoScorer(truth, iou_type="segm").score(predictions).figures()
        assert found["AP"][0] == pytest.approx(wanted["AP"], abs=1e-9)


def test_a_written_file_holds_the_masks_without_boxes(tmp_path: Path) -> None:
    _, predictions = draw(World(seed=12, num_images=4), tmp_path)
    predictions.write_lvis_json(tmp_path / "results.json")
    rows = json.loads((tmp_path / "results.json").read_text())
    assert set(rows[0]) == {"image_id", "category_id", "segmentation", "score"}
    assert predictions.masks is not None
    for row, mask in zip(rows, predictions.masks.to_coco(), strict=True):
        np.testing.assert_array_equal(coco_mask.decode(row["segmentation"]), coco_mask.decode(mask))


def test_no_predictions_score_zero(tmp_path: Path) -> None:
    path, _ = draw(World(seed=8), tmp_path)
    assert score_lvis(path, Predictions.empty(), iou_type="segm").AP == 0
    assert CocoScorer(coco_truth(path), iou_type="segm").score(Predictions.empty()).AP == 0


def test_masks_that_are_missing_or_of_another_size_are_refused(tmp_path: Path) -> None:
    path, predictions = draw(World(seed=8), tmp_path)
    masks = predictions.masks
    assert masks is not None
    boxes = Predictions(
        image_ids=predictions.image_ids,
        category_ids=predictions.category_ids,
        boxes_xywh=predictions.boxes_xywh,
        scores=predictions.scores,
    )
    turned = Predictions(
        image_ids=predictions.image_ids,
        category_ids=predictions.category_ids,
        boxes_xywh=predictions.boxes_xywh,
        scores=predictions.scores,
        masks=RleMasks(counts=masks.counts, sizes_hw=masks.sizes_hw[:, ::-1]),
    )
    with pytest.raises(AnnotationError, match="set --iou_type bbox"):
        score_lvis(path, boxes, iou_type="segm")
    with pytest.raises(AnnotationError, match=r"a mask of 120 x 90 .*, and image \d+ is 90 x 120"):
        CocoScorer(coco_truth(path), iou_type="segm").score(turned)
    with pytest.raises(ConfigError, match="read without them"):
        score_lvis(LvisGroundTruth.read(path), predictions, iou_type="segm")
    with pytest.raises(ConfigError, match="Set --iou_type to bbox or segm"):
        score_lvis(path, predictions, iou_type="keypoints")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        [[1, 2, 3, 4]],
        [[0, 0, 9, 0, 9]],
        {"size": [90, 120], "counts": [5, 10]},
        {"size": [120, 90], "counts": [0, 10800]},
        {"size": [90, 120], "counts": "oooooooooooooooo"},
        [[0, 0, 1e300, 0, 9, 9]],
    ],
)
def test_annotations_without_a_mask_that_fits_are_refused(
    tmp_path: Path, segmentation: object
) -> None:
    path, _ = draw(World(seed=8), tmp_path)
    content = json.loads(path.read_text())
    content["annotations"][3]["segmentation"] = segmentation
    path.write_text(json.dumps(content))
    for read in (lambda: LvisGroundTruth.read(path, with_masks=True), lambda: CocoMasks.read(path)):
        with pytest.raises(
            AnnotationError, match=r"annotations\[3\] has no segmentation that fits"
        ):
            read()
    LvisGroundTruth.read(path)


def test_a_crowd_that_is_unclear_is_refused(tmp_path: Path) -> None:
    path, _ = draw(World(seed=8), tmp_path)
    content = json.loads(path.read_text())
    content["annotations"][3]["iscrowd"] = "maybe"
    path.write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match=r"annotations\[3\] has an iscrowd"):
        CocoMasks.read(path)
