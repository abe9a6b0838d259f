"""A cache with a CLIP that has no class token, chosen by configuration only."""

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from regionspot import FeatureCache
from regionspot.backbones import ModelsConfig, load_clip
from regionspot.extraction import CacheConfig, cache_features
from regionspot.extraction.config import AnnotationsConfig

NAME = "e2e-small-map-pooled"
SIZES_HW = [(60, 100), (131, 77)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos with a box each, and a model in the manner of SigLIP, registered in open_clip."""
    folder = tmp_path_factory.mktemp("map_pooled")
    rng = np.random.default_rng(5)
    for number, (height, width) in enumerate(SIZES_HW):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    content = {
        "images": [
            {"id": number, "file_name": f"{number}.png", "height": height, "width": width}
            for number, (height, width) in enumerate(SIZES_HW)
        ],
        "annotations": [
            {"image_id": number, "category_id": number, "bbox": [10, 12, 30, 20]}
            for number in range(len(SIZES_HW))
        ],
        "categories": [{"id": 0, "name": "lemon"}, {"id": 1, "name": "tennis ball"}],
    }
    (folder / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    vision = {"timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "linear"}
    config = {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": {**vision, "image_size": 160},
        "text_cfg": text,
    }
    (folder / "models").mkdir()
    (folder / "models" / f"{NAME}.json").write_text(json.dumps(config), encoding="utf-8")
    open_clip.add_model_config(folder / "models")
    return folder


@torch.no_grad()
def test_its_pooled_embedding_is_cached_where_others_have_the_class_token(folder: Path) -> None:
    torch.set_num_threads(1)
    cache_features(
        CacheConfig(
            output_dir=str(folder / "cache"),
            annotations=AnnotationsConfig(
                format="coco", path=str(folder / "annotations.json"), images_dir=str(folder)
            ),
            models=ModelsConfig(preset="toy", clip=NAME, clip_weights="random"),
            templates=["none"],
        )
    )
    clip = load_clip(NAME, "random").model
    with FeatureCache.open(folder / "cache") as cache:
        fingerprint = cache.manifest.fingerprint
        assert (fingerprint.clip_first_token, fingerprint.feature_dim) == ("pooled embedding", 96)
        assert fingerprint.num_feature_tokens == 1 + 10 * 10
        maps_BTD = torch.stack(
            [torch.from_numpy(np.array(cache.sample(i).feature_map)).float() for i in range(2)]
        )
        bank_CE = torch.from_numpy(np.array(cache.text_bank("none")))
    squares = [
        Image.open(folder / f"{number}.png").resize((160, 160), Image.Resampling.BILINEAR)
        for number in range(2)
    ]
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    pixels = np.stack([(np.asarray(square) / 255 - mean) / std for square in squares])
    theirs = clip.encode_image(torch.from_numpy(pixels).permute(0, 3, 1, 2).float())
    ours = clip.visual.head(maps_BTD[:, 0])
    torch.testing.assert_close(ours, theirs, rtol=5e-3, atol=5e-3)  # stored in float16
    texts = open_clip.get_tokenizer(NAME)(["lemon", "tennis ball"])
    torch.testing.assert_close(bank_CE, F.normalize(clip.encode_text(texts), dim=-1))
