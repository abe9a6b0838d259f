"""LVIS annotations that belong to a cache."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from regionspot.cache import FeatureCache


@pytest.fixture
def annotations_of(tmp_path: Path) -> Callable[[Path], Path]:
    """Return a function that writes the annotations which a cache would have been made from."""

    def write(cache_dir: Path) -> Path:
        with FeatureCache.open(cache_dir) as cache:
            samples = [cache.sample(position) for position in range(len(cache))]
            regions = [
                {
                    "image_id": sample.image_id,
                    "category_id": cache.manifest.category_ids[label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                }
                for sample in samples
                for label, (x1, y1, x2, y2) in zip(
                    sample.labels.tolist(), sample.boxes_xyxy.tolist(), strict=True
                )
            ]
            content = {
                "images": [
                    {
                        "id": sample.image_id,
                        "height": sample.size_hw[0],
                        "width": sample.size_hw[1],
                        "neg_category_ids": list(cache.manifest.category_ids),
                        "not_exhaustive_category_ids": [],
                    }
                    for sample in samples
                ],
                "annotations": [
                    {"id": number, **region} for number, region in enumerate(regions, start=1)
                ],
                "categories": [
                    {"id": number, "name": name, "frequency": "rcf"[position % 3]}
                    for position, (number, name) in enumerate(
                        zip(cache.manifest.category_ids, cache.manifest.vocabulary, strict=True)
                    )
                ],
            }
        path = tmp_path / f"{cache_dir.name}.json"
        path.write_text(json.dumps(content))
        return path

    return write
