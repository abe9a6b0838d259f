"""What regions keep of their masks: little, without the models, and each mask when asked for."""

import gc
import pickle
import weakref

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from segment_anything import SamPredictor
from torchvision.ops import masks_to_boxes

from regionspot.backbones import GridProposer, ModelsConfig, load_frozen_models
from regionspot.inference import Regions, RegionSpot
from regionspot.model import TrainedHead

HEIGHT, WIDTH = 900, 1400
GRID = GridProposer(
    points_per_side=4, pred_iou_thresh=0.4, stability_score_thresh=0.5, stability_score_offset=0.5
)


@pytest.fixture(scope="module")
def large(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture of a disc and a square, ten times as large."""
    enlarged = pixels.repeat(10, axis=0)[:HEIGHT].repeat(10, axis=1)
    return np.ascontiguousarray(enlarged)


@pytest.fixture(scope="module")
def large_boxes(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.minimum(boxes.repeat(4, axis=0) * 10, HEIGHT)


def ask(
    model: RegionSpot, image: NDArray[np.uint8], boxes: NDArray[np.float32], how: str
) -> Regions:
    if how == "boxes":
        return model.recognize(image, boxes=boxes)
    if how == "points":
        return model.recognize(image, points=(boxes[:, :2] + boxes[:, 2:]) / 2)
    return model.recognize_everything(image, grid=GRID)


@pytest.mark.parametrize("how", ["boxes", "points", "everything"])
def test_no_mask_is_kept_at_the_images_size(
    model: RegionSpot, large: NDArray[np.uint8], large_boxes: NDArray[np.float32], how: str
) -> None:
    regions = ask(model, large, large_boxes, how)
    assert len(regions) > 3
    for region in regions:
        assert region.mask is not None
    assert regions.masks is not None
    assert len(pickle.dumps(regions)) - large.nbytes < HEIGHT * WIDTH
    assert len(pickle.dumps(next(iter(regions)))) < HEIGHT * WIDTH / 4


def test_one_mask_at_a_time_is_alive_while_iterating(
    model: RegionSpot, large: NDArray[np.uint8], large_boxes: NDArray[np.float32]
) -> None:
    regions = model.recognize(large, boxes=large_boxes)
    masks: list[weakref.ref[NDArray[np.bool_]]] = []
    kept = []
    for region in regions:
        kept.append(region)
        mask = region.mask
        assert mask is not None
        masks.append(weakref.ref(mask))
        assert [ref() is not None for ref in masks[:-1]] == [False] * (len(masks) - 1)
        del mask
    assert len(kept) == len(regions) == len(masks)


def test_the_masks_are_the_same_one_by_one_all_at_once_and_from_a_pickle(
    model: RegionSpot, large: NDArray[np.uint8], large_boxes: NDArray[np.float32]
) -> None:
    regions = model.recognize(large, boxes=large_boxes)
    assert regions.masks is not None
    assert 0 < regions.masks.mean() < 1
    again: Regions = pickle.loads(pickle.dumps(regions))  # noqa: S301 - made here
    for row, region in enumerate(again):
        np.testing.assert_array_equal(region.mask, regions.masks[row])
        np.testing.assert_array_equal(regions.mask(row), regions.masks[row])
    np.testing.assert_array_equal(regions[::-2].masks, regions.masks[::-2])


def test_masks_can_be_made_when_the_models_are_gone(
    trained_head: TrainedHead, large: NDArray[np.uint8], large_boxes: NDArray[np.float32]
) -> None:
    models = load_frozen_models(ModelsConfig(preset="toy"))
    sam = models.localizer.module
    predictor = SamPredictor(sam)
    predictor.set_image(large)
    logits, *_ = predictor.predict(box=large_boxes[0], multimask_output=False, return_logits=True)
    regions = RegionSpot(trained_head, models).recognize(large, boxes=large_boxes)
    gone = weakref.ref(sam)
    del models, sam, predictor
    gc.collect()
    assert gone() is None
    mask = regions.mask(0)
    assert mask is not None
    sure = np.abs(logits[0]) > 1e-3  # the embeddings differ by rounding
    np.testing.assert_array_equal(mask[sure], logits[0][sure] > 0)


def test_boxes_of_points_are_the_extents_of_the_masks(
    model: RegionSpot, large: NDArray[np.uint8]
) -> None:
    regions = model.recognize(large, points=[[360, 400], [1040, 500], [30, 30]])
    assert regions.masks is not None
    extents = masks_to_boxes(torch.from_numpy(regions.masks)).numpy()
    extents[:, 2:] += 1
    np.testing.assert_array_equal(regions.boxes_xyxy, extents)


def test_masks_that_were_given_are_kept_as_they_are(
    model: RegionSpot, large: NDArray[np.uint8]
) -> None:
    masks = np.zeros((2, HEIGHT, WIDTH), np.bool_)
    masks[0, 200:610, 160:570] = masks[1, 300:740, 840:1240] = True
    regions = model.recognize(large, masks=masks)
    assert regions.kept_masks is masks
    for row, region in enumerate(regions):
        assert region.mask is not None
        assert np.shares_memory(region.mask, masks)
        np.testing.assert_array_equal(region.mask, masks[row])
    assert regions.masks is not None
    assert not np.shares_memory(regions.masks, masks)
