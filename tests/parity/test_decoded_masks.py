"""Masks made one by one, large ones in bands, against both SAMs' own post-processing."""

import pickle

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from torch import Tensor
from transformers import Sam2ImageProcessor, Sam2Processor

from helpers.sam import small_sam
from regionspot.backbones import DecodedMasks, SamLocalizer
from regionspot.backbones.decoded_masks import MaskFrame
from regionspot.core.geometry import resized_size_hw

LARGE_HW = [(2100, 3000), (3001, 2099), (9000, 701), (601, 14_003)]  # two to three bands each
SMALL_HW = [(50, 70), (64, 64), (300, 500)]  # one, of either of torch's kernels
NUM_MASKS = 3


def _logits(grid_px: int) -> Tensor:
    """Blobs whose edges lie anywhere."""
    coarse = torch.randn(1, NUM_MASKS, 6, 6, generator=torch.Generator().manual_seed(2))
    return torch.nn.functional.interpolate(coarse, (grid_px, grid_px), mode="bicubic")[0]


@pytest.fixture(scope="module")
def sam() -> Sam:
    torch.set_num_threads(1)
    return small_sam()


def _masks(sam: Sam, size_hw: tuple[int, int], threshold: float = 0.0) -> DecodedMasks:
    localizer = SamLocalizer(sam, token_site="transformer", model_name="small")  # noqa: S106
    grid_px, _ = localizer.mask_grid_hw
    return DecodedMasks(
        logits=_logits(grid_px), threshold=threshold, frame=localizer.mask_frame(size_hw)
    )


@pytest.mark.parametrize("threshold", [0.0, -0.25])
@pytest.mark.parametrize("size_hw", SMALL_HW + LARGE_HW)
def test_masks_are_to_the_bit_those_of_sams_postprocessing(
    sam: Sam, size_hw: tuple[int, int], threshold: float
) -> None:
    ours = _masks(sam, size_hw, threshold)
    resized_hw = resized_size_hw(size_hw, sam.image_encoder.img_size)
    enlarged = sam.postprocess_masks(ours.logits[:, None], resized_hw, size_hw)[:, 0]
    theirs = (enlarged > threshold).numpy()
    assert 0 < theirs.mean() < 1
    assert ours.shape == theirs.shape
    np.testing.assert_array_equal(np.asarray(ours), theirs)
    assert torch.equal(ours.frame.enlarge(ours.logits), enlarged)


@pytest.mark.parametrize("size_hw", SMALL_HW + LARGE_HW)
def test_masks_are_to_the_bit_those_of_sam2s_postprocessing(size_hw: tuple[int, int]) -> None:
    logits = _logits(32)
    ours = DecodedMasks(logits=logits, threshold=0.0, frame=MaskFrame(size_hw=size_hw))
    processor = Sam2Processor(Sam2ImageProcessor())
    theirs = processor.post_process_masks([logits[:, None]], [list(size_hw)])[0][:, 0].numpy()
    np.testing.assert_array_equal(np.asarray(ours), theirs)


def _assert_rows(
    masks: DecodedMasks, everything: NDArray[np.bool_], rows: NDArray[np.intp]
) -> None:
    assert masks.shape == (len(rows), *everything.shape[1:])
    np.testing.assert_array_equal(np.asarray(masks), everything[rows])


def test_rows_are_selected_as_of_an_array(sam: Sam) -> None:
    masks = _masks(sam, (50, 70))
    everything = np.asarray(masks)
    assert (everything[0] != everything[1]).any()
    np.testing.assert_array_equal(masks[-1], everything[-1])
    np.testing.assert_array_equal(np.stack(list(masks)), everything)
    _assert_rows(masks[::-1], everything, np.array([2, 1, 0]))
    _assert_rows(masks[1:2], everything, np.array([1]))
    _assert_rows(masks[np.array([2, 2, 0])], everything, np.array([2, 2, 0]))
    _assert_rows(masks[5:], everything, np.array([], np.intp))
    assert np.asarray(masks, np.uint8).dtype == np.uint8
    with pytest.raises(IndexError):
        masks[NUM_MASKS]


def test_a_pickle_holds_the_logits_of_its_own_rows_and_no_more(sam: Sam) -> None:
    masks = _masks(sam, (3001, 2099))
    one = pickle.dumps(masks[1:2])
    bytes_of_a_row = masks.logits[0].nbytes
    assert bytes_of_a_row < len(one) < 2 * bytes_of_a_row
    np.testing.assert_array_equal(pickle.loads(one)[0], masks[1])  # noqa: S301 - made above
