"""Proposals from a grid of points: options, order, limits, and images in which nothing is found."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from segment_anything import SamAutomaticMaskGenerator
from torch import Tensor
from torchvision.ops import box_iou

from regionspot.backbones import (
    BoxPrompts,
    GridProposals,
    GridProposer,
    SamLocalizer,
    load_sam,
    region_masks,
    region_tokens,
)
from regionspot.core.errors import ConfigError, ShapeError

ALL = GridProposer(points_per_side=4, pred_iou_thresh=0, stability_score_thresh=0)
SIZE_HW = (45, 90)


@pytest.fixture(scope="module")
def localizer() -> SamLocalizer:
    """The shipped SAM: a random one gives the same mask at every point."""
    torch.set_num_threads(1)
    return SamLocalizer(load_sam("tiny", "shipped"), token_site="transformer", model_name="tiny")  # noqa: S106


@pytest.fixture(scope="module")
def embedding(localizer: SamLocalizer, photo: NDArray[np.uint8]) -> Tensor:
    return localizer.embed(localizer.preprocess(photo)[None])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points_per_side": 0}, "points_per_side is 0; wanted at least 1"),
        ({"points_per_batch": -1}, "points_per_batch is -1; wanted at least 1"),
        ({"max_regions": 0}, "max_regions is 0; wanted at least 1"),
        ({"pred_iou_thresh": 88}, "pred_iou_thresh is 88; wanted a number from 0 to 1"),
        ({"pred_iou_thresh": math.nan}, "pred_iou_thresh is nan"),
        ({"stability_score_thresh": 1.01}, "stability_score_thresh is 1.01; wanted a number"),
        ({"stability_score_thresh": -0.1}, "stability_score_thresh is -0.1"),
        ({"box_nms_thresh": 2}, "box_nms_thresh is 2; wanted a number from 0 to 1"),
        ({"stability_score_offset": -1}, "stability_score_offset is -1; wanted a logit of 0"),
        ({"stability_score_offset": math.inf}, "stability_score_offset is inf"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GridProposer(**options)


def test_the_defaults_are_those_of_the_automatic_mask_generator(
    localizer: SamLocalizer,
) -> None:
    theirs, ours = SamAutomaticMaskGenerator(localizer.sam), GridProposer()
    for name in (
        *("points_per_batch", "pred_iou_thresh", "stability_score_thresh"),
        *("stability_score_offset", "box_nms_thresh"),
    ):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.points_per_side**2 == len(theirs.point_grids[0])
    assert ours.max_regions is None


@settings(max_examples=25)
@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    points_per_side=st.integers(1, 4),
    nms_thresh=st.floats(0, 1),
)
def test_proposals_lie_in_the_image_have_an_area_and_come_best_first(
    localizer: SamLocalizer,
    embedding: Tensor,
    height: int,
    width: int,
    points_per_side: int,
    nms_thresh: float,
) -> None:
    grid = GridProposer(
        points_per_side=points_per_side,
        pred_iou_thresh=0,
        stability_score_thresh=0,
        box_nms_thresh=nms_thresh,
    )
    # Such an elongated image has no pixel left in SAM's frame; `Localizer.resize` refuses it.
    if min(height, width) / max(height, width) * localizer.image_size < 0.5:
        return
    found = grid.propose(localizer, embedding, (height, width))
    boxes, scores = found.boxes_xyxy, found.box_scores
    assert boxes.dtype == scores.dtype == np.float32
    assert boxes.shape == (len(scores), 4)
    assert len(scores) <= 3 * points_per_side**2
    assert (boxes >= 0).all()
    assert (boxes[:, 2:] <= (width, height)).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (np.diff(scores) <= 0).all()
    ends_at_last_pixel = torch.from_numpy(boxes) - torch.tensor([0.0, 0.0, 1.0, 1.0])
    overlaps = box_iou(ends_at_last_pixel, ends_at_last_pixel).nan_to_num()
    overlaps.fill_diagonal_(0)
    assert (overlaps <= nms_thresh + 1e-6).all()


@pytest.mark.parametrize("points_per_batch", [1, 7, 16, 1000])
def test_the_size_of_a_batch_changes_nothing(
    localizer: SamLocalizer, embedding: Tensor, points_per_batch: int
) -> None:
    wanted = ALL.propose(localizer, embedding, SIZE_HW)
    grid = GridProposer(
        points_per_side=4,
        points_per_batch=points_per_batch,
        pred_iou_thresh=0,
        stability_score_thresh=0,
    )
    found = grid.propose(localizer, embedding, SIZE_HW)
    assert len(wanted.box_scores) > 1
    np.testing.assert_array_equal(found.boxes_xyxy, wanted.boxes_xyxy)
    np.testing.assert_allclose(found.box_scores, wanted.box_scores, atol=1e-6)


def test_no_more_than_the_best_regions_are_returned(
    localizer: SamLocalizer, embedding: Tensor
) -> None:
    wanted = ALL.propose(localizer, embedding, SIZE_HW)
    num = len(wanted.box_scores)
    for limit in (1, num - 1, num, num + 5):
        grid = GridProposer(
            points_per_side=4, pred_iou_thresh=0, stability_score_thresh=0, max_regions=limit
        )
        found = grid.propose(localizer, embedding, SIZE_HW)
        np.testing.assert_array_equal(found.boxes_xyxy, wanted.boxes_xyxy[:limit])
        np.testing.assert_array_equal(found.box_scores, wanted.box_scores[:limit])


@pytest.mark.parametrize(
    "grid",
    [
        GridProposer(points_per_side=3, pred_iou_thresh=1),
        GridProposer(points_per_side=3, pred_iou_thresh=0, stability_score_thresh=1),
    ],
    ids=["no IoU is high enough", "nothing is stable enough"],
)
def test_an_image_in_which_nothing_is_found_gives_no_rows(
    localizer: SamLocalizer, embedding: Tensor, grid: GridProposer
) -> None:
    found = grid.propose(localizer, embedding, SIZE_HW)
    assert (found.boxes_xyxy.shape, found.box_scores.shape) == ((0, 4), (0,))
    assert found.boxes_xyxy.dtype == found.box_scores.dtype == np.float32
    assert region_tokens(
        localizer, embedding, BoxPrompts(boxes_xyxy=found.boxes_xyxy), SIZE_HW
    ).shape == (0, 128)
    assert region_masks(
        localizer, embedding, BoxPrompts(boxes_xyxy=found.boxes_xyxy), SIZE_HW
    ).shape == (0, *SIZE_HW)


def test_the_image_is_not_embedded_again(localizer: SamLocalizer, embedding: Tensor) -> None:
    calls: list[str] = []
    hook = localizer.sam.image_encoder.patch_embed.register_forward_hook(
        lambda *_: calls.append("encoded")
    )
    ALL.propose(localizer, embedding, SIZE_HW)
    hook.remove()
    assert not calls


def test_the_embedding_of_several_images_is_refused(
    localizer: SamLocalizer, embedding: Tensor
) -> None:
    with pytest.raises(ShapeError, match=r"wanted \(1, 128, 16, 16\): one image at a time"):
        ALL.propose(localizer, embedding.expand(2, -1, -1, -1), SIZE_HW)


@pytest.mark.parametrize("scores", [[0.5], [[0.5], [0.25]]])
def test_proposals_need_one_score_a_box(scores: list[Any]) -> None:
    with pytest.raises(ShapeError, match="for 2 boxes; wanted one score a box"):
        GridProposals(
            boxes_xyxy=np.zeros((2, 4), np.float32), box_scores=np.array(scores, np.float32)
        )
