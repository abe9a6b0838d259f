"""The runner of exported files, without torch, does what RegionSpot does with the same image."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_runner
import pytest
import torch
from numpy.typing import NDArray
from onnx_runner import OnnxRunner
from PIL import Image

from helpers.heads import random_head
from regionspot.backbones import FrozenModels, ModelsConfig, load_frozen_models
from regionspot.core.files import sha256_file
from regionspot.inference import RegionSpot, export_chain, load_image, save_text_bank
from regionspot.inference.onnx_files import preprocessing
from regionspot.model import FusionHead, HeadSpec, TrainedHead

Pixels = NDArray[np.uint8]
Boxes = NDArray[np.float32]
ODD_IMAGES = Path(__file__).parents[2] / "data" / "odd_images"


def check_equal_to_recognize(
    folder: Path, head: TrainedHead, models: FrozenModels, pixels: Pixels, boxes: Boxes
) -> None:
    """Export everything, and compare with eager for all boxes, and for one."""
    model = RegionSpot(head, models)
    export_chain(folder, head, models, model.choose_names())
    runner = OnnxRunner(folder, num_threads=1)
    for some in (boxes, boxes[:1]):
        eager = model.recognize(pixels, some, top_k=len(model.vocabulary), with_masks=False)
        found = runner.recognize(Image.fromarray(pixels), some)
        assert found.labels == eager.labels
        np.testing.assert_allclose(found.embeddings, eager.embeddings, rtol=0, atol=1e-4)
        by_class = np.zeros_like(eager.top_scores)
        np.put_along_axis(by_class, eager.top_class_ids, eager.top_scores, axis=1)
        np.testing.assert_allclose(found.probabilities, by_class, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("guidance", ["none", "learned"])
def test_exported_files_name_boxes_as_recognize_does(
    guidance: str,
    trained_head: TrainedHead,
    models: FrozenModels,
    pixels: Pixels,
    boxes: Boxes,
    tmp_path: Path,
) -> None:
    if guidance == "learned":
        spec = replace(trained_head.card.head, guidance="learned", guidance_spread=30.0)
        head = FusionHead(spec).eval()
        head.load_state_dict(head.state_dict() | trained_head.head.state_dict())
        trained_head = replace(trained_head, head=head)
    check_equal_to_recognize(tmp_path, trained_head, models, pixels, boxes)
    others = RegionSpot(trained_head, models).choose_names(["sea egg", "red heart"])
    save_text_bank(tmp_path / "others.npz", others)
    runner = OnnxRunner(tmp_path, tmp_path / "others.npz", num_threads=1)
    found = runner.recognize(Image.fromarray(pixels), boxes)
    assert found.names == ("sea egg", "red heart")
    assert found.probabilities.shape == (len(boxes), 2)
    assert runner.recognize(Image.fromarray(pixels), []).labels == ()
    with np.load(tmp_path / "others.npz") as bank:
        arrays = dict(bank) | {"clip_sha256": np.array("0" * 64)}
    np.savez(tmp_path / "foreign.npz", **arrays)
    with pytest.raises(ValueError, match=r"foreign\.npz holds embeddings of another CLIP"):
        OnnxRunner(tmp_path, tmp_path / "foreign.npz")


@pytest.mark.slow
def test_full_size_files_name_boxes_as_recognize_does(
    pixels: Pixels, boxes: Boxes, tmp_path: Path
) -> None:
    config = ModelsConfig(preset="bl", sam_weights="random", clip_weights="random")
    models = load_frozen_models(config, device="cpu")
    small = random_head(models, seed=1, vocabulary=("sea egg", "kayak"), templates="single")
    torch.manual_seed(1)
    fusion_head = FusionHead(HeadSpec()).eval()  # as in the paper, for CLIP ViT-L/14
    card = replace(small.card, head=fusion_head.spec)
    head = replace(small, head=fusion_head, card=card)
    check_equal_to_recognize(tmp_path, head, models, pixels, boxes)


@pytest.mark.parametrize("size_hw", [(96, 140), (300, 61), (128, 128), (7, 9)])
def test_pixels_are_those_of_sam_and_clip(
    size_hw: tuple[int, int], models: FrozenModels, trained_head: TrainedHead
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (*size_hw, 3)).astype(np.uint8)
    image, constants = Image.fromarray(pixels), preprocessing(trained_head, models)
    sam, clip = constants["sam"], constants["clip"]
    in_sam = onnx_runner.to_pixels(
        image, onnx_runner.longest_side_size(image.size, sam["side_px"]), sam
    )
    in_clip = onnx_runner.to_pixels(image, (clip["side_px"], clip["side_px"]), clip)
    localizer, encoder = models.localizer, models.encoder
    np.testing.assert_allclose(in_sam[0], localizer.preprocess(pixels).numpy(), atol=1e-6)
    np.testing.assert_allclose(in_clip[0], encoder.preprocess(pixels).numpy(), atol=1e-6)


@pytest.mark.parametrize("name", ["cmyk.jpg", "orientation_6.jpg", "transparent_colour.png"])
def test_odd_images_have_the_colours_that_regionspot_reads(name: str) -> None:
    with Image.open(ODD_IMAGES / name) as image:
        found = np.asarray(onnx_runner.to_rgb(image))
    np.testing.assert_array_equal(found, load_image(ODD_IMAGES / name))


def test_boxes_are_clipped_and_those_without_area_refused() -> None:
    found = onnx_runner.clip_boxes([[-3, 2, 50, 90]], (40, 60))
    assert found.tolist() == [[0, 2, 40, 60]]
    with pytest.raises(ValueError, match=r"box 1 .* has no area in the image of 40 x 60"):
        onnx_runner.clip_boxes([[0, 0, 9, 9], [45, 0, 50, 9]], (40, 60))
    with pytest.raises(ValueError, match=r"shape \(1, 3\)"):
        onnx_runner.clip_boxes([[1, 2, 3]], (40, 60))


def test_incomplete_damaged_and_unknown_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no export.json"):
        OnnxRunner(tmp_path)
    part, manifest = tmp_path / "head.onnx", tmp_path / "export.json"
    part.write_bytes(b"as exported")
    files = {part.name: {"sha256": sha256_file(part)}}
    manifest.write_text(json.dumps({"format_version": 1, "files": files}))
    assert onnx_runner.read_manifest(tmp_path)["files"] == files
    part.write_bytes(b"as exporteD")
    with pytest.raises(ValueError, match=r"head\.onnx is damaged or was replaced"):
        OnnxRunner(tmp_path)
    manifest.write_text(json.dumps({"format_version": 2}))
    with pytest.raises(ValueError, match="has format_version 2; wanted 1"):
        OnnxRunner(tmp_path)


def test_the_runner_needs_neither_torch_nor_regionspot() -> None:
    script = "import sys, onnx_runner; print(sys.modules.keys() & {'torch', 'regionspot'})"
    folder = Path(onnx_runner.__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
