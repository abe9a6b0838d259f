"""A guided head gets the regions' boxes, wherever they come from."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from regionspot.backbones import (
    BoxPrompts,
    FrozenModels,
    GridProposer,
    MaskPrompts,
    PointPrompts,
    RegionPrompts,
    region_tokens,
)
from regionspot.cache import FeatureCache
from regionspot.data import CachedRegions
from regionspot.inference import RegionSpot, score_cached
from regionspot.model import FusionHead, HeadCard, HeadSpec, RegionClassifier, TrainedHead

Pixels = NDArray[np.uint8]
SIZE_HW = (96, 140)  # of the picture


@pytest.fixture(scope="module")
def guided(trained_head: TrainedHead) -> TrainedHead:
    """The random head of these tests with strengths from 0 to 30."""
    spec = replace(trained_head.card.head, guidance="learned", guidance_spread=30.0)
    head = FusionHead(spec).eval()
    head.load_state_dict(head.state_dict() | trained_head.head.state_dict())
    return replace(trained_head, head=head, card=replace(trained_head.card, head=spec))


@torch.inference_mode()
def embeddings_by_hand(
    guided: TrainedHead,
    models: FrozenModels,
    pixels: Pixels,
    prompts: RegionPrompts,
    boxes: list[list[float]],
) -> NDArray[np.float32]:
    """The head on an image alone, with boxes divided by hand."""
    localizer, encoder = models.localizer, models.encoder
    tokens = region_tokens(
        localizer, localizer.embed(localizer.preprocess(pixels)[None]), prompts, SIZE_HW
    )
    features = encoder.features(encoder.preprocess(pixels)[None])
    relative = torch.tensor([[x1 / 140, y1 / 96, x2 / 140, y2 / 96] for x1, y1, x2, y2 in boxes])
    embeddings: NDArray[np.float32] = guided.head(tokens[None], features, extents=relative[None])[
        0
    ].numpy()
    return embeddings


def test_boxes(
    guided: TrainedHead,
    trained_head: TrainedHead,
    models: FrozenModels,
    pixels: Pixels,
    boxes: NDArray[np.float32],
) -> None:
    prompts = BoxPrompts(boxes_xyxy=boxes)
    wanted = embeddings_by_hand(guided, models, pixels, prompts, boxes.tolist())
    # Beside an image with more regions: its own are padded.
    found, _ = RegionSpot(guided, models).recognize(
        [pixels, pixels], boxes=[boxes, np.tile(boxes, (2, 1))]
    )
    np.testing.assert_allclose(found.embeddings, wanted, rtol=1e-4, atol=1e-4)
    unguided = RegionSpot(trained_head, models).recognize(pixels, boxes=boxes)
    assert np.abs(unguided.embeddings - wanted).max() > 0.01


def test_masks_by_their_extent(guided: TrainedHead, models: FrozenModels, pixels: Pixels) -> None:
    masks = np.zeros((1, *SIZE_HW), np.bool_)
    masks[0, 20:61, 16:57] = True
    prompts = MaskPrompts(masks=masks, form="box")
    wanted = embeddings_by_hand(guided, models, pixels, prompts, [[16, 20, 57, 61]])
    found = RegionSpot(guided, models).recognize(pixels, masks=masks)
    np.testing.assert_allclose(found.embeddings, wanted, rtol=1e-4, atol=1e-4)


def test_points_by_the_extent_of_sams_mask(
    guided: TrainedHead, models: FrozenModels, pixels: Pixels
) -> None:
    points = np.array([[36.0, 40.0], [104.0, 52.0]], np.float32)
    found = RegionSpot(guided, models).recognize(pixels, points=points)
    extents = []
    assert found.masks is not None
    for mask in found.masks:
        rows, columns = np.nonzero(mask)
        extents.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    prompts = PointPrompts(points_xy=points[:, None], point_labels=np.ones((2, 1), np.int64))
    wanted = embeddings_by_hand(guided, models, pixels, prompts, extents)
    np.testing.assert_allclose(found.embeddings, wanted, rtol=1e-4, atol=1e-4)


def test_regions_that_sam_finds(guided: TrainedHead, models: FrozenModels, pixels: Pixels) -> None:
    grid = GridProposer(
        points_per_side=6,
        pred_iou_thresh=0.4,
        stability_score_thresh=0.5,
        stability_score_offset=0.5,
    )
    found = RegionSpot(guided, models).recognize_everything(pixels, grid=grid)
    assert len(found) > 1
    given = RegionSpot(guided, models).recognize(pixels, boxes=found.boxes_xyxy)
    np.testing.assert_allclose(found.embeddings, given.embeddings, rtol=1e-3, atol=1e-3)


def test_a_cache(make_cache: Callable[..., Path]) -> None:
    folder = make_cache(empty=(0, 3))
    cache = FeatureCache.open(folder)
    torch.manual_seed(1)
    spec = HeadSpec(
        token_dim=8, feature_dim=16, text_dim=6, num_heads=2, ffn_dim=12,
        guidance="learned", guidance_spread=30.0,
    )  # fmt: skip
    head = FusionHead(spec).eval()
    card = HeadCard(
        head=spec, scale=12.0, bias=0.0, fingerprint=cache.manifest.fingerprint.to_dict()
    )
    trained = TrainedHead(head=head, classifier=RegionClassifier(12.0, 0.0), card=card)
    bank = torch.from_numpy(np.array(cache.text_bank("ensemble81")))
    wanted = []
    with torch.no_grad():
        for index in range(len(cache)):
            sample = cache.sample(index)
            height, width = sample.size_hw
            relative = sample.boxes_xyxy / np.array([width, height, width, height], np.float32)
            embeddings = head(
                torch.from_numpy(sample.position_tokens.astype(np.float32))[None],
                torch.from_numpy(sample.feature_map.astype(np.float32))[None],
                extents=torch.from_numpy(relative)[None],
            )[0]
            wanted.append(trained.classifier(embeddings, bank).softmax(dim=-1).numpy())
    for row, scores in zip(score_cached(trained, cache, bank, batch_size=5), wanted, strict=True):
        np.testing.assert_allclose(row.scores, scores, rtol=0, atol=1e-5)

    # The batches of a training hold the same boxes.
    for batch in CachedRegions([folder], batch_size=4).train_dataloader():
        relative_boxes = batch.relative_boxes()
        assert relative_boxes.dtype == torch.float32
        assert (relative_boxes[~batch.region_mask] == 0).all()
        for key, found in zip(batch.keys, relative_boxes, strict=True):
            sample = cache.sample(int(key.removeprefix("image")))
            height, width = sample.size_hw
            by_hand = [
                [x1 / width, y1 / height, x2 / width, y2 / height]
                for x1, y1, x2, y2 in sample.boxes_xyxy.tolist()
            ]
            torch.testing.assert_close(found[: len(by_hand)], torch.tensor(by_hand))
