"""The sizes in docs/three_million_images.md are those that shards have."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from regionspot.cache import CachedSample, Manifest, Plan, shard_path, write_manifest, write_shard

DOCUMENT = Path(__file__).parents[3] / "docs" / "three_million_images.md"
FORMS = {  # tokens, width
    "BB": (197, 768),
    "BL": (257, 1024),
    "BL@336": (577, 1024),
}
NUM_REGIONS = 12


def test_an_image_takes_the_bytes_that_the_document_says(
    manifest: Manifest, tmp_path: Path
) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    rows = re.findall(r"\| (BB|BL|BL@336) \| (float16|int8) \| ([0-9,]+) \| ([0-9.]+) TB \|", text)
    assert len(rows) == 6
    for preset, codec, bytes_text, terabytes in rows:
        num_tokens, width = FORMS[preset]
        folder = tmp_path / f"{preset}_{codec}"
        fingerprint = replace(
            manifest.fingerprint, num_feature_tokens=num_tokens, feature_dim=width, token_dim=256
        )
        plan = Plan.from_keys(["one"], images_per_shard=1)
        changed = replace(manifest, fingerprint=fingerprint, plan=plan, codec=codec, masks=False)
        write_manifest(folder, changed)
        stored = np.zeros((num_tokens, width), np.float16)
        if codec == "int8":
            stored = np.zeros((num_tokens, width + 36), np.uint8)
        sample = CachedSample(
            key="one",
            image_id=1,
            size_hw=(480, 640),
            boxes_xyxy=np.zeros((NUM_REGIONS, 4), np.float32),
            labels=np.zeros(NUM_REGIONS, np.int64),
            box_scores=np.ones(NUM_REGIONS, np.float32),
            position_tokens=np.zeros((NUM_REGIONS, 256), np.float16),
            feature_map=stored,
            predicted_iou=np.ones(NUM_REGIONS, np.float32),
            file_name="one.jpg",
        )
        write_shard(folder, 0, [sample])
        num_bytes = shard_path(folder, 0).stat().st_size - 1024  # without the end of the tar
        assert int(bytes_text.replace(",", "")) == num_bytes
        assert terabytes == f"{num_bytes * 3e6 / 1e12:.2f}"
