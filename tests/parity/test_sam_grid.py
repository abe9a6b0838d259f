"""The grid proposer against ``segment_anything.SamAutomaticMaskGenerator`` itself."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam

from helpers.samples import PHOTOS
from regionspot.backbones import GridProposals, GridProposer, SamLocalizer, load_sam, sam_grid
from regionspot.toy import generate_world

# The tiny SAM is never as sure as the released ones, for which the defaults were chosen.
LENIENT = GridProposer(
    points_per_side=8, pred_iou_thresh=0.5, stability_score_thresh=0.6, stability_score_offset=0.7
)

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def sam() -> Sam:
    torch.set_num_threads(1)
    return load_sam("tiny", "shipped")


@pytest.fixture(scope="module")
def toy_images(tmp_path_factory: pytest.TempPathFactory) -> list[Pixels]:
    """Pictures of the toy world, which differ in width and height."""
    world = tmp_path_factory.mktemp("grid") / "world"
    generate_world(world, seed=5, num_val=4, num_train=1)
    images = [_open(path) for path in sorted((world / "val").glob("*.jpg"))]
    assert any(image.shape[0] != image.shape[1] for image in images)
    return images


def _open(path: Path) -> Pixels:
    return np.array(Image.open(path).convert("RGB"))


def _ours(sam: Sam, image: Pixels, grid: GridProposer) -> GridProposals:
    localizer = SamLocalizer(sam, token_site="transformer", model_name="tiny")  # noqa: S106
    # SAM's own, to the last bit: masks at their thresholds may turn over with it.
    with torch.inference_mode():
        embedding = sam.image_encoder(localizer.preprocess(image)[None])
    return grid.propose(localizer, embedding, (image.shape[0], image.shape[1]))


def _theirs(sam: Sam, image: Pixels, grid: GridProposer) -> GridProposals:
    """What the generator reports, its masks measured here; empty masks are no regions."""
    generator = SamAutomaticMaskGenerator(
        sam,
        points_per_side=grid.points_per_side,
        points_per_batch=grid.points_per_batch,
        pred_iou_thresh=grid.pred_iou_thresh,
        stability_score_thresh=grid.stability_score_thresh,
        stability_score_offset=grid.stability_score_offset,
        box_nms_thresh=grid.box_nms_thresh,
        crop_n_layers=0,
    )
    boxes, scores = [], []
    for found in generator.generate(image):
        x, y, width, height = found["bbox"]  # up to the last pixel: one that is 1 wide has 0 here
        if not found["area"]:
            continue
        boxes.append([x, y, x + width + 1, y + height + 1])
        mask = found["segmentation"].astype(np.uint8)
        assert cv2.boundingRect(mask) == (x, y, width + 1, height + 1)
        scores.append(min(max(found["predicted_iou"], 0), 1) * found["stability_score"])
    order = np.argsort(-np.array(scores), kind="stable")
    return GridProposals(
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4)[order],
        box_scores=np.array(scores, np.float32)[order],
    )


def _assert_same(ours: GridProposals, theirs: GridProposals) -> None:
    # Scores pin the order; boxes are compared as a set, since equal scores leave theirs open.
    np.testing.assert_allclose(ours.box_scores, theirs.box_scores, rtol=1e-6, atol=0)
    assert sorted(ours.boxes_xyxy.tolist()) == sorted(theirs.boxes_xyxy.tolist())


@pytest.mark.parametrize(
    "grid",
    [
        LENIENT,
        GridProposer(points_per_side=5, pred_iou_thresh=0, stability_score_thresh=0),
        GridProposer(
            points_per_side=7,
            points_per_batch=10,
            pred_iou_thresh=0.3,
            stability_score_thresh=0.3,
            box_nms_thresh=0.4,
        ),
        GridProposer(points_per_side=6),
    ],
    ids=["lenient", "everything", "last batch is short", "the released models' thresholds"],
)
def test_the_regions_are_those_of_the_automatic_mask_generator(
    sam: Sam, toy_images: list[Pixels], grid: GridProposer
) -> None:
    for image in toy_images:
        _assert_same(_ours(sam, image, grid), _theirs(sam, image, grid))


def test_the_regions_do_not_depend_on_how_many_masks_are_enlarged_at_once(
    sam: Sam, toy_images: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = toy_images[0]
    for pixels in (1, 7 * image.shape[0] * image.shape[1]):
        monkeypatch.setattr(sam_grid, "_PIXELS_AT_ONCE", pixels)
        _assert_same(_ours(sam, image, LENIENT), _theirs(sam, image, LENIENT))


def test_the_lenient_options_find_something_to_compare(sam: Sam, toy_images: list[Pixels]) -> None:
    assert all(len(_ours(sam, image, LENIENT).boxes_xyxy) > 2 for image in toy_images)


@pytest.mark.parametrize("photo", PHOTOS)
def test_the_regions_of_photos_are_those_of_the_automatic_mask_generator(
    sam: Sam, photo: Path
) -> None:
    image = _open(photo)
    grid = GridProposer(
        points_per_side=5,
        points_per_batch=8,
        pred_iou_thresh=0.3,
        stability_score_thresh=0.3,
        stability_score_offset=0.5,
    )
    theirs = _theirs(sam, image, grid)
    assert len(theirs.boxes_xyxy) > 1
    _assert_same(_ours(sam, image, grid), theirs)
