"""LVIS AP against `lvis.LVISEval`: every figure and every precision bit-equal."""

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from regionspot.scoring import (
    LvisGroundTruth,
    LvisScorer,
    LvisScores,
    Predictions,
    draw_figures,
    score_lvis,
)
from regionspot.scoring.lvis_reference import reference_lvis_figures, run_reference


@dataclass(frozen=True, kw_only=True)
class World:
    """How a small random data set is drawn."""

    seed: int = 0
    num_images: int = 12
    num_categories: int = 14
    predictions_per_image: int = 60
    score_decimals: int = 6
    share_without_predictions: float = 0.0
    categories_never_annotated: int = 0
    share_not_exhaustive: float = 0.15
    frequencies: str = "rcf"


WORLDS = {
    "plain": World(),
    "tied scores": World(seed=1, score_decimals=1),
    "all scores equal": World(seed=2, score_decimals=0),
    "more than 300 predictions an image": World(
        seed=3, num_images=3, predictions_per_image=420, score_decimals=2
    ),
    "images without predictions": World(seed=4, share_without_predictions=0.5),
    "categories without ground truth": World(seed=5, categories_never_annotated=6),
    "mostly not exhaustive": World(seed=6, share_not_exhaustive=0.8),
    "exhaustive everywhere": World(seed=7, share_not_exhaustive=0.0),
    "no rare and no common category": World(seed=8, frequencies="f"),
    "one image": World(seed=9, num_images=1),
}


@pytest.fixture(params=sorted(WORLDS))
def world(request: pytest.FixtureRequest) -> World:
    return WORLDS[request.param]


def test_every_figure_is_bit_equal_to_the_reference(world: World, tmp_path: Path) -> None:
    annotations, predictions = draw(world, tmp_path)
    ours = score_lvis(annotations, predictions).figures()
    theirs = reference_lvis_figures(annotations, predictions)
    assert ours == {
        name.removesuffix("@300"): None if value == -1 else 100 * value
        for name, value in theirs.items()
    }


def test_the_reference_as_scorer_gives_the_same_scores(world: World, tmp_path: Path) -> None:
    annotations, predictions = draw(world, tmp_path)
    ours = score_lvis(annotations, predictions)
    assert score_lvis(annotations, predictions, scorer="reference") == ours


def test_a_bootstrap_draw_of_every_image_once_gives_the_figures(
    world: World, tmp_path: Path
) -> None:
    annotations, predictions = draw(world, tmp_path)
    truth = LvisGroundTruth.read(annotations)
    found = draw_figures(truth, predictions, np.ones((1, len(truth.image_ids)), np.int64))
    wanted = score_lvis(truth, predictions).figures()
    for name, values in found.items():
        value = None if np.isnan(values[0]) else pytest.approx(values[0], abs=1e-9)
        assert wanted[name] == value, name


def test_every_categorys_ap_is_the_mean_of_the_references_precisions(
    world: World, tmp_path: Path
) -> None:
    annotations, predictions = draw(world, tmp_path)
    precision = run_reference(annotations, predictions).eval["precision"][:, :, :, 0]
    for index, category in enumerate(score_lvis(annotations, predictions).per_category):
        mean = float(np.mean(precision[:, :, index].ravel()))
        assert asdict(category)["AP"] == (None if mean == -1 else 100 * mean)


def test_precision_arrays_are_bit_equal_to_the_reference(world: World, tmp_path: Path) -> None:
    annotations, predictions = draw(world, tmp_path)
    assert_curves_equal(annotations, predictions)


def assert_curves_equal(annotations: Path, predictions: Predictions) -> None:
    """Assert that every precision and every recall is the reference's, to the last bit."""
    seen: list[Any] = []
    summarize = LvisScorer._summarize

    def spy(scorer: LvisScorer, *curves: Any) -> LvisScores:
        seen.extend(curves)
        return summarize(scorer, *curves)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LvisScorer, "_summarize", spy)
        score_lvis(annotations, predictions)
    reference = run_reference(annotations, predictions).eval
    np.testing.assert_array_equal(seen[0], reference["precision"])
    np.testing.assert_array_equal(seen[1], reference["recall"])


IMAGE_IDS, CATEGORY_IDS = (3, 7, 2**60), (2, 5, 9)
"""The ids that drawn files list; 8 and 4 are listed nowhere."""

SIDES = st.sampled_from([0, 5, 5.5, 10, 20, 31.9, 100])
SIZES = st.sampled_from([10, 20, 20.5, 40, 100, 1e6]) | st.sampled_from([0, -10, 1e-9])
ID_LISTS = st.lists(st.sampled_from([*CATEGORY_IDS, 4]), max_size=3)
IMAGE = st.fixed_dictionaries(
    {"neg_category_ids": ID_LISTS, "not_exhaustive_category_ids": ID_LISTS},
    optional={"file_name": st.none(), "height": st.none(), "coco_url": st.just("http://a/b/c.jpg")},
)
ANNOTATION = st.fixed_dictionaries(
    {
        "image_id": st.sampled_from([*IMAGE_IDS, 8, 3.0]),
        "category_id": st.sampled_from([*CATEGORY_IDS, 4, 5.0]),
        "bbox": st.tuples(SIDES, SIDES, SIZES, SIZES),
        "area": st.sampled_from(
            [0, 0.0, -1, 1, 1024, 1024.5, 9216, 1e10, 2e10, 1e300, math.inf, math.nan, True]
        ),
    },
    optional={
        "iscrowd": st.sampled_from([0, 1, None, "1"]),
        "ignore": st.sampled_from([0, 1, None, True, "0", 0.5]),
        "segmentation": st.sampled_from([None, [], [[0, 0, 1, 1, 2, 2]]]),
    },
)
PREDICTION = st.tuples(
    st.sampled_from(IMAGE_IDS),
    st.sampled_from(CATEGORY_IDS),
    st.tuples(SIDES, SIDES, SIZES | st.just(1e200), SIZES | st.just(1e200)),
    st.sampled_from([0.1, 0.5, 0.5, 0.9, -1.0]),
)


@st.composite
def odd_worlds(draw: st.DrawFn) -> tuple[dict[str, Any], Predictions]:
    """Draw a small file with everything that `lvis` accepts, and predictions for it."""
    listed = draw(st.permutations(IMAGE_IDS))
    if draw(st.booleans()):
        listed = [*listed, listed[0]]
    annotations = draw(st.lists(ANNOTATION, max_size=12))
    first_id = draw(st.sampled_from([0, 1, 1, 100]))
    rows = draw(st.lists(PREDICTION, min_size=1, max_size=20))
    # Copies of the first one push others of its image over the edge of 300.
    rows += [rows[0]] * draw(st.sampled_from([0, 0, 0, 295]))
    content = {
        "images": [{"id": number, **draw(IMAGE)} for number in listed],
        "annotations": [
            {"id": number, **entry} for number, entry in enumerate(annotations, start=first_id)
        ],
        "categories": [
            {"id": number, "name": str(number), "frequency": draw(st.sampled_from("rcf"))}
            for number in draw(st.permutations(CATEGORY_IDS))
        ],
    }
    return content, Predictions(
        image_ids=np.array([row[0] for row in rows], np.int64),
        category_ids=np.array([row[1] for row in rows], np.int64),
        boxes_xywh=np.array([row[2] for row in rows], np.float64),
        scores=np.array([row[3] for row in rows], np.float64),
    )


@pytest.mark.parametrize(
    "num_examples", [60, pytest.param(2000, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_whatever_lvis_accepts_is_scored_as_lvis_does(tmp_path: Path, num_examples: int) -> None:
    annotations = tmp_path / "annotations.json"

    @settings(max_examples=num_examples, derandomize=True, suppress_health_check=[*HealthCheck])
    @given(world=odd_worlds())
    def check(world: tuple[dict[str, Any], Predictions]) -> None:
        content, predictions = world
        annotations.write_text(json.dumps(content))
        assert_curves_equal(annotations, predictions)
        ours = score_lvis(annotations, predictions).figures()
        theirs = reference_lvis_figures(annotations, predictions)
        assert ours == {
            name.removesuffix("@300"): None if value == -1 else 100 * value
            for name, value in theirs.items()
        }

    check()


def test_the_order_of_images_and_categories_in_the_file_changes_nothing(tmp_path: Path) -> None:
    annotations, predictions = draw(World(seed=10, score_decimals=1), tmp_path)
    dataset = json.loads(annotations.read_text())
    for table in ("images", "categories"):
        dataset[table].reverse()
    turned = tmp_path / "turned.json"
    turned.write_text(json.dumps(dataset))
    figures = score_lvis(turned, predictions).figures()
    assert figures == score_lvis(annotations, predictions).figures()
    theirs = reference_lvis_figures(turned, predictions)
    assert figures["AP"] == 100 * theirs["AP"]
    assert figures["APc"] == 100 * theirs["APc"]


def test_a_results_file_scores_like_the_predictions_it_was_written_from(tmp_path: Path) -> None:
    annotations, predictions = draw(World(seed=11), tmp_path)
    predictions.write_lvis_json(tmp_path / "predictions.json")
    read = Predictions.read_lvis_json(tmp_path / "predictions.json")
    assert score_lvis(annotations, read) == score_lvis(annotations, predictions)


def test_a_subset_of_images_scores_as_a_file_of_only_these_images(tmp_path: Path) -> None:
    annotations, predictions = draw(World(seed=12), tmp_path)
    kept = LvisGroundTruth.read(annotations).image_ids[::2]
    dataset = json.loads(annotations.read_text())
    dataset["images"] = [row for row in dataset["images"] if row["id"] in kept]
    dataset["annotations"] = [row for row in dataset["annotations"] if row["image_id"] in kept]
    smaller = tmp_path / "smaller.json"
    smaller.write_text(json.dumps(dataset))
    rows = predictions.select(np.isin(predictions.image_ids, kept))
    theirs = reference_lvis_figures(smaller, rows)
    ours = score_lvis(LvisGroundTruth.read(annotations).subset(kept), rows).figures()
    assert ours["AP"] == 100 * theirs["AP"]


def test_the_reference_leaves_numpy_alone(tmp_path: Path) -> None:
    annotations, predictions = draw(replace(World(), num_images=2), tmp_path)
    reference_lvis_figures(annotations, predictions)
    import lvis.eval

    assert lvis.eval.np is np
    assert "float" not in vars(np)


def draw(world: World, folder: Path) -> tuple[Path, Predictions]:
    """Draw annotations and predictions that hit, nearly hit, confuse classes, and hallucinate."""
    rng = np.random.default_rng(world.seed)
    height, width = 480, 640
    category_ids = np.arange(1, world.num_categories + 1) * 3
    annotated = category_ids[: world.num_categories - world.categories_never_annotated]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    parts: list[Predictions] = []
    for index in range(world.num_images):
        image_id = 1000 + 7 * index
        positive = rng.choice(annotated, min(len(annotated), 5), replace=False)
        others = np.setdiff1d(category_ids, positive)
        negative = rng.choice(others, min(len(others), 4), replace=False)
        loose = positive[rng.random(len(positive)) < world.share_not_exhaustive]
        images.append(
            {
                "id": image_id,
                "height": height,
                "width": width,
                "neg_category_ids": negative.tolist(),
                "not_exhaustive_category_ids": loose.tolist(),
                "coco_url": f"http://images.cocodataset.org/val2017/{image_id:012d}.jpg",
            }
        )
        count = int(rng.integers(3, 12))
        sides = np.exp(rng.normal(4, 1, (count, 2))).clip(4, 300)
        boxes = np.concatenate([rng.random((count, 2)) * ([width, height] - sides), sides], axis=1)
        boxes = boxes.round(2)
        labels = rng.choice(positive, count)
        annotations += [
            {
                "id": 1000 * index + number + 1,
                "image_id": image_id,
                "category_id": int(labels[number]),
                "bbox": boxes[number].tolist(),
                "area": float(boxes[number, 2] * boxes[number, 3] * 0.8),
                "segmentation": [],
            }
            for number in range(count)
        ]
        if rng.random() >= world.share_without_predictions or index == 0:
            parts.append(_draw_predictions(rng, world, image_id, boxes, labels, category_ids))
    categories = [
        {
            "id": int(number),
            "name": f"class {number}",
            "frequency": world.frequencies[index % len(world.frequencies)],
        }
        for index, number in enumerate(category_ids)
    ]
    path = folder / "annotations.json"
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return path, Predictions.concatenate(parts)


def _draw_predictions(
    rng: np.random.Generator,
    world: World,
    image_id: int,
    boxes: NDArray[np.float64],
    labels: NDArray[np.int64],
    category_ids: NDArray[np.int64],
) -> Predictions:
    count = world.predictions_per_image
    source = rng.integers(0, len(boxes), count)
    noise = rng.normal(0, 0.1, (count, 4)) * boxes[source][:, [2, 3, 2, 3]]
    found = boxes[source] + noise * (rng.random((count, 1)) < 0.6)
    found[:, 2:] = found[:, 2:].clip(2, None)
    right = rng.random(count) < 0.6
    return Predictions(
        image_ids=np.full(count, image_id, np.int64),
        category_ids=np.where(right, labels[source], rng.choice(category_ids, count)),
        boxes_xywh=found.round(2),
        scores=rng.random(count).round(world.score_decimals),
    )
