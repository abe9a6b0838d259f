"""Recognition against the libraries it is composed of, run by hand, and against a cache."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from segment_anything import SamPredictor
from torch import Tensor
from torchvision.ops import masks_to_boxes
from torchvision.transforms.functional import normalize, pil_to_tensor

from helpers.clip import clip_of
from helpers.heads import SCALE
from regionspot.backbones import (
    FrozenModels,
    MaskPrompts,
    ModelsConfig,
    load_frozen_models,
    region_tokens,
)
from regionspot.cache import FeatureCache
from regionspot.core.errors import (
    ConfigError,
    MissingFileError,
    NotFiniteError,
    ShapeError,
    VocabularyError,
)
from regionspot.core.vocabulary import Vocabulary
from regionspot.extraction import AnnotationsConfig, CacheConfig, cache_features
from regionspot.inference import (
    ImageError,
    ImageLike,
    Prototypes,
    Regions,
    RegionSpot,
    score_cached,
)
from regionspot.model import TrainedHead
from regionspot.toy import COLOURS, TEXTURES

Pixels = NDArray[np.uint8]
SENTENCE = "a photo of a {}."  # of the template set "single", which its card names


def bank_by_open_clip(models: FrozenModels, texts: list[str]) -> NDArray[np.float64]:
    clip = clip_of(models)
    with torch.no_grad():
        bank = clip.model.encode_text(clip.tokenizer(texts), normalize=True)
    return bank.numpy().astype(np.float64)


def probabilities(embeddings: NDArray[Any], bank: NDArray[np.float64]) -> NDArray[np.float64]:
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    powers = np.exp(SCALE * unit @ bank.T)
    quotients: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return quotients


def scores_by_class(regions: Regions) -> NDArray[np.float32]:
    scores = np.zeros_like(regions.top_scores)
    np.put_along_axis(scores, regions.top_class_ids, regions.top_scores, axis=1)
    return scores


def predictor_of(models: FrozenModels, pixels: Pixels) -> SamPredictor:
    predictor = SamPredictor(models.localizer.module)
    predictor.set_image(pixels)
    return predictor


def extents_of(masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Ask torchvision, whose boxes end on the last pixel instead of behind it."""
    boxes: NDArray[np.float32] = masks_to_boxes(torch.from_numpy(masks)).numpy()
    boxes[:, 2:] += 1
    return boxes


def assert_masks_agree(ours: NDArray[np.bool_], logits: NDArray[np.float32]) -> None:
    """Compare with SAM's logits, except where these are so near 0 that rounding decides."""
    sure = np.abs(logits) > 1e-3
    assert sure.mean() > 0.99
    np.testing.assert_array_equal(ours[sure], logits[sure] > 0)


def assert_same_regions(ours: Regions, theirs: Regions, *, atol: float = 2e-4) -> None:
    np.testing.assert_array_equal(ours.boxes_xyxy, theirs.boxes_xyxy)
    np.testing.assert_allclose(ours.embeddings, theirs.embeddings, rtol=0, atol=atol)
    np.testing.assert_allclose(scores_by_class(ours), scores_by_class(theirs), rtol=0, atol=atol)


def test_scores_are_the_softmax_of_scaled_cosines_with_open_clips_texts(
    model: RegionSpot,
    models: FrozenModels,
    vocabulary: Vocabulary,
    pixels: Pixels,
    boxes: NDArray[np.float32],
) -> None:
    regions = model.recognize(pixels, boxes=boxes, top_k=len(vocabulary))
    bank = bank_by_open_clip(models, [SENTENCE.format(name) for name in vocabulary])
    wanted = probabilities(regions.embeddings, bank)
    np.testing.assert_allclose(scores_by_class(regions), wanted, rtol=0, atol=1e-5)
    assert (np.diff(regions.top_scores, axis=1) <= 0).all()
    assert regions.labels == tuple(vocabulary[index] for index in wanted.argmax(axis=1))


def test_names_and_templates_may_be_chosen(
    model: RegionSpot, models: FrozenModels, pixels: Pixels, boxes: NDArray[np.float32]
) -> None:
    names = ["blue star", "the", "yellow ring"]
    regions = model.recognize(pixels, boxes=boxes, vocabulary=names, templates="none", top_k=3)
    wanted = probabilities(regions.embeddings, bank_by_open_clip(models, names))
    np.testing.assert_allclose(scores_by_class(regions), wanted, rtol=0, atol=1e-5)
    assert tuple(regions.vocabulary) == tuple(names)


@torch.no_grad()
def test_embeddings_are_the_heads_on_what_sam_and_open_clip_compute(
    model: RegionSpot,
    models: FrozenModels,
    trained_head: TrainedHead,
    pixels: Pixels,
    boxes: NDArray[np.float32],
) -> None:
    predictor, heard = predictor_of(models, pixels), list[Tensor]()
    hook = predictor.model.mask_decoder.transformer.register_forward_hook(
        lambda _module, _inputs, output: heard.append(output[0][:, 1])
    )
    for box in boxes:
        predictor.predict(box=box, multimask_output=False)
    hook.remove()
    squashed = Image.fromarray(pixels).resize((96, 96), Image.Resampling.BILINEAR)
    levels = normalize(
        pil_to_tensor(squashed) / 255, models.encoder.info.mean, models.encoder.info.std
    )
    seen = clip_of(models).model.visual.forward_intermediates(
        levels[None], indices=1, output_fmt="NLC", output_extra_tokens=True
    )
    class_token, patches = seen["image_intermediates_prefix"][0], seen["image_intermediates"][0]
    theirs = trained_head.head(torch.cat(heard)[None], torch.cat([class_token, patches], dim=1))[0]
    ours = model.recognize(pixels, boxes=boxes).embeddings
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=2e-4)


def test_pixels_and_a_cache_of_the_same_image_give_the_same_scores(
    model: RegionSpot,
    models: FrozenModels,
    trained_head: TrainedHead,
    vocabulary: Vocabulary,
    picture_path: Path,
    boxes: NDArray[np.float32],
    tmp_path: Path,
) -> None:
    sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
    content = {
        "images": [{"id": 7, "file_name": picture_path.name, "height": 96, "width": 140}],
        "annotations": [
            {"id": row, "image_id": 7, "category_id": row, "bbox": side, "iscrowd": 0}
            for row, side in enumerate(sides, start=1)
        ],
        "categories": [
            {"id": number, "name": name} for number, name in enumerate(vocabulary, start=1)
        ],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    annotations = AnnotationsConfig(
        format="coco",
        path=str(tmp_path / "annotations.json"),
        images_dir=str(picture_path.parent),
    )
    cache_features(
        CacheConfig(
            output_dir=str(tmp_path / "cache"),
            annotations=annotations,
            models=ModelsConfig(preset="toy"),
            templates=["single"],
            device="cpu",
        )
    )
    with FeatureCache.open(tmp_path / "cache", fingerprint=models.fingerprint()) as cache:
        (cached,) = score_cached(trained_head, cache, cache.text_bank("single"))
    regions = model.recognize(picture_path, boxes=boxes, top_k=len(vocabulary))
    np.testing.assert_allclose(cached.boxes_xyxy, regions.boxes_xyxy, rtol=0, atol=1e-4)
    np.testing.assert_allclose(scores_by_class(regions), cached.scores, rtol=0, atol=2e-3)
    assert cached.image_id == 7


def test_masks_of_boxes_are_sams_single_masks(
    model: RegionSpot, models: FrozenModels, pixels: Pixels, boxes: NDArray[np.float32]
) -> None:
    masks = model.recognize(pixels, boxes=boxes).masks
    assert masks is not None
    assert masks.shape == (3, 96, 140)
    assert masks.dtype == np.bool_
    predictor = predictor_of(models, pixels)
    for mask, box in zip(masks, boxes, strict=True):
        logits, *_ = predictor.predict(box=box, multimask_output=False, return_logits=True)
        assert_masks_agree(mask, logits[0])


def test_masks_are_left_out_where_nobody_wants_them(
    model: RegionSpot, pixels: Pixels, boxes: NDArray[np.float32]
) -> None:
    with_masks = model.recognize(pixels, boxes=boxes, top_k=4)
    without = model.recognize(pixels, boxes=boxes, top_k=4, with_masks=False)
    assert without.masks is None
    assert_same_regions(without, with_masks, atol=0)


@pytest.mark.parametrize(
    ("points", "coordinates", "labels"),
    [
        ([[36, 40]], [[36, 40]], [1]),
        ([[[36, 40], [30, 45]]], [[36, 40], [30, 45]], [1, 1]),
        ([[[36, 40, 1], [104, 50, 0]]], [[36, 40], [104, 50]], [1, 0]),
    ],
    ids=["one", "two", "one in and one out"],
)
def test_points_give_sams_single_mask_and_its_extent_as_box(
    model: RegionSpot,
    models: FrozenModels,
    pixels: Pixels,
    points: list[Any],
    coordinates: list[list[int]],
    labels: list[int],
) -> None:
    regions = model.recognize(pixels, points=points)
    logits, *_ = predictor_of(models, pixels).predict(
        point_coords=np.array(coordinates),
        point_labels=np.array(labels),
        multimask_output=False,
        return_logits=True,
    )
    assert regions.masks is not None
    assert_masks_agree(regions.masks[0], logits[0])
    np.testing.assert_array_equal(regions.boxes_xyxy, extents_of(regions.masks))
    assert len(regions) == 1


@pytest.mark.parametrize(
    ("points", "box"),
    [
        ([[36.4, 40.7]], [36, 40, 37, 41]),
        ([[[36.4, 40.7, 1], [20, 50.5, 1], [90, 2, 0]]], [20, 40, 37, 51]),
        ([[140, 96]], [139, 95, 140, 96]),
        ([[0, 0]], [0, 0, 1, 1]),
    ],
)
def test_where_sam_sees_nothing_the_box_is_the_pixels_around_the_points(
    trained_head: TrainedHead, pixels: Pixels, points: list[Any], box: list[int]
) -> None:
    models = load_frozen_models(ModelsConfig(preset="toy"))
    models.localizer.mask_threshold = float("inf")
    regions = RegionSpot(trained_head, models).recognize(pixels, points=points)
    assert regions.boxes_xyxy.tolist() == [box]
    assert regions.masks is not None
    assert not regions.masks.any()


def test_masks_are_handed_back_and_named_by_their_extent(model: RegionSpot, pixels: Pixels) -> None:
    masks = np.zeros((2, 96, 140), np.bool_)
    masks[0, 20:61, 16:57] = True
    masks[1, 30, 84] = masks[1, 73, 123] = True
    regions = model.recognize(pixels, masks=masks, top_k=4)
    extents = extents_of(masks)
    assert regions.masks is not None
    np.testing.assert_array_equal(regions.masks, masks)
    assert_same_regions(regions, model.recognize(pixels, boxes=extents, top_k=4), atol=1e-5)


@pytest.mark.parametrize("prompt", ["mask", "box_and_mask"])
def test_masks_are_shown_to_sam_as_the_heads_training_showed_them(
    prompt: Literal["mask", "box_and_mask"],
    trained_head: TrainedHead,
    models: FrozenModels,
    pixels: Pixels,
) -> None:
    masks = np.zeros((1, 96, 140), np.bool_)
    masks[0, 20:61, 16:57] = True
    card = replace(trained_head.card, prompts=("box", prompt))
    regions = RegionSpot(replace(trained_head, card=card), models).recognize(pixels, masks=masks)
    localizer, encoder = models.localizer, models.encoder
    with torch.inference_mode():
        embedding = localizer.embed(localizer.preprocess(pixels)[None])
        tokens = region_tokens(
            localizer, embedding, MaskPrompts(masks=masks, form=prompt), (96, 140)
        )
        features = encoder.features(encoder.preprocess(pixels)[None])
        wanted = trained_head.head(tokens[None], features)[0]
    np.testing.assert_allclose(regions.embeddings, wanted.numpy(), rtol=1e-4, atol=1e-4)
    by_extent = RegionSpot(trained_head, models).recognize(pixels, masks=masks).embeddings
    assert np.abs(regions.embeddings - by_extent).max() > 1e-2


@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_a_region_depends_on_no_other_image_of_the_call(
    model: RegionSpot, pixels: Pixels, boxes: NDArray[np.float32], batch_size: int
) -> None:
    images = [pixels, pixels[:70], pixels[:, ::-1].copy(), pixels[:80, :90], 255 - pixels, pixels]
    prompts = [boxes, boxes[:0], boxes[:1], boxes[[0]], np.tile(boxes, (3, 1)), boxes[1:]]
    together = model.recognize(images, boxes=prompts, top_k=4, batch_size=batch_size)
    assert [len(regions) for regions in together] == [3, 0, 1, 1, 9, 2]
    for image, prompt, regions in zip(images, prompts, together, strict=True):
        np.testing.assert_array_equal(regions.image, image)
        assert_same_regions(regions, model.recognize(image, boxes=prompt, top_k=4))


def test_several_images_take_points_and_masks_likewise(model: RegionSpot, pixels: Pixels) -> None:
    disc, empty = np.zeros((1, 96, 140), np.bool_), np.zeros((0, 96, 140), np.bool_)
    disc[0, 20:61, 16:57] = True
    by_mask = model.recognize([pixels, pixels], masks=[empty, disc])
    by_point = model.recognize([pixels, pixels], points=[[[36, 40], [104, 50]], []])
    assert [len(regions) for regions in by_mask] == [0, 1]
    assert [len(regions) for regions in by_point] == [2, 0]


def test_the_order_of_the_prompts_is_the_order_of_the_regions(
    model: RegionSpot, pixels: Pixels, boxes: NDArray[np.float32]
) -> None:
    forward = model.recognize(pixels, boxes=boxes, top_k=4)
    backward = model.recognize(pixels, boxes=boxes[::-1], top_k=4)
    assert_same_regions(backward[::-1], forward)


@pytest.mark.parametrize("prompt", ["boxes", "points", "masks"])
def test_no_region_is_an_answer_too(model: RegionSpot, pixels: Pixels, prompt: str) -> None:
    prompts: dict[str, Any] = {prompt: []}
    regions = model.recognize(pixels, **prompts, top_k=2)
    assert len(regions) == 0
    assert regions.labels == ()
    assert regions.boxes_xyxy.shape == (0, 4)
    assert regions.top_scores.shape == (0, 2)
    assert regions.embeddings.shape == (0, 128)
    assert regions.masks is not None
    assert regions.masks.shape == (0, 96, 140)
    assert regions.plot().size == (700, 480)


def test_no_image_gives_no_answer(model: RegionSpot) -> None:
    assert model.recognize([], boxes=[]) == []


def test_a_path_a_picture_and_an_array_are_the_same_image(
    model: RegionSpot, pixels: Pixels, picture_path: Path, boxes: NDArray[np.float32]
) -> None:
    array = model.recognize(pixels, boxes=boxes, top_k=4)
    with Image.open(picture_path) as picture:
        kinds: list[ImageLike] = [picture_path, str(picture_path), picture.convert("RGBA")]
        for regions in model.recognize(kinds, boxes=[boxes.tolist()] * 3, top_k=4):
            np.testing.assert_array_equal(regions.image, pixels)
            assert_same_regions(regions, array)


def test_a_head_trained_on_upright_pictures_turns_photos_upright(
    trained_head: TrainedHead, models: FrozenModels, pixels: Pixels, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    Image.fromarray(pixels).save(tmp_path / "photo.png", exif=exif)
    fingerprint = models.fingerprint(exif_policy="apply").to_dict()
    card = replace(trained_head.card, fingerprint=fingerprint)
    model = RegionSpot(replace(trained_head, card=card), models)
    regions = model.recognize(tmp_path / "photo.png", boxes=[[0, 100, 90, 140]])
    with Image.open(tmp_path / "photo.png") as photo:
        np.testing.assert_array_equal(regions.image, np.asarray(ImageOps.exif_transpose(photo)))


@pytest.mark.parametrize(("top_k", "num_names"), [(1, 1), (3, 3), (99, 4)])
def test_as_many_names_come_back_as_asked_for_and_there_are(
    model: RegionSpot, pixels: Pixels, boxes: NDArray[np.float32], top_k: int, num_names: int
) -> None:
    regions = model.recognize(pixels, boxes=boxes, top_k=top_k)
    everything = model.recognize(pixels, boxes=boxes, top_k=4)
    assert [len(names) for names in regions.top_labels] == [num_names] * 3
    np.testing.assert_array_equal(regions.top_class_ids, everything.top_class_ids[:, :num_names])


BOX = [[10, 10, 50, 50]]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ConfigError, "found no prompts; wanted exactly one of boxes="),
        (
            {"boxes": BOX, "points": [[3, 4]]},
            ConfigError,
            "found boxes= and points=; wanted exactly one",
        ),
        (
            {"boxes": BOX, "top_k": 0},
            ConfigError,
            "top_k is 0; wanted a whole number of at least 1",
        ),
        ({"boxes": BOX, "templates": "poem"}, ConfigError, "no template set 'poem'"),
        (
            {"boxes": [*BOX, [10, 10, 450, 50]]},
            ShapeError,
            r"box 1 \(10, 10, 450, 50\) lies outside the image of 140 x 96 pixels",
        ),
        (
            {"boxes": [[-90.5, 10, -10, 50]]},
            ShapeError,
            r"box 0 \(-90.5, 10, -10, 50\) lies outside the image",
        ),
        (
            {"boxes": [[0.1, 0.2, 0.5, 1.02], [0, 0, 1, 1]]},
            ShapeError,
            r"box 0 is \(0.1, 0.2, 0.5, 1.02\): these boxes.*box_format='normalized'",
        ),
        (
            {"boxes": [*BOX, [100, 60, 30, 20]]},
            ShapeError,
            r"box 1 \(100, 60, 30, 20\) has no area.*its corners are \(100, 60, 130, 80\)",
        ),
        ({"boxes": [[20, 30, 20, 60]]}, ShapeError, r"\(20, 30, 20, 60\) has no area"),
        ({"boxes": [[None, 1, 2, 3]]}, ShapeError, "not finite"),
        ({"boxes": [["a", 1, 2, 3]]}, ShapeError, "boxes= makes no array"),
        ({"boxes": {"x": 1}}, ShapeError, "boxes= makes no array"),
        ({"boxes": [[0, 0, 9, 1e300]]}, ShapeError, "not finite"),
        ({"points": [[0.5, 0.25]]}, ShapeError, r"point \(0.5, 0.25\): the points look normalised"),
        ({"boxes": BOX, "top_k": "3"}, ConfigError, "top_k is '3'; wanted a whole number"),
        ({"boxes": BOX, "top_k": 2.5}, ConfigError, "top_k is 2.5; wanted a whole number"),
        ({"boxes": BOX, "top_k": None}, ConfigError, "top_k is None; wanted a whole number"),
        ({"boxes": BOX, "templates": ["single"]}, ConfigError, "no template set"),
        ({"boxes": BOX, "vocabulary": 5}, VocabularyError, "of type int; wanted a list"),
        ({"boxes": BOX, "vocabulary": b"egg"}, VocabularyError, "of type bytes; wanted a li"),
        ({"boxes": BOX, "vocabulary": [1, 2]}, VocabularyError, "name 1 is of type int; want"),
        ({"boxes": BOX, "vocabulary": Path("a.txt")}, VocabularyError, "from_file"),
        ({"boxes": [10, 10, 50, 50]}, ShapeError, r"shape \(4,\); wanted \(R, 4\)"),
        ({"boxes": [[1, 2, 3, float("nan")]]}, ShapeError, "not finite"),
        ({"boxes": [[1, 2, 3, 4], [1, 2, 3]]}, ShapeError, "boxes= makes no array"),
        ({"points": [[[1, 2], [3, 4]], [[1, 2]]]}, ShapeError, "pad them with the label -1"),
        (
            {"masks": [np.ones((96, 140), np.bool_), np.ones((9, 9), np.bool_)]},
            ShapeError,
            "masks= makes no array",
        ),
        ({"points": [[139, 97]]}, ShapeError, r"point \(139, 97\) of region 0 lies outside"),
        ({"points": [[1, 2, 3, 4]]}, ShapeError, r"shape \(1, 4\); wanted \(R, 2\)"),
        ({"points": [[[5, 6, 0]]]}, ShapeError, "at least one 1 for every region"),
        ({"points": [[[5, 6, 7]]]}, ShapeError, r"labels \[7.0\]; wanted 1"),
        ({"masks": np.ones((96, 140), np.bool_)}, ShapeError, r"shape \(96, 140\)"),
        ({"masks": np.ones((1, 140, 96), np.bool_)}, ShapeError, r"wanted \(R, 96, 140\) bool"),
        ({"masks": np.ones((1, 96, 140))}, ShapeError, "dtype float64; wanted"),
        ({"masks": np.zeros((1, 96, 140), np.bool_)}, ShapeError, "mask 0 is empty"),
        ({"boxes": BOX, "vocabulary": []}, VocabularyError, "holds no name"),
        ({"boxes": BOX, "vocabulary": ["egg", " "]}, VocabularyError, "' ' is empty"),
        ({"boxes": BOX, "vocabulary": ["egg", "egg"]}, VocabularyError, "'egg' already"),
        (
            {"boxes": BOX, "vocabulary": "egg, lamp"},
            VocabularyError,
            r"the text 'egg, lamp'; wanted a list of names, for instance \['egg', 'lamp'\]",
        ),
    ],
)
def test_a_mistake_in_the_question_is_explained(
    model: RegionSpot, pixels: Pixels, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        model.recognize(pixels, **options)


def test_a_box_over_the_edge_is_clipped_as_in_a_cache_and_told(
    model: RegionSpot, pixels: Pixels, caplog: pytest.LogCaptureFixture
) -> None:
    inside = model.recognize(pixels, boxes=[[10, 0, 140, 50]], top_k=4)
    for box in ([10, -0.4, 140.3, 50], [10, -5, 149.5, 50]):
        assert not caplog.records
        regions = model.recognize(pixels, boxes=[box], top_k=4)
        assert_same_regions(regions, inside, atol=0)
    (record,) = caplog.records
    assert record.getMessage() == (
        "box 0 (10, -5, 149.5, 50) extends over the edge of the image of 140 x 96 pixels"
        " (width x height) and is clipped to (10, 0, 140, 50)."
    )


def test_numbers_may_come_in_tensors_and_generators(
    model: RegionSpot, pixels: Pixels, boxes: NDArray[np.float32]
) -> None:
    wanted = model.recognize(pixels, boxes=boxes, top_k=4)
    tensor = torch.from_numpy(boxes.round())
    rounded = model.recognize(pixels, boxes=boxes.round(), top_k=4)
    forms: list[tuple[Any, Regions]] = [
        ((row for row in boxes), wanted),
        (list(torch.from_numpy(boxes)), wanted),
        (torch.from_numpy(boxes).requires_grad_(), wanted),
        (tensor.to(torch.bfloat16), rounded),
        (tensor.long(), rounded),
    ]
    top_k: Any = np.int64(4)
    for given, expected in forms:
        found = model.recognize(pixels, boxes=given, top_k=top_k)
        assert_same_regions(found, expected, atol=0)
    masks = torch.zeros(1, 96, 140, dtype=torch.bool)
    masks[0, 20:61, 16:57] = True
    by_tensor = model.recognize(pixels, masks=masks, top_k=4)
    assert_same_regions(by_tensor, model.recognize(pixels, masks=masks.numpy(), top_k=4), atol=0)


def test_several_images_may_come_from_generators(
    model: RegionSpot, pixels: Pixels, boxes: NDArray[np.float32]
) -> None:
    wanted = model.recognize([pixels, pixels[:80]], boxes=[boxes[:1], boxes[:2]], top_k=4)
    found = model.recognize(
        (image for image in (pixels, pixels[:80])),
        boxes=(boxes[:number] for number in (1, 2)),
        top_k=4,
    )
    for ours, theirs in zip(found, wanted, strict=True):
        assert_same_regions(ours, theirs, atol=0)


def test_many_images_are_named_as_by_one_worker(model: RegionSpot, pixels: Pixels) -> None:
    images = [pixels[: 40 + 10 * number] for number in range(9)]  # three batches
    wanted = model.recognize(images, boxes=[BOX] * 9, top_k=4)
    torch.set_num_threads(3)
    try:
        found = model.recognize(images, boxes=[BOX] * 9, top_k=4)
    finally:
        torch.set_num_threads(1)
    for ours, theirs in zip(found, wanted, strict=True):
        assert_same_regions(ours, theirs, atol=0)


@pytest.mark.parametrize(
    ("images", "boxes"), [(2, [BOX]), (2, np.zeros((1, 4))), (1, BOX * 3), (2, 5)]
)
def test_prompts_of_another_number_of_images_are_refused(
    model: RegionSpot, pixels: Pixels, images: int, boxes: Any
) -> None:
    with pytest.raises(ShapeError, match=f"boxes has .* entries for {images} images"):
        model.recognize([pixels] * images, boxes=boxes)


def test_an_image_that_is_none_is_refused(model: RegionSpot, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no image file at .*nowhere\.png"):
        model.recognize(tmp_path / "nowhere.png", boxes=BOX)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ImageError, match=r"text\.png"):
        model.recognize(tmp_path / "text.png", boxes=BOX)
    with pytest.raises(ShapeError, match="dtype float64; wanted uint8"):
        model.recognize(np.zeros((9, 9, 3)), boxes=BOX)
    record: Any = {"image": np.zeros((9, 9, 3), np.uint8)}
    with pytest.raises(ShapeError, match="the image is of type dict; wanted a path"):
        model.recognize(record, boxes=BOX)


def test_an_image_as_nested_lists_is_told_apart_from_a_list_of_images(
    model: RegionSpot, pixels: Pixels
) -> None:
    with pytest.raises(ShapeError, match="for 96 images; .* A single image is passed without a"):
        model.recognize(pixels.tolist(), boxes=BOX)


# --- Limits ---------------------------------------------------------------------------------


def test_an_image_of_one_pixel_has_a_region(model: RegionSpot) -> None:
    regions = model.recognize(np.full((1, 1, 3), 90, np.uint8), boxes=[[0, 0, 1, 1]])
    assert regions.boxes_xyxy.tolist() == [[0, 0, 1, 1]]
    assert regions.masks is not None
    assert regions.masks.shape == (1, 1, 1)


@pytest.mark.parametrize("size_hw", [(10, 20_000), (20_000, 10)])
def test_an_image_too_elongated_for_sam_is_told(
    model: RegionSpot, size_hw: tuple[int, int]
) -> None:
    strip = np.zeros((*size_hw, 3), np.uint8)
    with pytest.raises(ShapeError, match=r"would become .* it is too elongated .*\. Crop it"):
        model.recognize(strip, boxes=[[0, 0, 10, 10]])


@pytest.mark.parametrize(("num_regions", "num_names"), [(2_000, 10_000), (20, 100_000)])
def test_many_regions_and_names_are_scored_as_by_one_softmax(
    model: RegionSpot, pixels: Pixels, num_regions: int, num_names: int
) -> None:
    rng = np.random.default_rng(0)
    means = rng.normal(size=(num_names, 128)).astype(np.float32)
    names = Prototypes(
        vocabulary=Vocabulary(tuple(f"name {index}" for index in range(num_names))),
        means=means,
        num_examples=np.ones(num_names, np.int64),
    )
    corners = rng.uniform(0, 60, (num_regions, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 30, (num_regions, 2))], axis=1)
    found = model.recognize(pixels, boxes, examples=names, top_k=3, with_masks=False)
    bank = means / np.linalg.norm(means, axis=1, keepdims=True)
    wanted = probabilities(found.embeddings, bank.astype(np.float64))
    best = np.argsort(-wanted, axis=1)[:, :3]
    np.testing.assert_array_equal(found.top_class_ids, best)
    np.testing.assert_allclose(
        found.top_scores, np.take_along_axis(wanted, best, axis=1), rtol=1e-4
    )


def test_a_vocabulary_that_the_card_does_not_name_has_to_be_given(
    trained_head: TrainedHead, models: FrozenModels, pixels: Pixels
) -> None:
    card = replace(trained_head.card, vocabulary=())
    nameless = RegionSpot(replace(trained_head, card=card), models)
    with pytest.raises(VocabularyError, match="vocabulary="):
        nameless.recognize(pixels, boxes=BOX)
    assert nameless.recognize(pixels, boxes=BOX, vocabulary=["egg"]).labels == ("egg",)


def test_templates_that_the_card_does_not_name_have_to_be_given(
    trained_head: TrainedHead, models: FrozenModels, pixels: Pixels
) -> None:
    card = replace(trained_head.card, templates="")
    model = RegionSpot(replace(trained_head, card=card), models)
    with pytest.raises(ConfigError, match="templates="):
        model.recognize(pixels, boxes=BOX)
    assert len(model.recognize(pixels, boxes=BOX, templates="single")) == 1


def test_asking_again_gives_the_same_answer_whatever_was_asked_between(
    model: RegionSpot, pixels: Pixels, boxes: NDArray[np.float32]
) -> None:
    first = model.recognize(pixels, boxes=boxes, vocabulary=["egg", "lamp"], top_k=2)
    others = [f"{texture} {colour} lamp" for texture in TEXTURES for colour in COLOURS]
    assert len(others) > 16  # which is how many vocabularies are kept
    for name in others:
        model.recognize(pixels, boxes=boxes[:1], vocabulary=["egg", name])
    again = model.recognize(pixels, boxes=boxes, vocabulary=["egg", "lamp"], top_k=2)
    assert_same_regions(again, first, atol=0)


# --- Names that CLIP does not know, or cannot tell apart ------------------------------------


@pytest.mark.parametrize("names", [["cat", "dog"], ["sea egg", "cat", "red dog"]])
def test_words_that_the_tiny_clip_does_not_know_have_nothing_to_win_with(
    model: RegionSpot, pixels: Pixels, names: list[str]
) -> None:
    message = "2 of . class names hold words that the encoder tiny does not know.*'cat', 'dog'. It"
    with pytest.raises(VocabularyError, match=message):
        model.recognize(pixels, boxes=BOX, vocabulary=names)
    with pytest.raises(VocabularyError, match=message):
        model.recognize_everything(pixels, vocabulary=names)


def test_names_with_the_same_tokens_share_their_probability_with_a_warning(
    model: RegionSpot, pixels: Pixels, boxes: NDArray[np.float32], caplog: pytest.LogCaptureFixture
) -> None:
    names = ["Sea Egg", "blue star", "sea  egg"]
    regions = model.recognize(pixels, boxes=boxes, vocabulary=names, top_k=3)
    scores = scores_by_class(regions)
    np.testing.assert_allclose(scores[:, 0], scores[:, 2], rtol=1e-6)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert (
        "cannot tell them apart: 'Sea Egg' = 'sea  egg' (kept; see same_tokens)" in record.message
    )
    model.recognize(pixels, boxes=boxes, vocabulary=names, top_k=3)
    assert len(caplog.records) == 1  # told once


def test_names_with_the_same_tokens_may_be_merged_or_refused(
    model: RegionSpot, pixels: Pixels, boxes: NDArray[np.float32], caplog: pytest.LogCaptureFixture
) -> None:
    names = ["Sea Egg", "blue star", "sea  egg"]
    merged = model.recognize(pixels, boxes=boxes, vocabulary=names, same_tokens="merge", top_k=3)
    assert tuple(merged.vocabulary) == ("Sea Egg", "blue star")
    alone = model.recognize(pixels, boxes=boxes, vocabulary=names[:2], top_k=3)
    assert_same_regions(merged, alone, atol=0)
    assert not caplog.records
    with pytest.raises(VocabularyError, match="'Sea Egg' = 'sea  egg'. Rename or remove"):
        model.recognize(pixels, boxes=BOX, vocabulary=names, same_tokens="refuse")
    with pytest.raises(ConfigError, match="same_tokens is 'both'; wanted one of keep, merge, ref"):
        model.recognize(pixels, boxes=BOX, same_tokens="both")  # type: ignore[call-overload]


def test_a_name_longer_than_clip_reads_is_told(
    model: RegionSpot, pixels: Pixels, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["sea egg", "red " * 40 + "star"]
    model.recognize(pixels, boxes=BOX, vocabulary=names, templates="none")
    assert (
        "1 class names are cut, as the encoder tiny reads 32 tokens of a sentence: 'red red"
        in caplog.text
    )


def test_embeddings_that_are_not_finite_are_no_names(
    trained_head: TrainedHead, models: FrozenModels, pixels: Pixels, boxes: NDArray[np.float32]
) -> None:
    head = copy.deepcopy(trained_head.head)
    torch.nn.init.constant_(head.projector.bias, float("nan"))
    model = RegionSpot(replace(trained_head, head=head), models)
    with pytest.raises(NotFiniteError, match="region 0 is not finite"):
        model.recognize(pixels, boxes)
