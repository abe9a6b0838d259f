"""Stored numbers are what SamPredictor and open_clip compute for the same image file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from open_clip.transform import image_transform
from PIL import Image
from pycocotools import mask as coco_mask
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from torch import Tensor, nn

from helpers.clip import clip_of
from regionspot.annotations import read_annotations
from regionspot.backbones import FrozenModels, ModelsConfig, TokenSite, load_frozen_models, load_sam
from regionspot.cache import CachedSample, decode_masks
from regionspot.core.errors import WeightsError
from regionspot.extraction import Preparation, PreparedImage, RegionLocator, featurize

SIZES_HW = [(60, 100), (131, 77), (40, 40), (90, 50)]
WITHOUT_REGIONS = 2
BOXES_XYWH = {
    0: [[10.0, 12.5, 30.0, 20.0], [0.0, 0.0, 100.0, 60.0], [70.25, 5.0, 1.0, 40.0]],
    1: [[5.0, 100.0, 60.0, 31.0]],
    3: [[1.0, 2.0, 3.0, 4.0], [20.0, 30.0, 10.0, 50.0]],
}
LABELS = {0: [2, 0, 2], 1: [1], 3: [0, 0]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(5)
    for number, (height, width) in enumerate(SIZES_HW):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")
    content = {
        "images": [
            {"id": number, "file_name": f"{number}.jpg", "height": height, "width": width}
            for number, (height, width) in enumerate(SIZES_HW)
        ],
        "annotations": [
            {"image_id": number, "category_id": label, "bbox": box}
            for number, boxes in BOXES_XYWH.items()
            for box, label in zip(boxes, LABELS[number], strict=True)
        ],
        "categories": [{"id": number, "name": f"class {number}"} for number in range(3)],
    }
    (folder / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def load_models(site: TokenSite = "transformer") -> FrozenModels:
    torch.set_num_threads(1)
    return load_frozen_models(ModelsConfig(preset="toy", token_site=site))


@pytest.fixture(scope="module")
def models() -> FrozenModels:
    return load_models()


@pytest.fixture(scope="module")
def prepared(folder: Path, models: FrozenModels) -> Sequence[PreparedImage]:
    preparation = Preparation(
        images_dir=folder,
        exif_policy="ignore",
        locator=RegionLocator(localizer=models.localizer),
        encoder=models.encoder,
    )
    records = read_annotations("coco", folder / "annotations.json", folder).records
    found = [preparation.prepare(record) for record in records]
    return [image for image in found if isinstance(image, PreparedImage)]


def pillow_image(folder: Path, number: int) -> Image.Image:
    return Image.open(folder / f"{number}.jpg").convert("RGB")


def boxes_xyxy(number: int) -> NDArray[np.float32]:
    boxes = np.array(BOXES_XYWH[number], np.float32)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


@torch.no_grad()
def tokens_of_sam_predictor(
    models: FrozenModels, folder: Path, number: int, site: TokenSite
) -> Tensor:
    """Let segment_anything predict masks of an image file's boxes, and listen where it reads."""
    sam: Sam = models.localizer.module
    predictor = SamPredictor(sam)
    heard: dict[str, Tensor] = {}
    hooks = [
        sam.mask_decoder.transformer.register_forward_hook(
            lambda _module, _inputs, output: heard.update(transformer=output[0][:, 1])
        ),
        sam.mask_decoder.output_hypernetworks_mlps[0].register_forward_hook(
            lambda _module, _inputs, output: heard.update(mlp=output)
        ),
        sam.prompt_encoder.register_forward_hook(
            lambda _module, _inputs, output: heard.update(prompt_encoder=output[0].flatten(1))
        ),
    ]
    size_hw = SIZES_HW[number]
    predictor.set_image(np.asarray(pillow_image(folder, number)))
    boxes = predictor.transform.apply_boxes_torch(torch.from_numpy(boxes_xyxy(number)), size_hw)
    predictor.predict_torch(None, None, boxes=boxes, multimask_output=False)
    for hook in hooks:
        hook.remove()
    return heard[site]


@torch.no_grad()
def answers_of_sam_predictor(
    models: FrozenModels, folder: Path, number: int
) -> tuple[NDArray[np.float32], list[bytes]]:
    """Let segment_anything predict an image's regions: IoUs, and masks as pycocotools encodes."""
    predictor = SamPredictor(models.localizer.module)
    predictor.set_image(np.asarray(pillow_image(folder, number)))
    boxes = predictor.transform.apply_boxes_torch(
        torch.from_numpy(boxes_xyxy(number)), SIZES_HW[number]
    )
    masks, ious, _ = predictor.predict_torch(None, None, boxes=boxes, multimask_output=False)
    encoded = coco_mask.encode(np.asfortranarray(masks[:, 0].permute(1, 2, 0).numpy(), np.uint8))
    return ious[:, 0].numpy(), [rle["counts"] for rle in encoded]


@torch.no_grad()
def map_of_open_clip(models: FrozenModels, folder: Path, number: int) -> Tensor:
    """Let open_clip embed an image file, and listen behind the last block."""
    clip: Any = clip_of(models).model
    transform = image_transform(
        clip.visual.image_size,
        is_train=False,
        mean=models.encoder.info.mean,
        std=models.encoder.info.std,
        resize_mode="squash",
        interpolation="bilinear",
    )
    heard: list[Tensor] = []
    hook = clip.visual.transformer.resblocks[-1].register_forward_hook(
        lambda _module, _inputs, output: heard.append(output)
    )
    clip.encode_image(transform(pillow_image(folder, number))[None])
    hook.remove()
    return heard[0][0]


def assert_same_halves(ours: NDArray[Any], theirs: Tensor) -> None:
    """Equal in float16, give or take its last bit: batches of another size round differently."""
    assert ours.dtype == np.float16
    np.testing.assert_allclose(ours, theirs.half().numpy(), rtol=2**-10, atol=2e-5)


# --- The numbers -----------------------------------------------------------------------------


@pytest.mark.parametrize("site", ["prompt_encoder", "transformer", "mlp"])
def test_position_tokens_are_those_that_sam_predictor_decodes_masks_from(
    folder: Path, prepared: Sequence[PreparedImage], site: TokenSite
) -> None:
    models = load_models(site)
    for number in BOXES_XYWH:
        (sample,) = featurize(models, [prepared[number]])
        theirs = tokens_of_sam_predictor(models, folder, number, site)
        assert_same_halves(sample.position_tokens, theirs)


@pytest.mark.parametrize("site", ["prompt_encoder", "transformer", "mlp"])
def test_predicted_ious_and_masks_are_those_of_sam_predictor(
    folder: Path, prepared: Sequence[PreparedImage], site: TokenSite
) -> None:
    models = load_models(site)
    locator = RegionLocator(localizer=models.localizer, masks=True)
    for number, sample in enumerate(featurize(models, prepared, locator)):
        assert sample.file_name == f"{number}.jpg"
        assert sample.predicted_iou is not None
        assert sample.masks_rle is not None
        if number == WITHOUT_REGIONS:
            assert (len(sample.predicted_iou), sample.masks_rle) == (0, ())
            continue
        ious, counts = answers_of_sam_predictor(models, folder, number)
        np.testing.assert_allclose(sample.predicted_iou, ious, rtol=1e-4, atol=1e-4)
        theirs = coco_mask.decode([{"size": SIZES_HW[number], "counts": one} for one in counts])
        for row, ours in enumerate(decode_masks(sample.masks_rle, sample.size_hw)):
            # Another batch rounds differently, which may move a pixel at the edge.
            assert (ours != theirs[..., row]).mean() < 0.002


@pytest.mark.parametrize("number", range(len(SIZES_HW)))
def test_feature_maps_are_the_last_block_of_open_clip(
    folder: Path, models: FrozenModels, prepared: Sequence[PreparedImage], number: int
) -> None:
    (sample,) = featurize(models, [prepared[number]])
    theirs = map_of_open_clip(models, folder, number)
    assert_same_halves(sample.feature_map, theirs)


def test_a_batch_holds_each_image_s_own_numbers_in_order(
    folder: Path, models: FrozenModels, prepared: Sequence[PreparedImage]
) -> None:
    samples = featurize(models, prepared)
    assert [sample.key for sample in samples] == [f"{number:012d}" for number in range(4)]
    for number, sample in enumerate(samples):
        assert_same_halves(sample.feature_map, map_of_open_clip(models, folder, number))
        if number != WITHOUT_REGIONS:
            tokens = tokens_of_sam_predictor(models, folder, number, "transformer")
            assert_same_halves(sample.position_tokens, tokens)


def test_what_the_annotations_say_is_stored_as_it_is(
    models: FrozenModels, prepared: Sequence[PreparedImage]
) -> None:
    for number, sample in enumerate(featurize(models, prepared)):
        assert (sample.image_id, sample.size_hw) == (number, SIZES_HW[number])
        assert sample.labels.tolist() == LABELS.get(number, [])
        if number == WITHOUT_REGIONS:
            assert sample.boxes_xyxy.shape == (0, 4)
        else:
            np.testing.assert_array_equal(sample.boxes_xyxy, boxes_xyxy(number))


# --- Images without regions ------------------------------------------------------------------


def featurize_counting(
    models: FrozenModels, images: Sequence[PreparedImage]
) -> tuple[list[CachedSample], list[int], list[int]]:
    """Return samples, and how many images each call of SAM's and CLIP's image side was given."""
    seen: dict[nn.Module, list[int]] = {}

    def listen(module: nn.Module) -> Any:
        seen[module] = []
        return module.register_forward_pre_hook(
            lambda _module, inputs: seen[module].append(len(inputs[0]))
        )

    whole_sam: Sam = models.localizer.module
    sam, clip = whole_sam.image_encoder.patch_embed, clip_of(models).model.visual.conv1
    hooks = [listen(sam), listen(clip)]
    samples = featurize(models, images)
    for hook in hooks:
        hook.remove()
    return samples, seen[sam], seen[clip]


def test_images_without_regions_do_not_reach_sam(
    models: FrozenModels, prepared: Sequence[PreparedImage]
) -> None:
    samples, seen_by_sam, seen_by_clip = featurize_counting(models, prepared)
    assert (seen_by_sam, seen_by_clip) == ([3], [4])
    tokens = samples[WITHOUT_REGIONS].position_tokens
    assert tokens.shape == (0, load_sam("tiny", "shipped").prompt_encoder.embed_dim)
    assert tokens.dtype == np.float16


def test_a_batch_of_nothing_but_images_without_regions_leaves_sam_alone(
    models: FrozenModels, prepared: Sequence[PreparedImage]
) -> None:
    images = [prepared[WITHOUT_REGIONS]] * 2
    samples, seen_by_sam, seen_by_clip = featurize_counting(models, images)
    assert (seen_by_sam, seen_by_clip) == ([], [2])
    np.testing.assert_array_equal(samples[0].feature_map, samples[1].feature_map)


@pytest.mark.parametrize("site", ["prompt_encoder", "transformer", "mlp"])
def test_no_region_gives_no_token_of_the_width_that_the_manifest_promises(
    prepared: Sequence[PreparedImage], site: TokenSite
) -> None:
    models = load_models(site)
    alone, with_regions = featurize(models, [prepared[WITHOUT_REGIONS], prepared[0]])
    assert alone.position_tokens.shape == (0, with_regions.position_tokens.shape[1])
    assert models.fingerprint().token_dim == with_regions.position_tokens.shape[1]


def test_no_image_gives_no_sample_and_calls_no_model(models: FrozenModels) -> None:
    assert featurize_counting(models, []) == ([], [], [])


# --- Weights that cannot be right ------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e5])
@pytest.mark.parametrize("model", ["SAM", "CLIP"])
def test_numbers_that_do_not_fit_float16_name_the_weights_to_check(
    prepared: Sequence[PreparedImage], model: str, value: float
) -> None:
    models = load_models()  # our own, to be spoilt
    sam: Sam = models.localizer.module
    spoilt = (
        sam.mask_decoder.transformer.norm_final_attn.bias
        if model == "SAM"
        else clip_of(models).model.visual.transformer.resblocks[-1].mlp.c_proj.bias
    )
    with torch.no_grad():
        spoilt[3] = value
    message = (
        rf"^{model}'s output for image 000000000001 \(1\.jpg\) is not finite in float16: .*"
        rf"--models\.{model.lower()}_weights\."
    )
    with pytest.raises(WeightsError, match=message):
        featurize(models, [prepared[1]])
