"""SAM 2 against ``transformers`` itself, small: pixels, prompts, tokens, masks, and a whole run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import (
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2ImageProcessor,
    Sam2MaskDecoderConfig,
    Sam2Model,
    Sam2Processor,
    Sam2PromptEncoderConfig,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam2VisionConfig,
)

from helpers.heads import random_head
from helpers.samples import PHOTOS
from regionspot.annotations import ImageRecord
from regionspot.backbones import (
    BoxPrompts,
    Execution,
    Frame,
    FrozenModels,
    GridProposer,
    MaskForm,
    MaskPrompts,
    ModelsConfig,
    OpenClipEncoder,
    PointPrompts,
    Sam2Localizer,
    TokenSite,
    load_clip,
    load_frozen_models,
    load_sam2,
    mask_logits,
    rated_tokens,
    region_masks,
    region_tokens,
)
from regionspot.backbones.sam2 import build_sam2
from regionspot.core.errors import ShapeError
from regionspot.core.geometry import resize_boxes_xyxy
from regionspot.extraction import PreparedImage, featurize
from regionspot.inference import RegionSpot

SIDE = 64
SIZE_HW = (50, 120)
BOXES = np.array([[5, 4, 40, 30], [0, 0, 120, 50], [60.5, 10.25, 61, 48], [7, 7, 7, 7]], np.float32)
POINTS = np.array([[[10, 20], [60, 30]], [[100, 40], [0, 0]]], np.float32)
LABELS = np.array([[1, 0], [1, -1]])


def small_sam2(side: int) -> Sam2Model:
    """The real class, made small; every parameter is random, so that none can be forgotten."""
    hiera = Sam2HieraDetConfig(
        hidden_size=8,
        image_size=[side, side],
        embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2],
        blocks_per_stage=[1, 1, 2, 1],
        window_size_per_stage=[4, 2, 2, 2],
        global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )
    vision = Sam2VisionConfig(
        backbone_config=hiera,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[side // stride] * 2 for stride in (4, 8, 16)],
        fpn_hidden_size=32,
    )
    prompts = Sam2PromptEncoderConfig(hidden_size=32, image_size=side, patch_size=16)
    decoder = Sam2MaskDecoderConfig(
        hidden_size=32, mlp_dim=64, num_attention_heads=4, iou_head_hidden_dim=16
    )
    config = Sam2Config(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = Sam2Model(config).eval().requires_grad_(requires_grad=False)
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def sam2() -> Sam2Model:
    torch.set_num_threads(1)
    return small_sam2(SIDE)


@pytest.fixture(scope="module")
def processor() -> Sam2Processor:
    size = {"height": SIDE, "width": SIDE}
    return Sam2Processor(Sam2ImageProcessor(size=size))


def _localizer(sam2: Sam2Model, site: TokenSite = "transformer") -> Sam2Localizer:
    return Sam2Localizer(sam2, token_site=site, model_name="small")


def _image(size_hw: tuple[int, int], seed: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), dtype=np.uint8)


def _pixels(processor: Sam2Processor, image: NDArray[np.uint8]) -> Tensor:
    """Squash with PIL as the localizer does, so that what follows can be held equal exactly."""
    squashed = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels: Tensor = processor(images=squashed, return_tensors="pt")["pixel_values"]
    return pixels


def _framed(
    processor: Sam2Processor, size_hw: tuple[int, int], **prompts: Any
) -> dict[str, Tensor]:
    framed = processor(original_sizes=[list(size_hw)], return_tensors="pt", **prompts)
    return {name: torch.as_tensor(framed[name]) for name in prompts}


def _run(sam2: Sam2Model, pixels: Tensor, **inputs: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Run Sam2Model for one answer a prompt, and listen: prompts, transformer, hypernetwork."""
    heard: dict[str, Tensor] = {}
    decoder = sam2.mask_decoder
    hooks = [
        sam2.prompt_encoder.register_forward_hook(
            lambda _module, _inputs, output: heard.update(sparse=output[0][0])
        ),
        decoder.transformer.register_forward_hook(
            lambda _module, _inputs, output: heard.update(hs=output[0][0])
        ),
        decoder.output_hypernetworks_mlps[0].register_forward_hook(
            lambda _module, inputs, output: heard.update(mask_0=inputs[0][0], mlp=output[0])
        ),
        decoder.iou_prediction_head.register_forward_hook(
            lambda _module, _inputs, output: heard.update(iou=output[0][:, 0])
        ),
    ]
    with torch.no_grad():
        output = sam2(pixel_values=pixels, multimask_output=False, **inputs)
    for hook in hooks:
        hook.remove()
    return heard, output.pred_masks


# --- Pixels and frames ------------------------------------------------------------------------


@pytest.mark.parametrize("path", PHOTOS)
def test_a_photo_becomes_the_pixels_of_sam2_processor_to_one_level(path: Path) -> None:
    # Levels are whole: PIL and torchvision round the same sums, but not by the same arithmetic.
    localizer = _localizer(small_sam2(1024))
    photo = Image.open(path).convert("RGB")
    theirs = Sam2ImageProcessor()(photo, return_tensors="pt")["pixel_values"][0]
    ours = localizer.preprocess(np.asarray(photo))
    assert ours.shape == (3, 1024, 1024)
    level = 1 / 255 / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    levels_off = (ours - theirs).abs() / level
    assert levels_off.max() < 1.001
    # Where the height shrinks more than the width, torchvision rounds differently more often.
    is_high = photo.height > photo.width
    assert (levels_off > 0.5).float().mean() < (0.05 if is_high else 0.002)


def test_an_image_of_sam2s_size_becomes_the_pixels_of_sam2_processor(
    sam2: Sam2Model, processor: Sam2Processor
) -> None:
    image = _image((SIDE, SIDE))
    theirs = processor(images=image, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(_localizer(sam2).preprocess(image), theirs, rtol=0, atol=1e-6)


@given(height=st.integers(1, 3000), width=st.integers(1, 3000), seed=st.integers(0, 99))
def test_boxes_move_to_sam2s_frame_as_in_sam2_processor(height: int, width: int, seed: int) -> None:
    corners = np.random.default_rng(seed).uniform(0, 1, (3, 2, 2)) * [width, height]
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
    full_size = Sam2Processor(Sam2ImageProcessor())
    theirs = _framed(full_size, (height, width), input_boxes=[boxes.tolist()])["input_boxes"][0]
    ours = resize_boxes_xyxy(boxes, (height, width), (1024, 1024))
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6, atol=1e-4)


# --- Tokens -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size_hw", [SIZE_HW, (90, 41)])
def test_tokens_of_boxes_are_those_that_sam2_decodes_its_masks_from(
    sam2: Sam2Model, processor: Sam2Processor, size_hw: tuple[int, int]
) -> None:
    boxes = np.minimum(BOXES, min(size_hw))
    framed = _framed(processor, size_hw, input_boxes=[boxes.tolist()])
    pixels = _pixels(processor, _image(size_hw))
    heard, _ = _run(sam2, pixels, **framed)
    # Among the output tokens, an object score and the masks' rating come before mask token 0.
    torch.testing.assert_close(heard["hs"][:, 2], heard["mask_0"], rtol=0, atol=0)
    wanted: dict[TokenSite, Tensor] = {
        "prompt_encoder": heard["sparse"][:, :2].flatten(1),  # corner, corner, padding
        "transformer": heard["mask_0"],
        "mlp": heard["mlp"],
    }
    for site, theirs in wanted.items():
        localizer = _localizer(sam2, site)
        ours, ious = rated_tokens(
            localizer, localizer.embed(pixels), BoxPrompts(boxes_xyxy=boxes), size_hw
        )
        assert ours.shape == (len(boxes), localizer.token_dim)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        torch.testing.assert_close(ious, heard["iou"], rtol=0, atol=1e-5)
    assert (wanted["transformer"][0] - wanted["transformer"][1]).abs().max() > 0.1


def test_tokens_of_points_are_those_that_sam2_decodes_its_masks_from(
    sam2: Sam2Model, processor: Sam2Processor
) -> None:
    pixels = _pixels(processor, _image(SIZE_HW))
    framed = _framed(
        processor, SIZE_HW, input_points=[POINTS.tolist()], input_labels=[LABELS.tolist()]
    )
    heard, _ = _run(sam2, pixels, **framed)
    localizer = _localizer(sam2)
    ours = region_tokens(
        localizer,
        localizer.embed(pixels),
        PointPrompts(points_xy=POINTS, point_labels=LABELS),
        SIZE_HW,
    )
    torch.testing.assert_close(ours, heard["mask_0"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("prompt", ["mask", "box_and_mask"])
def test_tokens_of_a_masks_shape_are_those_that_sam2_decodes_its_masks_from(
    sam2: Sam2Model, processor: Sam2Processor, prompt: MaskForm
) -> None:
    masks = np.zeros((2, *SIZE_HW), np.bool_)
    masks[0, 3:30, 4:40] = True
    masks[1, 20:44, 60:119] = True
    boxes = [[4, 3, 40, 30], [60, 20, 119, 44]]
    pixels = _pixels(processor, _image(SIZE_HW))
    localizer = _localizer(sam2)
    ours = region_tokens(
        localizer, localizer.embed(pixels), MaskPrompts(masks=masks, form=prompt), SIZE_HW
    )
    frame = Frame(
        size_hw=SIZE_HW, resized_hw=(SIDE, SIDE), side_px=SIDE, device=torch.device("cpu")
    )
    for row, box in enumerate(boxes):  # SAM 2 takes one mask an image
        prompts = (
            _framed(processor, SIZE_HW, input_boxes=[[box]]) if prompt == "box_and_mask" else {}
        )
        shape = mask_logits(masks[row : row + 1], frame, grid_hw=(16, 16))
        heard, _ = _run(sam2, pixels, input_masks=shape, **prompts)
        torch.testing.assert_close(ours[row : row + 1], heard["mask_0"], rtol=0, atol=1e-5)


def test_the_corner_site_takes_boxes_and_single_points_only(
    sam2: Sam2Model, processor: Sam2Processor
) -> None:
    corners = _localizer(sam2, "prompt_encoder")
    embedding = corners.embed(_pixels(processor, _image(SIZE_HW)))
    one = region_tokens(
        corners,
        embedding,
        PointPrompts(points_xy=POINTS[:, :1], point_labels=LABELS[:, :1]),
        SIZE_HW,
    )
    assert one.shape == (2, 64)
    with pytest.raises(ShapeError, match=r"embed to 3 vectors.*models\.token_site"):
        region_tokens(
            corners, embedding, PointPrompts(points_xy=POINTS, point_labels=LABELS), SIZE_HW
        )
    mask = np.ones((1, *SIZE_HW), np.bool_)
    with pytest.raises(ShapeError, match=r"embed to 0 vectors"):
        region_tokens(corners, embedding, MaskPrompts(masks=mask, form="mask"), SIZE_HW)


def test_no_regions_give_nothing_of_the_right_shape(
    sam2: Sam2Model, processor: Sam2Processor
) -> None:
    localizer = _localizer(sam2)
    embedding = localizer.embed(_pixels(processor, _image(SIZE_HW)))
    assert region_tokens(localizer, embedding, BoxPrompts(boxes_xyxy=BOXES[:0]), SIZE_HW).shape == (
        0,
        32,
    )
    assert region_masks(localizer, embedding, BoxPrompts(boxes_xyxy=BOXES[:0]), SIZE_HW).shape == (
        0,
        *SIZE_HW,
    )


def test_a_batch_is_split_by_image(sam2: Sam2Model, processor: Sam2Processor) -> None:
    localizer = _localizer(sam2)
    pixels = [_pixels(processor, _image(SIZE_HW, seed)) for seed in (1, 2)]
    together = localizer.embed(torch.cat(pixels))
    with pytest.raises(ShapeError, match=r"\(2, 128, 4, 4\); wanted \(1, 128, 4, 4\)"):
        region_tokens(localizer, together, BoxPrompts(boxes_xyxy=BOXES), SIZE_HW)
    for index, alone in enumerate(pixels):
        one = together[index : index + 1]
        theirs = localizer.embed(alone)
        torch.testing.assert_close(one, theirs, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(
            region_masks(localizer, one, BoxPrompts(boxes_xyxy=BOXES), SIZE_HW),
            region_masks(localizer, theirs, BoxPrompts(boxes_xyxy=BOXES), SIZE_HW),
        )


SITES: tuple[TokenSite, TokenSite] = ("transformer", "prompt_encoder")


def test_bfloat16_is_close_to_float32_in_which_prompts_are_embedded_still(
    sam2: Sam2Model, processor: Sam2Processor
) -> None:
    pixels, boxes = _pixels(processor, _image(SIZE_HW)), np.array([[4.0, 3, 40, 30]], np.float32)
    wanted = _localizer(sam2)
    found, corners = (
        Sam2Localizer(
            small_sam2(SIDE),
            token_site=site,
            model_name="small",
            execution=Execution(precision="bfloat16"),
        )
        for site in SITES
    )
    embedded = found.embed(pixels)
    tokens = region_tokens(found, embedded, BoxPrompts(boxes_xyxy=boxes), SIZE_HW)
    theirs = region_tokens(wanted, wanted.embed(pixels), BoxPrompts(boxes_xyxy=boxes), SIZE_HW)
    for ours, exact in ((embedded, wanted.embed(pixels)), (tokens, theirs)):
        assert ours.dtype == torch.float32
        assert 0 < (ours - exact).norm() / exact.norm() < 2e-2
    exact_corners = region_tokens(
        _localizer(sam2, "prompt_encoder"), embedded, BoxPrompts(boxes_xyxy=boxes), SIZE_HW
    )
    assert torch.equal(
        region_tokens(corners, embedded, BoxPrompts(boxes_xyxy=boxes), SIZE_HW), exact_corners
    )


# --- Masks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size_hw", [SIZE_HW, (90, 41)])
def test_masks_of_boxes_are_those_of_sam2(
    sam2: Sam2Model, processor: Sam2Processor, size_hw: tuple[int, int]
) -> None:
    boxes = np.minimum(BOXES, min(size_hw))
    pixels = _pixels(processor, _image(size_hw))
    _, logits = _run(sam2, pixels, **_framed(processor, size_hw, input_boxes=[boxes.tolist()]))
    theirs = processor.post_process_masks(logits, [list(size_hw)])[0][:, 0].numpy()
    localizer = _localizer(sam2)
    ours = np.asarray(
        region_masks(localizer, localizer.embed(pixels), BoxPrompts(boxes_xyxy=boxes), size_hw)
    )
    assert ours.dtype == np.bool_
    assert 0 < ours.mean() < 1
    np.testing.assert_array_equal(ours, theirs)


def test_masks_of_points_are_those_of_sam2(sam2: Sam2Model, processor: Sam2Processor) -> None:
    pixels = _pixels(processor, _image(SIZE_HW))
    framed = _framed(
        processor, SIZE_HW, input_points=[POINTS.tolist()], input_labels=[LABELS.tolist()]
    )
    _, logits = _run(sam2, pixels, **framed)
    theirs = processor.post_process_masks(logits, [list(SIZE_HW)])[0][:, 0].numpy()
    localizer = _localizer(sam2)
    ours = region_masks(
        localizer,
        localizer.embed(pixels),
        PointPrompts(points_xy=POINTS, point_labels=LABELS),
        SIZE_HW,
    )
    np.testing.assert_array_equal(ours, theirs)


def test_an_unstable_mask_0_gives_way_to_another_mask_but_not_to_another_token(
    sam2: Sam2Model, processor: Sam2Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    localizer = _localizer(sam2)
    embedding = localizer.embed(_pixels(processor, _image(SIZE_HW)))
    masks = np.asarray(region_masks(localizer, embedding, BoxPrompts(boxes_xyxy=BOXES), SIZE_HW))
    tokens = region_tokens(localizer, embedding, BoxPrompts(boxes_xyxy=BOXES), SIZE_HW)
    monkeypatch.setattr(sam2.mask_decoder, "dynamic_multimask_via_stability", False)
    assert (
        np.asarray(region_masks(localizer, embedding, BoxPrompts(boxes_xyxy=BOXES), SIZE_HW))
        != masks
    ).any()
    assert torch.equal(
        region_tokens(localizer, embedding, BoxPrompts(boxes_xyxy=BOXES), SIZE_HW), tokens
    )


def test_the_grid_finds_the_regions_that_transformers_finds(
    sam2: Sam2Model, processor: Sam2Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    size_hw = (90, 90)  # transformers misplaces the grid on other than square images
    image = _image(size_hw)
    grid = GridProposer(
        points_per_side=6,
        pred_iou_thresh=0.3,
        stability_score_thresh=0.51,  # theirs must be more, ours at least this
        stability_score_offset=0.05,
    )
    theirs = processor.image_processor
    crops, points, _, labels = theirs.generate_crop_boxes(
        Image.fromarray(image), SIDE, points_per_crop=grid.points_per_side
    )
    pixels = _pixels(processor, image)
    with torch.no_grad():
        output = sam2(
            pixel_values=pixels,
            input_points=points.reshape(1, -1, 1, 2),
            input_labels=labels.reshape(1, -1, 1),
        )
    # A random SAM 2 puts whole images into its masks; cut high up, they become regions.
    cut = float(output.pred_masks.quantile(0.98))
    logits = theirs.post_process_masks(output.pred_masks, [size_hw], binarize=False)
    masks, ious, boxes = theirs.filter_masks(
        logits[0],
        output.iou_scores[0],
        size_hw,
        crops[0].tolist(),
        mask_threshold=cut,
        pred_iou_thresh=grid.pred_iou_thresh,
        stability_score_thresh=grid.stability_score_thresh,
        stability_score_offset=grid.stability_score_offset,
    )
    *_, kept = theirs.post_process_for_mask_generation(masks, ious, boxes, grid.box_nms_thresh)
    wanted = kept + torch.tensor([0, 0, 1, 1])  # theirs end at the last pixel
    localizer = _localizer(sam2)
    localizer.mask_threshold = cut
    found = grid.propose(localizer, localizer.embed(pixels), size_hw)
    assert 5 < len(wanted) < len(boxes)
    assert sorted(found.boxes_xyxy.tolist()) == sorted(wanted.float().tolist())


# --- Whole runs -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(sam2: Sam2Model) -> FrozenModels:
    encoder = OpenClipEncoder(load_clip("tiny", "shipped"))
    return FrozenModels(localizer=_localizer(sam2), encoder=encoder)


def _record(name: str, size_hw: tuple[int, int], boxes: NDArray[np.float32]) -> ImageRecord:
    return ImageRecord(
        key=name,
        image_id=1,
        file_name=f"{name}.jpg",
        annotated_size_hw=size_hw,
        boxes_xyxy=boxes,
        labels=np.zeros(len(boxes), np.int64),
    )


def test_a_batch_for_the_cache_holds_sam2s_tokens(
    models: FrozenModels, sam2: Sam2Model, processor: Sam2Processor
) -> None:
    wanted = []
    images: list[PreparedImage] = []
    cases: Sequence[tuple[tuple[int, int], NDArray[np.float32]]] = [
        (SIZE_HW, BOXES[:3]),
        ((80, 60), BOXES[:0]),
        ((41, 90), BOXES[:1]),
    ]
    for number, (size_hw, boxes) in enumerate(cases):
        pixels = _image(size_hw, number)
        images.append(
            PreparedImage(
                record=_record(f"i{number}", size_hw, boxes),
                sam_pixels=models.localizer.resize(pixels) if len(boxes) else None,
                clip_pixels=models.encoder.resize(pixels),
            )
        )
        theirs = torch.zeros(0, 32)
        if len(boxes):
            framed = _framed(processor, size_hw, input_boxes=[boxes.tolist()])
            theirs = _run(sam2, _pixels(processor, pixels), **framed)[0]["mask_0"]
        wanted.append(theirs.half().numpy())
    for sample, tokens in zip(featurize(models, images), wanted, strict=True):
        assert sample.position_tokens.shape == tokens.shape
        np.testing.assert_allclose(sample.position_tokens, tokens, rtol=2e-3, atol=1e-4)


def test_the_fingerprint_tells_sam2s_preprocessing_from_sams(models: FrozenModels) -> None:
    found = models.fingerprint()
    assert (found.sam_model, found.sam_image_size, found.token_dim) == ("small", SIDE, 32)
    assert found.sam_resize == Sam2Localizer.resize_rule == models.localizer.resize_rule
    assert "squash" in found.sam_resize
    toy = load_frozen_models(ModelsConfig(preset="toy")).fingerprint()
    assert any(line.startswith("sam_resize:") for line in found.differences(toy))


def test_regions_of_an_image_are_named_with_sam2(
    models: FrozenModels, sam2: Sam2Model, processor: Sam2Processor
) -> None:
    names = ("red striped circle", "blue plain square")
    trained = random_head(models, seed=0, bias=-8.0, vocabulary=names, templates="single")
    image = _image(SIZE_HW)
    regions = RegionSpot(trained, models).recognize(image, boxes=BOXES[:2])
    assert set(regions.labels) <= set(names)
    framed = _framed(processor, SIZE_HW, input_boxes=[BOXES[:2].tolist()])
    _, logits = _run(sam2, _pixels(processor, image), **framed)
    theirs = processor.post_process_masks(logits, [list(SIZE_HW)])[0][:, 0].numpy()
    assert regions.masks is not None
    np.testing.assert_array_equal(regions.masks, theirs)


# --- The released architectures ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "millions"), [("tiny", 38.9), ("small", 46.0), ("base_plus", 80.8), ("large", 224.4)]
)
def test_the_architectures_have_the_sizes_that_were_published(size: str, millions: float) -> None:
    """The numbers are those of SAM 2.1's own table, which counts the parts for videos as well."""
    with torch.device("meta"):
        image = build_sam2(f"sam2.1_hiera_{size}")
        video = Sam2VideoModel(Sam2VideoConfig(vision_config=image.config.vision_config))
    count = sum(parameter.numel() for parameter in video.parameters())
    assert abs(count / 1e6 - millions) < 0.1


@pytest.mark.parametrize("size", ["tiny", "small", "base_plus", "large"])
def test_the_image_encoders_are_block_by_block_those_of_timm(size: str) -> None:
    with torch.device("meta"):
        theirs: Any = timm.create_model(f"sam2_hiera_{size}")
        ours = build_sam2(f"sam2_hiera_{size}").vision_encoder.backbone
    assert [
        (block.dim_out, block.attn.num_attention_heads, block.window_size) for block in ours.blocks
    ] == [
        (block.dim_out, block.attn.num_heads, (block.window_size or (0,))[0])
        for block in theirs.blocks
    ]
    assert ours.pos_embed.shape == theirs.pos_embed.shape
    assert ours.pos_embed_window.shape == theirs.pos_embed_window.shape


@pytest.mark.slow
def test_sam2_by_configuration_at_full_size(tmp_path: Path) -> None:
    load_sam2("sam2.1_hiera_tiny", "random").save_pretrained(tmp_path / "weights")
    config = ModelsConfig(
        preset="toy", sam="sam2.1_hiera_tiny", sam_weights=str(tmp_path / "weights")
    )
    localizer = load_frozen_models(config).localizer
    embedding = localizer.embed(localizer.preprocess(_image((427, 640)))[None])
    boxes = np.array([[10, 20, 300, 400], [0, 0, 640, 427]], np.float32)
    tokens = region_tokens(localizer, embedding, BoxPrompts(boxes_xyxy=boxes), (427, 640))
    assert tokens.shape == (2, 256)
    assert localizer.token_dim == 256
    assert tokens.isfinite().all()
    assert region_masks(localizer, embedding, BoxPrompts(boxes_xyxy=boxes), (427, 640)).shape == (
        2,
        427,
        640,
    )
