"""The patches in regions' masks, for heads that are guided by them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from regionspot.cache import CachedSample, FeatureCache
from regionspot.core.errors import ConfigError
from regionspot.data import CachedRegions

MakeCache = Callable[..., Path]


def by_hand(sample: CachedSample) -> list[list[bool]]:
    """Patches of a 2 x 2 grid by the pixel at their centre, as pycocotools decodes masks."""
    height, width = sample.size_hw
    rows: list[list[bool]] = []
    for counts, (x1, y1, x2, y2) in zip(
        sample.masks_rle or (), sample.boxes_xyxy.tolist(), strict=True
    ):
        mask = coco_mask.decode({"size": [height, width], "counts": counts})
        quarters = (0.25, 0.75)
        row = [bool(mask[int(height * y), int(width * x)]) for y in quarters for x in quarters]
        if not any(row):  # those of the box, which may hold no centre, either
            inside_y = [y1 <= height * y < y2 for y in quarters]
            inside_x = [x1 <= width * x < x2 for x in quarters]
            if not any(inside_y):
                inside_y = [(y1 + y2) / 2 < height / 2, (y1 + y2) / 2 >= height / 2]
            if not any(inside_x):
                inside_x = [(x1 + x2) / 2 < width / 2, (x1 + x2) / 2 >= width / 2]
            row = [y and x for y in inside_y for x in inside_x]
        rows.append(row)
    return rows


@pytest.mark.parametrize("max_regions", [None, 2])
def test_batches_hold_the_patches_in_masks(make_cache: MakeCache, max_regions: int | None) -> None:
    folder = make_cache(empty=(0, 3), masks=True)
    data = CachedRegions([folder], batch_size=4, max_regions_per_image=max_regions)
    data.request_masks()
    num_images = 0
    with FeatureCache.open(folder) as cache:
        for batch in data.train_dataloader():
            assert batch.mask_patches is not None
            assert batch.extents() is batch.mask_patches
            assert (batch.mask_patches.dtype, batch.mask_patches.shape) == (
                torch.bool,
                (*batch.labels.shape, 4),
            )
            assert not batch.mask_patches[~batch.region_mask].any()
            for row, key in enumerate(batch.keys):
                sample = cache.sample(int(key.removeprefix("image")))
                wanted = by_hand(sample)
                count = int(batch.region_mask[row].sum())
                assert count == min(sample.num_regions, max_regions or sample.num_regions)
                for box, found in zip(
                    batch.boxes_xyxy[row, :count], batch.mask_patches[row, :count], strict=True
                ):
                    (place,) = np.flatnonzero((sample.boxes_xyxy == box.numpy()).all(axis=1))
                    assert found.tolist() == wanted[place]
                num_images += 1
    assert num_images == 10


def test_masks_are_made_on_request_only(make_cache: MakeCache) -> None:
    data = CachedRegions([make_cache(masks=True)], batch_size=4)
    for batch in data.train_dataloader():
        assert batch.mask_patches is None
        assert batch.extents().shape == (*batch.labels.shape, 4)
    with pytest.raises(ConfigError, match=r"no masks .*--masks true"):
        CachedRegions([make_cache("plain")]).request_masks()
