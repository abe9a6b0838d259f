"""Naming all that SAM finds: against SAM's own generator and recognition of the same boxes."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam

from regionspot.backbones import FrozenModels, GridProposer
from regionspot.core.errors import ConfigError, MissingFileError, VocabularyError
from regionspot.inference import RegionSpot

Pixels = NDArray[np.uint8]
NAMES = ["blue plain square", "sea egg", "red striped circle"]
GRID = GridProposer(
    points_per_side=6, pred_iou_thresh=0.4, stability_score_thresh=0.5, stability_score_offset=0.5
)
NOTHING = GridProposer(points_per_side=3, pred_iou_thresh=1)


def test_what_sams_generator_finds_is_named_like_boxes_and_weighed_by_sams_own_scores(
    model: RegionSpot, models: FrozenModels, pixels: Pixels
) -> None:
    generator = SamAutomaticMaskGenerator(
        models.localizer.module,
        points_per_side=6,
        pred_iou_thresh=0.4,
        stability_score_thresh=0.5,
        stability_score_offset=0.5,
    )
    found = generator.generate(pixels)
    assert len(found) > 3
    weights = np.array([one["predicted_iou"] * one["stability_score"] for one in found])
    order = np.argsort(-weights)
    x, y, width, height = np.array([one["bbox"] for one in found])[order].T
    boxes = np.stack([x, y, x + width + 1, y + height + 1], axis=1)
    by_boxes = model.recognize(pixels, boxes=boxes, vocabulary=NAMES, top_k=2)
    scores = by_boxes.top_scores * weights[order, None]
    best_first = np.argsort(-scores[:, 0])

    regions = model.recognize_everything(pixels, grid=GRID, vocabulary=NAMES, top_k=2)
    assert regions.box_scores is not None
    np.testing.assert_array_equal(regions.boxes_xyxy, boxes[best_first])
    np.testing.assert_allclose(regions.box_scores, weights[order][best_first], atol=1e-6)
    np.testing.assert_allclose(regions.top_scores, scores[best_first], atol=1e-5)
    np.testing.assert_array_equal(regions.top_class_ids, by_boxes.top_class_ids[best_first])
    np.testing.assert_array_equal(regions.masks, by_boxes[best_first].masks)
    assert regions.labels == by_boxes[best_first].labels


def test_sam_looks_at_the_image_once(
    model: RegionSpot, models: FrozenModels, pixels: Pixels
) -> None:
    calls: list[str] = []
    sam: Sam = models.localizer.module
    hook = sam.image_encoder.patch_embed.register_forward_hook(lambda *_: calls.append("one"))
    model.recognize_everything(pixels, grid=GRID)
    hook.remove()
    assert calls == ["one"]


def test_masks_are_left_out_where_nobody_wants_them(model: RegionSpot, pixels: Pixels) -> None:
    assert model.recognize_everything(pixels, grid=GRID, with_masks=False).masks is None


def test_an_image_in_which_sam_finds_nothing_has_no_regions(
    model: RegionSpot, pixels: Pixels
) -> None:
    regions = model.recognize_everything(pixels, grid=NOTHING, top_k=2)
    assert len(regions) == 0
    assert list(regions) == []
    assert regions.boxes_xyxy.shape == (0, 4)
    assert regions.top_scores.shape == (0, 2)
    assert regions.embeddings.shape == (0, 128)
    assert regions.box_scores is not None
    assert regions.box_scores.shape == (0,)
    assert regions.masks is not None
    assert regions.masks.shape == (0, 96, 140)
    assert regions.plot().size == (700, 480)


def test_prompted_regions_have_no_box_scores(
    model: RegionSpot, pixels: Pixels, boxes: NDArray[np.float32]
) -> None:
    assert model.recognize(pixels, boxes=boxes).box_scores is None


def test_mistakes_are_explained_as_for_prompts(model: RegionSpot, pixels: Pixels) -> None:
    with pytest.raises(ConfigError, match="top_k is 0"):
        model.recognize_everything(pixels, top_k=0)
    with pytest.raises(VocabularyError, match="wanted a list of names"):
        model.recognize_everything(pixels, vocabulary="egg, lamp")
    with pytest.raises(MissingFileError, match="no image file at nowhere"):
        model.recognize_everything(Path("nowhere.png"))


def test_whoever_gives_no_prompt_is_told_of_this(model: RegionSpot, pixels: Pixels) -> None:
    with pytest.raises(ConfigError, match=r"recognize_everything\(image\), which lets SAM propose"):
        model.recognize(pixels)
