"""The localizer: original pixels in, tokens and masks out. Parity with SAM is in tests/parity."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from torch import Tensor

from regionspot.backbones import (
    BoxPrompts,
    Frame,
    MaskForm,
    MaskPrompts,
    PointPrompts,
    SamLocalizer,
    SamPrompts,
    mask_logits,
    region_masks,
    region_tokens,
)
from regionspot.backbones.to_frame import mask_extents
from regionspot.core.errors import ShapeError
from regionspot.core.geometry import to_sam_frame

SIZE_HW = (45, 90)
BOXES = np.array([[4, 3, 40, 30], [0, 0, 90, 45]], np.float32)


@pytest.fixture
def embedding(localizer: SamLocalizer, photo: NDArray[np.uint8]) -> Tensor:
    return localizer.embed(localizer.preprocess(photo)[None])


def test_padding_is_zero_after_normalising(
    localizer: SamLocalizer, photo: NDArray[np.uint8]
) -> None:
    pixels = localizer.preprocess(photo)
    assert pixels.shape == (3, 64, 64)
    assert pixels.dtype == torch.float32
    assert not pixels[:, 32:].any()  # 45 x 90 becomes 32 x 64
    black = localizer.preprocess(np.zeros_like(photo))[:, 0, 0]
    torch.testing.assert_close(
        black, torch.tensor([-123.675 / 58.395, -116.28 / 57.12, -103.53 / 57.375])
    )


def test_images_embed_alike_in_any_batch(localizer: SamLocalizer, photo: NDArray[np.uint8]) -> None:
    one = localizer.preprocess(photo)
    other = localizer.preprocess(photo[::-1])
    together = localizer.embed(torch.stack([one, other]))
    torch.testing.assert_close(together[:1], localizer.embed(one[None]), rtol=0, atol=1e-5)
    assert together.shape == (2, 32, 8, 8)


def test_tokens_are_those_of_the_boxes_in_sams_frame(
    localizer: SamLocalizer, embedding: Tensor
) -> None:
    boxes_sam = torch.from_numpy(to_sam_frame(BOXES, SIZE_HW, 64))
    assert torch.equal(
        region_tokens(localizer, embedding, BoxPrompts(boxes_xyxy=BOXES), SIZE_HW),
        localizer.decode_tokens(embedding, SamPrompts(boxes_xyxy_sam=boxes_sam))[0],
    )


def test_no_regions_give_nothing_of_the_right_shape(
    localizer: SamLocalizer, embedding: Tensor
) -> None:
    none = np.zeros((0, 4), np.float32)
    points, labels = np.zeros((0, 2, 2), np.float32), np.zeros((0, 2), np.int64)
    masks = np.zeros((0, *SIZE_HW), np.bool_)
    assert region_tokens(localizer, embedding, BoxPrompts(boxes_xyxy=none), SIZE_HW).shape == (
        0,
        32,
    )
    assert region_tokens(
        localizer, embedding, PointPrompts(points_xy=points, point_labels=labels), SIZE_HW
    ).shape == (0, 32)
    for prompt in ("box", "box_and_mask", "mask"):
        assert region_tokens(
            localizer, embedding, MaskPrompts(masks=masks, form=prompt), SIZE_HW
        ).shape == (0, 32)
    assert region_masks(localizer, embedding, BoxPrompts(boxes_xyxy=none), SIZE_HW).shape == (
        0,
        *SIZE_HW,
    )


def test_a_pixel_of_overshoot_is_cut_and_more_is_refused(
    localizer: SamLocalizer, embedding: Tensor
) -> None:
    rounded = np.array([[-0.5, 0, 90.9, 45]], np.float32)
    assert torch.equal(
        region_tokens(localizer, embedding, BoxPrompts(boxes_xyxy=rounded), SIZE_HW),
        region_tokens(localizer, embedding, BoxPrompts(boxes_xyxy=BOXES[1:]), SIZE_HW),
    )
    with pytest.raises(ShapeError, match=r"box 1 .*outside the image of 90 x 45 pixels"):
        region_tokens(
            localizer,
            embedding,
            BoxPrompts(boxes_xyxy=np.array([[0, 0, 1, 1], [0, 0, 45, 90]], np.float32)),
            SIZE_HW,
        )


def test_point_prompts_are_checked(localizer: SamLocalizer, embedding: Tensor) -> None:
    one = np.array([[1]])
    with pytest.raises(ShapeError, match=r"points have shape \(1, 2\).*wanted \(R, K, 2\)"):
        region_tokens(
            localizer,
            embedding,
            PointPrompts(points_xy=np.zeros((1, 2), np.float32), point_labels=one),
            SIZE_HW,
        )
    outside = np.array([[[91.0, 10.0]]], np.float32)
    with pytest.raises(ShapeError, match=r"point \(91, 10\) lies outside the image of 90 x 45"):
        region_tokens(
            localizer, embedding, PointPrompts(points_xy=outside, point_labels=one), SIZE_HW
        )
    padding = region_tokens(
        localizer, embedding, PointPrompts(points_xy=outside, point_labels=-one), SIZE_HW
    )
    assert padding.isfinite().all()


def test_the_corner_site_takes_a_single_point_but_not_two(sam: Sam, embedding: Tensor) -> None:
    corners = SamLocalizer(sam, token_site="prompt_encoder", model_name="small")  # noqa: S106
    one, two = np.full((1, 1, 2), 9, np.float32), np.full((1, 2, 2), 9, np.float32)
    assert region_tokens(
        corners, embedding, PointPrompts(points_xy=one, point_labels=np.ones((1, 1), int)), SIZE_HW
    ).shape == (
        1,
        64,
    )
    with pytest.raises(ShapeError, match=r"embed to 3 vectors.*models\.token_site"):
        region_tokens(
            corners,
            embedding,
            PointPrompts(points_xy=two, point_labels=np.ones((1, 2), int)),
            SIZE_HW,
        )


def _mask() -> NDArray[np.bool_]:
    masks = np.zeros((1, *SIZE_HW), np.bool_)
    masks[0, 3:30, 4:40] = True
    masks[0, 10:20, 10:20] = False
    return masks


def test_a_mask_prompt_is_its_extent_by_default(localizer: SamLocalizer, embedding: Tensor) -> None:
    assert mask_extents(_mask()).tolist() == [[4, 3, 40, 30]]
    assert torch.equal(
        region_tokens(localizer, embedding, MaskPrompts(masks=_mask()), SIZE_HW),
        region_tokens(localizer, embedding, BoxPrompts(boxes_xyxy=BOXES[:1]), SIZE_HW),
    )


@pytest.mark.parametrize("prompt", ["mask", "box_and_mask"])
def test_a_masks_shape_reaches_sam_if_asked_for(
    localizer: SamLocalizer, embedding: Tensor, prompt: MaskForm
) -> None:
    sam = localizer.sam
    frame = Frame(size_hw=SIZE_HW, resized_hw=(32, 64), side_px=64, device=torch.device("cpu"))
    logits = mask_logits(_mask(), frame, grid_hw=(32, 32))
    boxes = torch.from_numpy(to_sam_frame(BOXES[:1], SIZE_HW, 64))
    heard: list[Tensor] = []
    hook = sam.mask_decoder.transformer.register_forward_hook(
        lambda _module, _inputs, output: heard.append(output[0][:, 1])
    )
    with torch.no_grad():
        sparse, dense = sam.prompt_encoder(
            points=None, boxes=boxes if prompt == "box_and_mask" else None, masks=logits
        )
        sam.mask_decoder(embedding, sam.prompt_encoder.get_dense_pe(), sparse, dense, False)  # noqa: FBT003
    hook.remove()
    ours = region_tokens(localizer, embedding, MaskPrompts(masks=_mask(), form=prompt), SIZE_HW)
    torch.testing.assert_close(ours, heard[0], rtol=0, atol=1e-5)


def test_mask_logits_are_the_covered_share_of_each_cell() -> None:
    # 8 x 16 pixels in a frame of 16: nothing is resized, rows 8..16 are padding, cells are 4 x 4.
    masks = np.zeros((1, 8, 16), np.bool_)
    masks[0, 0:4, 0:4] = True  # a whole cell
    masks[0, 4:8, 4:6] = True  # half a cell
    frame = Frame(size_hw=(8, 16), resized_hw=(8, 16), side_px=16, device=torch.device("cpu"))
    logits = mask_logits(masks, frame, grid_hw=(4, 4))
    sure = float(np.log(0.999 / 0.001))
    wanted = torch.full((4, 4), -sure)
    wanted[0, 0], wanted[1, 1] = sure, 0.0
    torch.testing.assert_close(logits[0, 0], wanted)


def test_mask_prompts_are_checked(localizer: SamLocalizer, embedding: Tensor) -> None:
    with pytest.raises(ShapeError, match=r"wanted \(R, H, W\) bool"):
        region_tokens(localizer, embedding, MaskPrompts(masks=_mask()[0]), SIZE_HW)
    with pytest.raises(ShapeError, match=r"\(1, 45, 90\); wanted \(R, 90, 45\)"):
        region_tokens(localizer, embedding, MaskPrompts(masks=_mask()), SIZE_HW[::-1])
    with pytest.raises(ShapeError, match="mask 1 is empty"):
        region_tokens(
            localizer,
            embedding,
            MaskPrompts(masks=np.concatenate([_mask(), ~_mask() & _mask()])),
            SIZE_HW,
        )


def test_many_masks_do_not_depend_on_their_chunk(
    localizer: SamLocalizer, embedding: Tensor
) -> None:
    many = np.repeat(BOXES, 10, axis=0)
    masks = region_masks(localizer, embedding, BoxPrompts(boxes_xyxy=many), SIZE_HW)
    assert masks.shape == (20, *SIZE_HW)
    np.testing.assert_array_equal(masks[0], masks[9])
    np.testing.assert_array_equal(masks[10:], np.repeat(masks[19:], 10, axis=0))
