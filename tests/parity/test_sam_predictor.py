"""The localizer against ``segment_anything`` itself: pixels, tokens and masks."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

from helpers.sam import small_sam
from regionspot.backbones import (
    BoxPrompts,
    PointPrompts,
    SamLocalizer,
    SamPrompts,
    TokenSite,
    load_sam,
    rated_tokens,
    region_masks,
    region_tokens,
)
from regionspot.core.geometry import to_sam_frame

SIZES_HW = [(50, 120), (131, 77), (64, 64), (40, 30), (333, 500)]
BOXES = np.array([[5, 4, 40, 30], [0, 0, 120, 50], [60.5, 10.25, 61, 48], [7, 7, 7, 7]], np.float32)
POINTS = np.array([[[10, 20], [60, 30]], [[100, 40], [0, 0]]], np.float32)
LABELS = np.array([[1, 0], [1, -1]])


@pytest.fixture(scope="module")
def sam() -> Sam:
    return small_sam()


def _image(size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (*size_hw, 3), dtype=np.uint8)


def _predictor(sam: Sam, image: NDArray[np.uint8]) -> SamPredictor:
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    return predictor


def _resized_by_sam(sam: Sam, image: NDArray[np.uint8]) -> Tensor:
    resized = ResizeLongestSide(sam.image_encoder.img_size).apply_image(image)
    return torch.as_tensor(resized).permute(2, 0, 1)


def _localizer(sam: Sam, site: TokenSite = "transformer") -> SamLocalizer:
    return SamLocalizer(sam, token_site=site, model_name="small")


def _tokens(sam: Sam, embedding: Tensor, boxes_sam: Tensor, site: TokenSite) -> Tensor:
    return _localizer(sam, site).decode_tokens(embedding, SamPrompts(boxes_xyxy_sam=boxes_sam))[0]


@pytest.mark.parametrize("size_hw", SIZES_HW)
def test_pixels_are_those_of_sam_predictor(sam: Sam, size_hw: tuple[int, int]) -> None:
    image = _image(size_hw)
    theirs = _resized_by_sam(sam, image)
    localizer = _localizer(sam)
    assert torch.equal(localizer.resize(image), theirs)
    assert torch.equal(localizer.preprocess(image), sam.preprocess(theirs))


def test_the_embedding_is_that_of_sam_predictor(sam: Sam) -> None:
    image = _image((50, 120))
    localizer = _localizer(sam)
    ours = localizer.embed(localizer.preprocess(image)[None])
    torch.testing.assert_close(ours, _predictor(sam, image).features, rtol=1e-5, atol=1e-5)


def _tokens_sam_decodes_from(
    sam: Sam, embedding: Tensor, *, boxes: Tensor | None, points: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the whole mask decoder and listen: sparse prompts, transformer, hypernetwork."""
    heard: dict[str, Tensor] = {}
    decoder = sam.mask_decoder
    hooks = [
        decoder.transformer.register_forward_hook(
            lambda _module, _inputs, output: heard.update(hs=output[0])
        ),
        decoder.output_hypernetworks_mlps[0].register_forward_hook(
            lambda _module, _inputs, output: heard.update(mlp=output)
        ),
    ]
    with torch.no_grad():
        sparse, dense = sam.prompt_encoder(points=points, boxes=boxes, masks=None)
        decoder(
            image_embeddings=embedding,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
    for hook in hooks:
        hook.remove()
    return sparse, heard["hs"], heard["mlp"]


def assert_equal_to_rounding(ours: Tensor, theirs: Tensor) -> None:
    """Our two-way transformer adds in another order than SAM's; tokens are of the size of 1."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_tokens_are_those_that_sam_decodes_its_masks_from(sam: Sam) -> None:
    predictor = _predictor(sam, _image((50, 120)))
    boxes = torch.from_numpy(to_sam_frame(BOXES, (50, 120), 64))
    sparse, hs, mlp = _tokens_sam_decodes_from(sam, predictor.features, boxes=boxes, points=None)
    wanted: dict[TokenSite, Tensor] = {
        "prompt_encoder": sparse.reshape(len(BOXES), 64),
        "transformer": hs[:, 1],
        "mlp": mlp,
    }
    for site, theirs in wanted.items():
        assert_equal_to_rounding(_tokens(sam, predictor.features, boxes, site), theirs)
        ours = region_tokens(
            _localizer(sam, site), predictor.features, BoxPrompts(boxes_xyxy=BOXES), (50, 120)
        )
        assert_equal_to_rounding(ours, theirs)


@pytest.mark.parametrize("site", ["prompt_encoder", "transformer", "mlp"])
def test_predicted_ious_are_those_of_sam_predictor(sam: Sam, site: TokenSite) -> None:
    predictor = _predictor(sam, _image((50, 120)))
    boxes = torch.from_numpy(to_sam_frame(BOXES, (50, 120), 64))
    _, theirs, _ = predictor.predict_torch(None, None, boxes=boxes, multimask_output=False)
    _, ours = rated_tokens(
        _localizer(sam, site), predictor.features, BoxPrompts(boxes_xyxy=BOXES), (50, 120)
    )
    assert ours.shape == (len(BOXES),)
    assert_equal_to_rounding(ours, theirs[:, 0])
    assert ours.std() > 0.01


def test_tokens_of_points_are_those_that_sam_decodes_its_masks_from(sam: Sam) -> None:
    predictor = _predictor(sam, _image((50, 120)))
    points = torch.as_tensor(
        predictor.transform.apply_coords(POINTS, (50, 120)), dtype=torch.float32
    )
    _, hs, _ = _tokens_sam_decodes_from(
        sam, predictor.features, boxes=None, points=(points, torch.from_numpy(LABELS))
    )
    ours = region_tokens(
        _localizer(sam),
        predictor.features,
        PointPrompts(points_xy=POINTS, point_labels=LABELS),
        (50, 120),
    )
    assert_equal_to_rounding(ours, hs[:, 1])


@pytest.mark.parametrize("size_hw", [(50, 120), (120, 50)])
def test_masks_of_boxes_are_those_of_sam_predictor(sam: Sam, size_hw: tuple[int, int]) -> None:
    predictor = _predictor(sam, _image(size_hw))
    boxes = np.minimum(BOXES, min(size_hw))
    theirs, _, _ = predictor.predict_torch(
        None,
        None,
        torch.as_tensor(predictor.transform.apply_boxes(boxes, size_hw), dtype=torch.float32),
        multimask_output=False,
    )
    ours = np.asarray(
        region_masks(_localizer(sam), predictor.features, BoxPrompts(boxes_xyxy=boxes), size_hw)
    )
    assert ours.shape == (len(boxes), *size_hw)
    assert ours.dtype == np.bool_
    assert 0 < ours.mean() < 1
    np.testing.assert_array_equal(ours, theirs[:, 0].numpy())


def test_masks_of_points_are_those_of_sam_predictor(sam: Sam) -> None:
    predictor = _predictor(sam, _image((50, 120)))
    theirs, _, _ = predictor.predict_torch(
        torch.as_tensor(predictor.transform.apply_coords(POINTS, (50, 120)), dtype=torch.float32),
        torch.from_numpy(LABELS),
        multimask_output=False,
    )
    ours = region_masks(
        _localizer(sam),
        predictor.features,
        PointPrompts(points_xy=POINTS, point_labels=LABELS),
        (50, 120),
    )
    np.testing.assert_array_equal(ours, theirs[:, 0].numpy())


@pytest.mark.slow
def test_the_released_architecture_gives_the_tokens_that_sam_decodes_from() -> None:
    vit_b = load_sam("vit_b", "random")
    embedding = torch.randn(1, 256, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.3
    boxes = torch.tensor([[10.0, 20.0, 500.0, 700.0], [0.0, 0.0, 1024.0, 1024.0]])
    sparse, hs, mlp = _tokens_sam_decodes_from(vit_b, embedding, boxes=boxes, points=None)
    assert_equal_to_rounding(_tokens(vit_b, embedding, boxes, "transformer"), hs[:, 1])
    assert_equal_to_rounding(_tokens(vit_b, embedding, boxes, "mlp"), mlp)
    corners = _tokens(vit_b, embedding, boxes, "prompt_encoder")
    assert torch.equal(corners, sparse.flatten(1))
    assert (hs.shape[2], mlp.shape[1], corners.shape[1]) == (256, 32, 512)
