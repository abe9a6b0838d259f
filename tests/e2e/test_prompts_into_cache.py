"""Points and masks all the way from an annotation file to a cache; the oracle is SamPredictor.

SAM's answers are stored: position tokens, predicted IoUs, and SAM's own masks.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from segment_anything import SamPredictor
from torch import Tensor

from regionspot.backbones import Frame, ModelsConfig, load_sam, mask_logits
from regionspot.cache import CachedSample, FeatureCache
from regionspot.core.errors import CacheMismatchError, ConfigError
from regionspot.extraction import AnnotationsConfig, CacheConfig, CacheSummary, cache_features

SIZE_HW = (90, 120)
POLYGON = [20.0, 10.0, 80.0, 15.0, 60.0, 70.0, 25.0, 60.0]
BOXES_XYWH = [[20, 10, 60, 60], [5, 5, 30, 40], [60, 40, 50, 45], [1, 1, 10, 10]]
POINTS = [[[50, 40]], [[10, 12], [30, 40]], [[80, 60]], [[500, 5]]]  # the last lies outside
POINT_LABELS = [[1], [1, 0], [1], [1]]
RLE = {"size": list(SIZE_HW), "counts": [5 * 90 + 5, 40, 50, 40, 50, 40, 90 * 112 + 45]}
OUTSIDE = [[500.0, 500.0, 510.0, 500.0, 500.0, 510.0]]

Run = Callable[..., CachedSample]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((120, 90), Image.Resampling.BICUBIC).save(folder / "a.png")
    segmentations: list[object] = [[POLYGON], RLE, [], OUTSIDE]
    content = {
        "images": [{"id": 7, "file_name": "a.png", "height": 90, "width": 120}],
        "annotations": [
            {
                "id": number,
                "image_id": 7,
                "category_id": number % 2,
                "bbox": box,
                "segmentation": segmentation,
                "point_coords": points,
                "point_labels": labels,
            }
            for number, (box, segmentation, points, labels) in enumerate(
                zip(BOXES_XYWH, segmentations, POINTS, POINT_LABELS, strict=True)
            )
        ],
        "categories": [{"id": 0, "name": "egg"}, {"id": 1, "name": "star"}],
    }
    (folder / "own.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Run:
    def run(prompt: str) -> CachedSample:
        annotations = AnnotationsConfig(
            format="coco",
            path=str(folder / "own.json"),
            images_dir=str(folder),
            prompt=prompt,  # type: ignore[arg-type]
        )
        config = CacheConfig(
            output_dir=str(tmp_path / "cache"),
            annotations=annotations,
            models=ModelsConfig(preset="toy"),
            templates=["none"],
            masks=True,
            device="cpu",
        )
        summary = cache_features(config)
        assert isinstance(summary, CacheSummary)
        cache = FeatureCache.open(tmp_path / "cache")
        assert cache.manifest.prompt == prompt
        assert summary.num_dropped_regions == cache.sample(0).num_dropped_regions
        return cache.sample(0)

    return run


Answer = tuple[NDArray[np.float16], float, NDArray[np.bool_]]
"""Position token, predicted IoU and mask."""


class Oracle:
    """SamPredictor on the same image, and what its mask decoder's transformer puts out."""

    def __init__(self, folder: Path) -> None:
        self.predictor = SamPredictor(load_sam("tiny", "shipped"))
        self.predictor.set_image(np.asarray(Image.open(folder / "a.png").convert("RGB")))
        self._heard: list[Tensor] = []
        self.predictor.model.mask_decoder.transformer.register_forward_hook(
            lambda _module, _inputs, output: self._heard.append(output[0][0, 1])
        )

    @torch.no_grad()
    def answer(
        self,
        *,
        points: list[list[int]] | None = None,
        labels: list[int] | None = None,
        box_xywh: list[int] | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> Answer:
        sam = self.predictor.model
        box = None
        if box_xywh is not None:
            x, y, width, height = box_xywh
            box = np.array([x, y, x + width, y + height])
        logits = None
        if mask is not None:
            frame = Frame(
                size_hw=mask.shape,
                resized_hw=self.predictor.input_size,
                side_px=sam.image_encoder.img_size,
                device=torch.device("cpu"),
            )
            grid_hw = sam.prompt_encoder.mask_input_size
            logits = mask_logits(mask[None], frame, grid_hw=grid_hw)[0].numpy()
        masks, ious, _ = self.predictor.predict(
            point_coords=None if points is None else np.array(points, np.float32),
            point_labels=None if labels is None else np.array(labels),
            box=box,
            mask_input=logits,
            multimask_output=False,
        )
        return self._heard[-1].numpy().astype(np.float16), float(ious[0]), masks[0]


@pytest.fixture
def oracle(folder: Path) -> Oracle:
    return Oracle(folder)


def assert_answers(sample: CachedSample, wanted: list[Answer]) -> None:
    tokens, ious, masks = zip(*wanted, strict=True)
    np.testing.assert_allclose(sample.position_tokens, np.stack(tokens), rtol=2e-3, atol=2e-3)
    assert sample.predicted_iou is not None
    assert sample.masks_rle is not None
    np.testing.assert_allclose(sample.predicted_iou, ious, rtol=1e-4, atol=1e-4)
    for counts, mask in zip(sample.masks_rle, masks, strict=True):
        ours = coco_mask.decode({"size": list(SIZE_HW), "counts": counts})
        # Another batch rounds differently, which may move a pixel at the edge.
        assert (ours != mask).mean() < 0.002
    assert any(mask.any() for mask in masks)


def test_points_give_the_tokens_of_sam_predictor_whatever_the_other_regions_have(
    run: Run, oracle: Oracle
) -> None:
    sample = run("points")
    assert sample.labels.tolist() == [0, 1, 0]
    assert sample.num_dropped_regions == 1
    assert_answers(
        sample,
        [
            oracle.answer(points=points, labels=labels)
            for points, labels in zip(POINTS[:3], POINT_LABELS[:3], strict=True)
        ],
    )


@pytest.mark.parametrize("prompt", ["mask", "box_and_mask"])
def test_masks_give_the_tokens_of_sam_predictor(
    prompt: str, run: Run, oracle: Oracle, folder: Path
) -> None:
    sample = run(prompt)
    # The third annotation has no segmentation; the fourth one's has no pixel in the image.
    assert sample.boxes_xyxy.tolist() == [[20, 10, 80, 70], [5, 5, 35, 45]]
    assert sample.num_dropped_regions == 1
    theirs = COCO(str(folder / "own.json"))
    masks = [theirs.annToMask(theirs.anns[number]).astype(bool) for number in (0, 1)]
    extents = [_extent_xywh(mask) for mask in masks] if prompt == "box_and_mask" else [None, None]
    assert_answers(
        sample,
        [
            oracle.answer(mask=mask, box_xywh=extent)
            for mask, extent in zip(masks, extents, strict=True)
        ],
    )


def test_points_and_proposals_exclude_each_other(folder: Path) -> None:
    from regionspot.extraction import ProposalsConfig

    with pytest.raises(ConfigError, match=r"prompt is points, but proposals are boxes"):
        CacheConfig(
            output_dir="x",
            annotations=AnnotationsConfig(
                format="coco", path="own.json", images_dir=str(folder), prompt="points"
            ),
            proposals=ProposalsConfig(path="boxes.json"),
        )


def _extent_xywh(mask: NDArray[np.bool_]) -> list[int]:
    ys, xs = np.nonzero(mask)
    x, y = int(xs.min()), int(ys.min())
    return [x, y, int(xs.max()) + 1 - x, int(ys.max()) + 1 - y]


def test_a_cache_of_another_prompt_is_refused_naming_it(run: Run) -> None:
    run("points")
    with pytest.raises(CacheMismatchError, match="\n  prompt: found 'points', wanted 'mask'\n"):
        run("mask")
