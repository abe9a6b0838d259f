"""Real photos through the models at the paper's size: cache, a training step, an evaluation.

The weights are random, since none can be had here, and the same in every process. What is checked
is therefore not what the models recognise, but that their numbers are segment_anything's and
open_clip's own.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from segment_anything import SamPredictor
from segment_anything.utils.transforms import ResizeLongestSide

from regionspot.backbones import load_clip, load_sam
from regionspot.cache import FeatureCache
from regionspot.cli.cache import main as cache_main
from regionspot.cli.evaluate import main as evaluate_main
from regionspot.cli.train import main as train_main

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
COCO_JSON = DATA / "coco" / "000000142238.json"
TRUCK_BOXES = [
    *([425, 600, 700, 875], [75, 275, 1725, 850], [1375, 550, 1650, 800], [1240, 675, 1400, 750]),
]
MODELS = [
    *("--models.preset", "bb", "--models.sam_weights", "random"),
    *("--models.clip_weights", "random", "--templates", "[single]", "--device", "cpu"),
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not COCO_JSON.is_file(), reason=f"no test photos at {DATA}"),
    pytest.mark.filterwarnings("ignore"),  # that the weights are random is said loudly
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both photos and one LVIS-format file of all their regions."""
    folder = tmp_path_factory.mktemp("photos")
    content = json.loads(COCO_JSON.read_text(encoding="utf-8"))
    (folder / "000000142238.jpg").symlink_to(DATA / "coco" / "000000142238.jpg")
    (folder / "sam_truck.jpg").symlink_to(DATA / "sam_truck.jpg")
    truck = {"id": 1, "file_name": "sam_truck.jpg", "width": 1800, "height": 1200}
    used = sorted({one["category_id"] for one in content["annotations"]} | {3, 8})
    categories = [one for one in content["categories"] if one["id"] in used]
    images = [
        image | {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        for image in (content["images"][0], truck)
    ]
    annotations = [
        *content["annotations"],
        *(
            {"image_id": 1, "category_id": 8, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            for x1, y1, x2, y2 in TRUCK_BOXES
        ),
    ]
    for number, one in enumerate(annotations, start=1):
        x, y, width, height = one["bbox"]
        polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
        one |= {"id": number, "area": width * height, "segmentation": [polygon]}
    lvis = {
        "images": images,
        "annotations": annotations,
        "categories": [one | {"frequency": "f"} for one in categories],
    }
    (folder / "photos.json").write_text(json.dumps(lvis), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def cache_dir(photos: Path) -> Path:
    output_dir = photos / "cache"
    cache_main(
        [
            *("--annotations.format", "lvis", "--annotations.path", str(photos / "photos.json")),
            *("--annotations.images_dir", str(photos), "--output_dir", str(output_dir), *MODELS),
        ]
    )
    return output_dir


def test_a_coco_file_goes_in_as_it_is(tmp_path: Path) -> None:
    cache_main(
        [
            *("--annotations.format", "coco", "--annotations.path", str(COCO_JSON)),
            *("--annotations.images_dir", str(COCO_JSON.parent)),
            *("--output_dir", str(tmp_path / "cache"), *MODELS),
        ]
    )
    with FeatureCache.open(tmp_path / "cache") as cache:
        sample = cache.sample(0)
        assert len(cache.manifest.vocabulary) == 133
        assert (sample.image_id, sample.size_hw) == (142238, (427, 640))
        assert sample.position_tokens.shape == (18, 256)
        assert sample.feature_map.shape == (197, 768)
        assert sample.boxes_xyxy[0].tolist() == [282.0, 207.0, 330.0, 356.0]


@torch.no_grad()
@pytest.mark.parametrize(("image_id", "name"), [(142238, "000000142238.jpg"), (1, "sam_truck.jpg")])
def test_tokens_are_those_that_sam_predictor_decodes_its_masks_from(
    cache_dir: Path, image_id: int, name: str
) -> None:
    sam = load_sam("vit_b", "random")
    decoded: list[torch.Tensor] = []
    sam.mask_decoder.transformer.register_forward_hook(
        lambda _module, _inputs, output: decoded.append(output[0])
    )
    pixels = np.array(Image.open(DATA / ("coco" if image_id != 1 else "") / name).convert("RGB"))
    predictor = SamPredictor(sam)
    predictor.set_image(pixels)
    with FeatureCache.open(cache_dir) as cache:
        sample = next(s for s in map(cache.sample, range(len(cache))) if s.image_id == image_id)
        boxes = torch.from_numpy(np.array(sample.boxes_xyxy))
        ours = torch.from_numpy(np.array(sample.position_tokens, np.float32))
    boxes_sam = ResizeLongestSide(1024).apply_boxes_torch(boxes, pixels.shape[:2])
    predictor.predict_torch(None, None, boxes=boxes_sam, multimask_output=False)
    torch.testing.assert_close(ours, decoded[0][:, 1], rtol=2e-3, atol=2e-3)


@torch.no_grad()
def test_the_feature_map_ends_in_open_clips_own_image_embedding(cache_dir: Path) -> None:
    clip = load_clip("ViT-B-16-quickgelu", "random")
    visual: Any = clip.model.visual
    size = (224, 224)
    image = (
        Image.open(DATA / "sam_truck.jpg").convert("RGB").resize(size, Image.Resampling.BILINEAR)
    )
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    pixels = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with FeatureCache.open(cache_dir) as cache:
        sample = next(s for s in map(cache.sample, range(len(cache))) if s.image_id == 1)
        class_token = torch.from_numpy(np.array(sample.feature_map[:1], np.float32))
    theirs = clip.model.encode_image(pixels[None])
    torch.testing.assert_close(
        visual.ln_post(class_token) @ visual.proj, theirs, rtol=5e-3, atol=5e-3
    )


def test_one_training_step_and_one_evaluation(
    cache_dir: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    run_dir = tmp_path / "run"
    train_main(
        [
            *("fit", "--config", "configs/train/bb_stage1.yaml", "--data.templates", "single"),
            *("--data.train", json.dumps([str(cache_dir)]), "--data.val", str(cache_dir)),
            *("--val_annotations", str(photos / "photos.json"), "--trainer.accelerator", "cpu"),
            *("--trainer.devices", "1", "--max_images", "2", "--data.batch_size", "2"),
            *("--trainer.val_check_interval", "1", "--trainer.default_root_dir", str(run_dir)),
        ]
    )
    evaluate_main(
        [
            *("--cache", str(cache_dir), "--annotations", str(photos / "photos.json")),
            *("--images_dir", str(photos), "--output_dir", str(tmp_path / "eval")),
            *("--checkpoints", json.dumps([str(run_dir)]), "--templates", "single"),
        ]
    )
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text(encoding="utf-8"))
    assert 0 <= metrics["methods"]["fusion_head"]["AP"] <= 100
    assert metrics["methods"]["fusion_head"]["APr"] is None  # no class is rare here
    results = json.loads((tmp_path / "eval" / "predictions.json").read_text(encoding="utf-8"))
    assert {one["image_id"] for one in results} == {1, 142238}
