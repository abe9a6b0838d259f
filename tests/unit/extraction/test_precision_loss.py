"""The error of what is stored, worked out by hand from the numbers of both models."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from regionspot.annotations import ImageRecord
from regionspot.backbones import (
    BoxPrompts,
    FrozenModels,
    GridProposer,
    ModelsConfig,
    Precision,
    load_frozen_models,
    region_tokens,
)
from regionspot.cache import MeasuredError
from regionspot.extraction import Preparation, PreparedImage, RegionLocator, measure_error

BOXES = {0: [[1, 2, 30, 25], [10, 3, 60, 40]], 1: [[5, 5, 20, 44]], 2: []}


def load(precision: Precision) -> FrozenModels:
    torch.set_num_threads(1)
    return load_frozen_models(ModelsConfig(preset="toy", precision=precision))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Sequence[PreparedImage]:
    folder, models = tmp_path_factory.mktemp("images"), load("float32")
    rng = np.random.default_rng(3)
    preparation = Preparation(
        images_dir=folder,
        exif_policy="ignore",
        locator=RegionLocator(localizer=models.localizer),
        encoder=models.encoder,
    )
    prepared = []
    for number, boxes in BOXES.items():
        coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
        coarse.resize((64, 48), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
        record = ImageRecord(
            image_id=number,
            key=str(number),
            file_name=f"{number}.png",
            annotated_size_hw=(48, 64),
            boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
            labels=np.zeros(len(boxes), np.int64),
        )
        image = preparation.prepare(record)
        assert isinstance(image, PreparedImage)
        prepared.append(image)
    return prepared


def numbers(
    models: FrozenModels, images: Sequence[PreparedImage]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the feature maps and position tokens of images, each computed alone."""
    localizer, encoder = models.localizer, models.encoder
    maps, tokens = [], []
    for image in images:
        assert image.clip_pixels is not None
        maps.append(encoder.features(encoder.normalise(image.clip_pixels[None])).numpy())
        if image.sam_pixels is not None:
            embedding = localizer.embed(localizer.normalise(image.sam_pixels)[None])
            record = image.record
            tokens.append(
                region_tokens(
                    localizer, embedding, BoxPrompts(boxes_xyxy=record.boxes_xyxy), record.size_hw
                ).numpy()
            )
    return maps, tokens


def relative_error(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    found_all = np.concatenate([array.ravel() for array in found]).astype(np.float64)
    wanted_all = np.concatenate([array.ravel() for array in wanted]).astype(np.float64)
    return float(np.sqrt(np.mean((found_all - wanted_all) ** 2) / np.mean(wanted_all**2)))


def test_the_error_is_the_root_mean_square_over_all_images_and_regions(
    images: Sequence[PreparedImage],
) -> None:
    error = measure_error(load("bfloat16"), images)
    found_maps, found_tokens = numbers(load("bfloat16"), images)
    found_maps = [array.astype(np.float16) for array in found_maps]
    found_tokens = [array.astype(np.float16) for array in found_tokens]
    wanted_maps, wanted_tokens = numbers(load("float32"), images)
    assert [len(tokens) for tokens in wanted_tokens] == [2, 1]
    wanted_error = relative_error(found_maps, wanted_maps)
    assert error.feature_map == float(f"{wanted_error:.2g}")
    wanted = relative_error(found_tokens, wanted_tokens)
    assert error.position_tokens == float(f"{wanted:.2g}")
    assert error.num_images == 3
    assert 1e-3 < wanted < 2e-2


def test_float32_has_that_of_rounding_to_float16_alone(images: Sequence[PreparedImage]) -> None:
    maps, tokens = numbers(load("float32"), images)
    error = measure_error(load("float32"), images)
    for found, exact in ((error.feature_map, maps), (error.position_tokens, tokens)):
        rounded = [array.astype(np.float16) for array in exact]
        assert found == float(f"{relative_error(rounded, exact):.2g}")
        assert found < 2**-11


def test_int8_costs_feature_maps_what_its_codes_leave_out(images: Sequence[PreparedImage]) -> None:
    maps, _ = numbers(load("float32"), images)
    decoded = []
    for array in maps:
        order = np.argsort(-np.abs(array), axis=-1)
        rest = array.copy()
        np.put_along_axis(rest, order[..., :8], 0, axis=-1)
        scales = np.abs(rest).max(axis=-1, keepdims=True) / 127
        found = np.round(rest / scales) * scales
        outliers = np.take_along_axis(array, order[..., :8], axis=-1).astype(np.float16)
        np.put_along_axis(found, order[..., :8], outliers, axis=-1)
        decoded.append(found)
    error = measure_error(load("float32"), images, codec="int8")
    assert error.feature_map == float(f"{relative_error(decoded, maps):.2g}")
    assert 1e-3 < error.feature_map < 2e-2


def test_what_there_is_nothing_to_measure_on_is_not_said(images: Sequence[PreparedImage]) -> None:
    models = load("float16")
    nothing = measure_error(models, [])
    assert nothing == MeasuredError(feature_map=None, position_tokens=None, num_images=0)
    no_region = measure_error(models, images[2:])
    assert no_region.position_tokens is None
    assert no_region.feature_map is not None


def test_regions_that_sam_finds_itself_are_compared_one_by_one(
    images: Sequence[PreparedImage],
) -> None:
    models = load("bfloat16")
    grid = GridProposer(points_per_side=4, pred_iou_thresh=0, stability_score_thresh=0)
    locator = RegionLocator(localizer=models.localizer, grid=grid)
    error = measure_error(models, images[:2], locator)
    assert error.position_tokens is not None
    assert 1e-4 < error.position_tokens < 2e-2
