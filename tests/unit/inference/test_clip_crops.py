"""Names without a head, against PIL, SamPredictor and open_clip on one region at a time."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from segment_anything import SamPredictor
from torch import Tensor
from torchvision.transforms.functional import (
    normalize,
    pil_to_tensor,
)

from helpers.clip import clip_of
from regionspot.backbones import FrozenModels
from regionspot.core.errors import ConfigError, MissingFileError, ShapeError
from regionspot.core.region_scores import RegionScores
from regionspot.inference import (
    PIXEL_METHODS,
    PixelMethod,
    PromptedImage,
    score_pixel_methods,
)

Pixels = NDArray[np.uint8]
Boxes = NDArray[np.float32]
Judge = Callable[[FrozenModels, Pixels, NDArray[np.float32]], Tensor]

GREY = (123, 117, 104)  # OpenAI's mean of 0..1 in levels
ATOL = 1e-4


def clip_input(models: FrozenModels, pixels: Pixels) -> Tensor:
    size = models.encoder.info.image_size
    squashed = Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)
    levels = pil_to_tensor(squashed) / 255
    batch: Tensor = normalize(levels, models.encoder.info.mean, models.encoder.info.std)[None]
    return batch


def whole_pixels(box: NDArray[np.float32]) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = box.tolist()
    return math.floor(x1), math.floor(y1), math.ceil(x2), math.ceil(y2)


def embedded(models: FrozenModels, pixels: Pixels) -> Tensor:
    embedding: Tensor = clip_of(models).model.encode_image(
        clip_input(models, pixels), normalize=True
    )
    return embedding


def sam_mask(models: FrozenModels, pixels: Pixels, box: NDArray[np.float32]) -> NDArray[np.bool_]:
    predictor = SamPredictor(models.localizer.module)
    predictor.set_image(pixels)
    masks: NDArray[np.bool_] = predictor.predict(box=box, multimask_output=False)[0]
    return masks[0]


def greyed(models: FrozenModels, pixels: Pixels, box: NDArray[np.float32]) -> Pixels:
    mask = sam_mask(models, pixels, box)
    if not mask.any():  # then the box is all that is known of the region
        x1, y1, x2, y2 = whole_pixels(box)
        mask[y1:y2, x1:x2] = True
    picture = pixels.copy()
    picture[~mask] = GREY
    return picture


def by_box_crop(models: FrozenModels, pixels: Pixels, box: NDArray[np.float32]) -> Tensor:
    crop = Image.fromarray(pixels).crop(whole_pixels(box))
    return embedded(models, np.asarray(crop))


def by_mask_crop(models: FrozenModels, pixels: Pixels, box: NDArray[np.float32]) -> Tensor:
    crop = Image.fromarray(greyed(models, pixels, box)).crop(whole_pixels(box))
    return embedded(models, np.asarray(crop))


def by_grey_outside(models: FrozenModels, pixels: Pixels, box: NDArray[np.float32]) -> Tensor:
    return embedded(models, greyed(models, pixels, box))


def by_pooling(models: FrozenModels, pixels: Pixels, box: NDArray[np.float32]) -> Tensor:
    """The embeddings of all patches whose centres lie in the box; (P, E)."""
    visual = clip_of(models).model.visual
    patches = visual.forward_intermediates(
        clip_input(models, pixels), indices=1, output_fmt="NLC", normalize_intermediates=True
    )["image_intermediates"][0][0]
    side = math.isqrt(len(patches))
    height, width = pixels.shape[:2]
    inside = [
        row * side + column
        for row in range(side)
        for column in range(side)
        if box[0] <= (column + 0.5) * width / side < box[2]
        and box[1] <= (row + 0.5) * height / side < box[3]
    ]
    return torch.nn.functional.normalize(patches[inside] @ visual.proj, dim=-1)


JUDGES: dict[PixelMethod, Judge] = {
    "clip_box_crop": by_box_crop,
    "clip_mask_crop": by_mask_crop,
    "grey_outside_mask": by_grey_outside,
    "pooled_patches": by_pooling,
}


@torch.no_grad()
def scores_by_hand(
    method: PixelMethod, models: FrozenModels, pixels: Pixels, boxes: Boxes, bank: Tensor
) -> NDArray[np.float64]:
    rows = []
    for box in boxes:
        cosines = (JUDGES[method](models, pixels, box) @ bank.T).numpy().astype(np.float64)
        logits = clip_of(models).model.logit_scale.exp().item() * cosines
        powers = np.exp(np.log(np.exp(logits).mean(axis=0)))  # one crop, or a mean over patches
        rows.append(powers / powers.sum())
    return np.array(rows)


@pytest.fixture(scope="module")
def images(
    picture_path: Path, boxes: Boxes, tmp_path_factory: pytest.TempPathFactory
) -> list[PromptedImage]:
    """Three pictures with 3, 0 and 2 boxes."""
    folder = tmp_path_factory.mktemp("more")
    with Image.open(picture_path) as picture:
        picture.resize((80, 120)).save(folder / "tall.png")
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "mirrored.png")
    return [
        PromptedImage(image_id=5, path=picture_path, boxes_xyxy=boxes),
        PromptedImage(image_id=9, path=folder / "tall.png", boxes_xyxy=boxes[:0]),
        PromptedImage(image_id=2, path=folder / "mirrored.png", boxes_xyxy=boxes[:2]),
    ]


@pytest.fixture(scope="module")
def scored(
    models: FrozenModels, images: list[PromptedImage], bank: Tensor
) -> list[dict[PixelMethod, RegionScores]]:
    return [dict(by_method) for by_method in score_pixel_methods(models, images, bank)]


def test_every_method_has_a_judge() -> None:
    assert tuple(JUDGES) == PIXEL_METHODS


@pytest.mark.parametrize("method", PIXEL_METHODS)
def test_scores_are_those_of_the_method_done_by_hand(
    method: PixelMethod,
    models: FrozenModels,
    images: list[PromptedImage],
    scored: list[dict[PixelMethod, RegionScores]],
    bank: Tensor,
) -> None:
    for image, by_method in zip(images, scored, strict=True):
        with Image.open(image.path) as picture:
            pixels = np.asarray(picture)
        wanted = scores_by_hand(method, models, pixels, image.boxes_xyxy, bank)
        ours = by_method[method]
        assert ours.image_id == image.image_id
        np.testing.assert_array_equal(ours.boxes_xyxy, image.boxes_xyxy)
        np.testing.assert_allclose(ours.scores, wanted.reshape(-1, len(bank)), rtol=0, atol=ATOL)


def test_the_methods_do_not_agree_here(scored: list[dict[PixelMethod, RegionScores]]) -> None:
    """Otherwise the test above could not tell one from another."""
    logs = [np.log(scored[0][method].scores + 1e-30) for method in PIXEL_METHODS]
    for index, one in enumerate(logs):
        for other in logs[index + 1 :]:
            assert np.abs(one - other).max() > 0.01


@pytest.mark.parametrize(("image_batch_size", "crop_batch_size"), [(1, 1), (2, 4), (9, 1000)])
def test_batch_sizes_change_nothing(
    models: FrozenModels,
    images: list[PromptedImage],
    scored: list[dict[PixelMethod, RegionScores]],
    bank: Tensor,
    image_batch_size: int,
    crop_batch_size: int,
) -> None:
    others = score_pixel_methods(
        models,
        images,
        bank,
        image_batch_size=image_batch_size,
        crop_batch_size=crop_batch_size,
    )
    for ours, theirs in zip(others, scored, strict=True):
        assert tuple(ours) == PIXEL_METHODS
        for method in PIXEL_METHODS:
            np.testing.assert_allclose(
                ours[method].scores, theirs[method].scores, rtol=0, atol=ATOL
            )


@pytest.mark.parametrize("method", PIXEL_METHODS)
def test_a_method_alone_scores_as_in_company(
    method: PixelMethod,
    models: FrozenModels,
    images: list[PromptedImage],
    scored: list[dict[PixelMethod, RegionScores]],
    bank: Tensor,
) -> None:
    alone = score_pixel_methods(models, images, bank, methods=[method])
    for ours, theirs in zip(alone, scored, strict=True):
        np.testing.assert_allclose(ours[method].scores, theirs[method].scores, rtol=0, atol=ATOL)


def test_images_without_boxes_have_no_rows(
    models: FrozenModels, picture_path: Path, bank: Tensor
) -> None:
    empty = PromptedImage(image_id=1, path=picture_path, boxes_xyxy=np.zeros((0, 4), np.float32))
    for by_method in score_pixel_methods(models, [empty] * 5, bank):
        assert [scores.scores.shape for scores in by_method.values()] == [(0, 4)] * 4
    assert list(score_pixel_methods(models, [], bank)) == []


def test_more_boxes_than_masks_are_held_at_once_keep_their_rows(
    models: FrozenModels, picture_path: Path, boxes: Boxes, bank: Tensor
) -> None:
    many = PromptedImage(image_id=1, path=picture_path, boxes_xyxy=np.tile(boxes, (7, 1)))
    (by_method,) = score_pixel_methods(models, [many], bank, methods=["clip_mask_crop"])
    scores = by_method["clip_mask_crop"].scores
    np.testing.assert_allclose(scores, np.tile(scores[:3], (7, 1)), rtol=0, atol=ATOL)


def test_boxes_are_cut_to_the_image_for_scoring_and_handed_back_as_they_were(
    models: FrozenModels, picture_path: Path, bank: Tensor
) -> None:
    over = np.array([[100, 60, 250, 300], [-30, -1, 20, 9]], np.float32)
    cut = np.array([[100, 60, 140, 96], [0, 0, 20, 9]], np.float32)
    ours, theirs = (
        next(
            score_pixel_methods(
                models, [PromptedImage(image_id=1, path=picture_path, boxes_xyxy=boxes)], bank
            )
        )
        for boxes in (over, cut)
    )
    for method in PIXEL_METHODS:
        np.testing.assert_array_equal(ours[method].boxes_xyxy, over)
        np.testing.assert_allclose(ours[method].scores, theirs[method].scores, rtol=0, atol=1e-6)


def test_boxes_without_area_and_beyond_the_image_get_probabilities_too(
    models: FrozenModels, picture_path: Path, bank: Tensor
) -> None:
    odd = np.array([[50, 50, 50, 50], [20, 10, 20, 90], [500, 500, 600, 600]], np.float32)
    image = PromptedImage(image_id=1, path=picture_path, boxes_xyxy=odd)
    for scores in next(score_pixel_methods(models, [image], bank)).values():
        np.testing.assert_allclose(scores.scores.sum(axis=1), 1, rtol=0, atol=1e-6)


def test_a_detectors_confidence_is_handed_through(
    models: FrozenModels, picture_path: Path, boxes: Boxes, bank: Tensor
) -> None:
    confidence = np.array([0.5, 0.25, 1], np.float32)
    image = PromptedImage(image_id=1, path=picture_path, boxes_xyxy=boxes, box_scores=confidence)
    (ours,) = score_pixel_methods(models, [image], bank, methods=["clip_box_crop"])
    np.testing.assert_array_equal(ours["clip_box_crop"].box_scores, confidence)


def test_images_are_opened_one_batch_at_a_time(
    models: FrozenModels, images: list[PromptedImage], bank: Tensor
) -> None:
    missing = PromptedImage(image_id=3, path=Path("nowhere.png"), boxes_xyxy=images[0].boxes_xyxy)
    scores = score_pixel_methods(models, [*images, missing], bank, methods=["pooled_patches"])
    with pytest.raises(MissingFileError, match=r"nowhere\.png"):
        list(scores)
    one_by_one = score_pixel_methods(
        models, [images[0], missing], bank, methods=["pooled_patches"], image_batch_size=1
    )
    assert next(one_by_one)["pooled_patches"].image_id == 5
    with pytest.raises(MissingFileError, match=r"nowhere\.png"):
        next(one_by_one)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": []}, r"methods are \[\]; wanted one or more of clip_box_crop, clip_mask"),
        ({"methods": ["clip_box_crop", "magic"]}, "magic"),
        ({"image_batch_size": 0}, "image_batch_size is 0 and crop_batch_size 64"),
        ({"crop_batch_size": -1}, "crop_batch_size -1; wanted 1 or more"),
    ],
)
def test_options_that_cannot_work_are_refused_at_once(
    models: FrozenModels, bank: Tensor, options: dict[str, list[PixelMethod]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        score_pixel_methods(models, [], bank, **options)  # type: ignore[arg-type]


def test_a_text_bank_of_another_clip_is_refused_at_once(models: FrozenModels, bank: Tensor) -> None:
    with pytest.raises(ShapeError, match=r"shape \(4, 127\); wanted \(C, 128\)"):
        score_pixel_methods(models, [], bank[:, 1:])
