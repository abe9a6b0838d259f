"""Boxes with scores in place of annotated ones: into a cache, and out as an evaluation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator

from helpers.heads import random_head
from regionspot.annotations import read_annotations
from regionspot.backbones import ModelsConfig, load_frozen_models, load_sam
from regionspot.cache import FeatureCache
from regionspot.cli.cache import make_cache as cache_main
from regionspot.cli.evaluate import evaluate as evaluate_main
from regionspot.core.errors import ConfigError
from regionspot.data import CachedRegions, CacheLoader
from regionspot.extraction import ProposalsConfig
from regionspot.inference import load_image
from regionspot.model import save_trained_head
from regionspot.scoring import Predictions
from regionspot.scoring.lvis_reference import reference_lvis_figures
from regionspot.toy import generate_world

NUM_IMAGES = 4
GRID = {"points_per_side": 5, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.3}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("proposals") / "world"
    generate_world(folder, seed=5, num_val=NUM_IMAGES, num_train=1)
    return folder


@pytest.fixture(scope="module")
def detections(world: Path) -> Path:
    """A detector that finds every annotated box, is surer of the earlier ones, and errs a little.

    The scores of an image's boxes are 0.9, 0.8, 0.7, ...; every image also has a box of score 0.01,
    one outside the image, and one that is found again as another class.
    """
    rows: list[dict[str, object]] = []
    for record in read_annotations("lvis", world / "val.json", world).records:
        height, width = record.size_hw
        boxes = record.boxes_xyxy.astype(float)
        boxes_xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
        scored = [(box, 0.9 - 0.1 * rank) for rank, box in enumerate(boxes_xywh)]
        scored += [
            ([1.0, 1.0, 3.0, 3.0], 0.01),
            ([width + 5.0, height + 5.0, 3.0, 3.0], 0.5),
            (boxes_xywh[0], 0.05),
        ]
        rows += [
            {"image_id": record.image_id, "category_id": 1, "bbox": box, "score": score}
            for box, score in scored
        ]
    path = world / "detections.json"
    path.write_text(json.dumps(rows))
    return path


def make_cache(world: Path, cache: Path, *options: str) -> None:
    cache_main(
        [
            *("--output_dir", str(cache), "--models.preset", "toy", "--templates", "[none]"),
            *("--annotations.format", "lvis", "--annotations.path", str(world / "val.json")),
            *("--annotations.images_dir", str(world), "--device", "cpu"),
            *options,
        ]
    )


@pytest.fixture(scope="module")
def caches(
    world: Path, detections: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A cache of the annotated boxes, and one of the proposals."""
    folder = tmp_path_factory.mktemp("caches")
    make_cache(world, folder / "annotated")
    proposals = ("--proposals.path", str(detections), "--proposals.min_score", "0.02")
    make_cache(world, folder / "proposed", *proposals)
    return folder / "annotated", folder / "proposed"


@pytest.fixture(scope="module")
def head(world: Path) -> Path:
    models = load_frozen_models(ModelsConfig(preset="toy"))
    save_trained_head(world / "head", random_head(models, seed=3))
    return world / "head"


def evaluate(world: Path, head: Path, cache: Path, output: Path, *options: str) -> Path:
    evaluate_main(
        [
            *("--cache", str(cache), "--annotations", str(world / "val.json")),
            *("--checkpoints", f"[{head}]", "--templates", "none", "--device", "cpu"),
            *("--images_dir", str(world), "--output_dir", str(output), *options),
        ]
    )
    return output


def test_proposals_stand_in_the_cache_best_first_with_their_scores_and_no_class(
    caches: tuple[Path, Path],
) -> None:
    annotated, proposed = (FeatureCache.open(path) for path in caches)
    assert proposed.manifest.proposals is not None
    assert proposed.manifest.proposals.startswith("detections.json, sha256 ")
    assert len(proposed) == NUM_IMAGES
    for position in range(NUM_IMAGES):
        wanted, found = annotated.sample(position), proposed.sample(position)
        ranks = np.arange(wanted.num_regions)
        np.testing.assert_allclose(found.boxes_xyxy, wanted.boxes_xyxy, atol=1e-4)
        np.testing.assert_allclose(found.box_scores, 0.9 - 0.1 * ranks, atol=1e-6)
        assert found.labels.tolist() == [-1] * wanted.num_regions
        assert wanted.box_scores.tolist() == [1.0] * wanted.num_regions
        # The same boxes have the same tokens, to the rounding of float16 and of corners.
        np.testing.assert_allclose(
            found.position_tokens, wanted.position_tokens, rtol=1e-2, atol=1e-2
        )


def test_what_is_no_region_is_counted(
    world: Path, detections: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proposals = ("--proposals.path", str(detections), "--proposals.min_score", "0.02")
    make_cache(world, tmp_path / "cache", *proposals)
    printed = capsys.readouterr().out
    for reason in (
        "dropped 4 boxes with a score below the minimum",
        "dropped 4 boxes wholly outside the image",
        "dropped 4 boxes that repeat a box of the same image",
    ):
        assert reason in printed


def test_box_scores_are_multiplied_into_the_class_probabilities(
    world: Path, head: Path, caches: tuple[Path, Path], tmp_path: Path
) -> None:
    scores = []
    for cache in caches:
        output = evaluate(world, head, cache, tmp_path / cache.name, "--protocol", "top1")
        scores.append(Predictions.read_lvis_json(output / "predictions.json").scores)
    with FeatureCache.open(caches[1]) as proposed:
        factors = [proposed.sample(position).box_scores for position in range(NUM_IMAGES)]
    np.testing.assert_allclose(scores[1], scores[0] * np.concatenate(factors), rtol=2e-2)


def test_figures_are_the_references_and_the_report_says_what_the_boxes_are(
    world: Path, head: Path, caches: tuple[Path, Path], tmp_path: Path
) -> None:
    options = (*("--methods", "[clip_box_crop]", "--models.preset", "toy", "--predictions", "all"),)
    output = evaluate(world, head, caches[1], tmp_path, *options)
    metrics = json.loads((output / "metrics.json").read_text())
    for name, method in (
        ("predictions.json", "fusion_head"),
        ("predictions_clip_box_crop.json", "clip_box_crop"),
    ):
        predictions = Predictions.read_lvis_json(output / name)
        theirs = reference_lvis_figures(world / "val.json", predictions)
        assert metrics["methods"][method]["AP"] == 100 * theirs["AP"]
        assert metrics["methods"][method]["top1_accuracy"] is None
    assert metrics["data"]["proposals"].startswith("detections.json")
    report = (output / "report.html").read_text()
    assert "Boxes are proposals (detections.json, sha256 " in report
    assert '<span class="by">fusion_head: 4 regions</span>' in report  # not how many are right
    assert "confident mistakes" not in report


def test_a_head_cannot_be_trained_on_proposals(caches: tuple[Path, Path]) -> None:
    message = r"holds proposals \(detections\.json, .*no classes to learn"
    with pytest.raises(ConfigError, match=message):
        CachedRegions(train=[caches[1]], val=caches[0])
    data = CachedRegions(train=[caches[0]], val=caches[1], templates="none")
    loader = data.val_dataloader()
    assert isinstance(loader, CacheLoader)
    assert next(iter(loader)).box_scores.max() == np.float32(0.9)


def test_without_a_detector_sam_finds_the_regions(world: Path, tmp_path: Path) -> None:
    options = [
        word for key, value in GRID.items() for word in (f"--proposals.grid.{key}", str(value))
    ]
    make_cache(world, tmp_path / "cache", *options)
    generator = SamAutomaticMaskGenerator(load_sam("tiny", "shipped"), **GRID)
    records = read_annotations("lvis", world / "val.json", world).records
    with FeatureCache.open(tmp_path / "cache") as cache:
        assert cache.manifest.proposals is not None
        assert "points_per_side 5" in cache.manifest.proposals
        assert cache.index.num_regions.sum() > 0
        for position, record in enumerate(records):
            sample = cache.sample(position)
            theirs = generator.generate(load_image(world / record.file_name))
            # SAM's box ends with the last pixel of the mask, ours after it.
            corners = {
                (x, y, x + width + 1, y + height + 1)
                for x, y, width, height in (one["bbox"] for one in theirs)
            }
            found = {tuple(box) for box in sample.boxes_xyxy.tolist()}
            assert len(found) == sample.num_regions
            assert {(x1, y1, x2, y2) for x1, y1, x2, y2 in found} == corners
            assert set(sample.labels.tolist()) <= {-1}


def test_another_minimum_is_another_cache(
    world: Path, detections: Path, caches: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        make_cache(world, caches[1], "--proposals.path", str(detections))
    assert exit_info.value.code == 2
    assert "proposals: found 'detections.json, sha256" in capsys.readouterr().err


@pytest.mark.parametrize("options", [{}, {"path": "a.json", "grid": {}}])
def test_proposals_come_from_one_place(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"--proposals\.path boxes\.json .*--proposals\.grid"):
        ProposalsConfig(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--proposals.min_score", "0.5"), "wanted one of them: --proposals.path boxes.json"),
        (("--proposals.grid.points_per_side", "0"), "points_per_side is 0; wanted at least 1"),
        (("--proposals.path", "nowhere.json"), "Set --proposals.path to the proposals file."),
    ],
)
def test_a_mistake_is_told_in_one_line(
    options: tuple[str, str],
    message: str,
    world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        make_cache(world, tmp_path / "cache", *options)
    assert exit_info.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
