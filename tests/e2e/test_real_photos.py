"""Photos through the models at the paper's size: cache, a training step, an evaluation.

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

from helpers.samples import GENUINE, OURS, sample_files
from regionspot.backbones import load_clip, load_sam
from regionspot.cache import FeatureCache
from regionspot.cli.cache import make_cache
from regionspot.cli.evaluate import evaluate
from regionspot.cli.train import train

ROOT = Path(__file__).parents[2]
OUR_PHOTO, OUR_OTHER = (OURS / f"photos/{number:012d}.json" for number in (31_001, 31_002))
COCO_PHOTO, TRUCK = GENUINE / "coco/000000142238.json", GENUINE / "sam_truck.jpg"
TRUCK_BOXES_XYWH = [
    *([425, 600, 275, 275], [75, 275, 1650, 575], [1375, 550, 275, 250], [1240, 675, 160, 75]),
]
MODELS = [
    *("--models.preset", "bb", "--models.sam_weights", "random"),
    *("--models.clip_weights", "random", "--templates", "[single]", "--device", "cpu"),
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # that the weights are random is said loudly
]


Json = dict[str, Any]


def read_json(path: Path) -> Json:
    return json.loads(path.read_text(encoding="utf-8"))


def truck() -> Json:
    """What COCO would say of the photo of a truck, which comes without annotations."""
    image = {"id": 1, "file_name": TRUCK.name, "width": 1800, "height": 1200}
    boxes = [{"image_id": 1, "category_id": 8, "bbox": box} for box in TRUCK_BOXES_XYWH]
    return {"images": [image], "annotations": boxes}


@pytest.fixture(scope="module", params=sample_files((OUR_PHOTO,), (COCO_PHOTO,)))
def photos(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A folder with two photos and one LVIS-format file of all their regions."""
    folder = tmp_path_factory.mktemp("photos")
    first: Path = request.param
    content = read_json(first)
    other = (OUR_OTHER, read_json(OUR_OTHER)) if first == OUR_PHOTO else (TRUCK, truck())
    for path in (first, other[0]):
        (folder / f"{path.stem}.jpg").symlink_to(path.with_suffix(".jpg"))
    annotations = [*content["annotations"], *other[1]["annotations"]]
    used = {one["category_id"] for one in annotations}
    categories = [one for one in content["categories"] if one["id"] in used]
    images = [
        image | {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        for image in (content["images"][0], other[1]["images"][0])
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
    make_cache(
        [
            *("--annotations.format", "lvis", "--annotations.path", str(photos / "photos.json")),
            *("--annotations.images_dir", str(photos), "--output_dir", str(output_dir), *MODELS),
        ]
    )
    return output_dir


@pytest.mark.parametrize(
    ("path", "num_classes", "num_regions", "size_hw", "first_box_xyxy"),
    sample_files(
        (OUR_PHOTO, 5, 7, (480, 640), [65.0, 222.0, 218.0, 374.0]),
        (COCO_PHOTO, 133, 18, (427, 640), [282.0, 207.0, 330.0, 356.0]),
    ),
)
def test_a_coco_file_goes_in_as_it_is(
    tmp_path: Path,
    path: Path,
    num_classes: int,
    num_regions: int,
    size_hw: tuple[int, int],
    first_box_xyxy: list[float],
) -> None:
    make_cache(
        [
            *("--annotations.format", "coco", "--annotations.path", str(path)),
            *("--annotations.images_dir", str(path.parent)),
            *("--output_dir", str(tmp_path / "cache"), *MODELS),
        ]
    )
    with FeatureCache.open(tmp_path / "cache") as cache:
        sample = cache.sample(0)
        assert len(cache.manifest.vocabulary) == num_classes
        assert (sample.image_id, sample.size_hw) == (int(path.stem), size_hw)
        assert sample.position_tokens.shape == (num_regions, 256)
        assert sample.feature_map.shape == (197, 768)
        assert sample.boxes_xyxy[0].tolist() == first_box_xyxy


@torch.no_grad()
@pytest.mark.parametrize("number", [0, 1])
def test_tokens_are_those_that_sam_predictor_decodes_its_masks_from(
    photos: Path, cache_dir: Path, number: int
) -> None:
    image = read_json(photos / "photos.json")["images"][number]
    sam = load_sam("vit_b", "random")
    decoded: list[torch.Tensor] = []
    sam.mask_decoder.transformer.register_forward_hook(
        lambda _module, _inputs, output: decoded.append(output[0])
    )
    pixels = np.array(Image.open(photos / image["file_name"]).convert("RGB"))
    predictor = SamPredictor(sam)
    predictor.set_image(pixels)
    with FeatureCache.open(cache_dir) as cache:
        sample = next(s for s in map(cache.sample, range(len(cache))) if s.image_id == image["id"])
        boxes = torch.from_numpy(np.array(sample.boxes_xyxy))
        ours = torch.from_numpy(np.array(sample.position_tokens, np.float32))
    boxes_sam = ResizeLongestSide(1024).apply_boxes_torch(boxes, pixels.shape[:2])
    predictor.predict_torch(None, None, boxes=boxes_sam, multimask_output=False)
    torch.testing.assert_close(ours, decoded[0][:, 1], rtol=2e-3, atol=2e-3)


@torch.no_grad()
def test_the_feature_map_ends_in_open_clips_own_image_embedding(
    photos: Path, cache_dir: Path
) -> None:
    last = read_json(photos / "photos.json")["images"][-1]
    clip = load_clip("ViT-B-16-quickgelu", "random")
    visual: Any = clip.model.visual
    size = (224, 224)
    image = Image.open(photos / last["file_name"]).convert("RGB")
    image = image.resize(size, Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    pixels = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with FeatureCache.open(cache_dir) as cache:
        sample = next(s for s in map(cache.sample, range(len(cache))) if s.image_id == last["id"])
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
    train(
        [
            *("fit", "--config", "configs/train/bb_stage1.yaml", "--data.templates", "single"),
            *("--data.train", json.dumps([str(cache_dir)]), "--data.val", str(cache_dir)),
            *("--val_annotations", str(photos / "photos.json"), "--trainer.accelerator", "cpu"),
            *("--trainer.devices", "1", "--max_images", "2", "--data.batch_size", "2"),
            *("--trainer.val_check_interval", "1", "--trainer.default_root_dir", str(run_dir)),
        ]
    )
    evaluate(
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
    images = read_json(photos / "photos.json")["images"]
    assert {one["image_id"] for one in results} == {image["id"] for image in images}
