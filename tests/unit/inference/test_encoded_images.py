"""One image encoded once: it answers as the image does, also from a file and to other questions."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import nn

from regionspot.backbones import FrozenModels, GridProposer
from regionspot.core.errors import CacheMismatchError, MissingFileError, WeightsError
from regionspot.inference import EncodedImage, ImageLike, Regions, RegionSpot
from regionspot.model import TrainedHead

Pixels = NDArray[np.uint8]
GRID = GridProposer(
    points_per_side=4,
    pred_iou_thresh=0.0,
    stability_score_thresh=0.0,
    stability_score_offset=0.1,
)


def assert_equal(ours: Regions, theirs: Regions) -> None:
    np.testing.assert_array_equal(ours.image, theirs.image)
    np.testing.assert_array_equal(ours.boxes_xyxy, theirs.boxes_xyxy)
    np.testing.assert_array_equal(ours.top_class_ids, theirs.top_class_ids)
    np.testing.assert_array_equal(ours.top_scores, theirs.top_scores)
    np.testing.assert_array_equal(ours.embeddings, theirs.embeddings)
    np.testing.assert_array_equal(np.asarray(ours.masks), np.asarray(theirs.masks))


@pytest.fixture(scope="module")
def encoded(model: RegionSpot, pixels: Pixels) -> EncodedImage:
    return model.encode_image(pixels)


@pytest.mark.parametrize(
    "question",
    [
        {"boxes": [[16, 20, 57, 61], [84, 30, 124, 74]], "top_k": 4},
        {"boxes": [[84, 30, 124, 74]], "vocabulary": ["red heart", "sea egg"]},
        {"points": [[36, 40]]},
        {"boxes": []},
    ],
    ids=["boxes", "names", "points", "none"],
)
def test_an_encoded_image_answers_as_the_image_does(
    model: RegionSpot, pixels: Pixels, encoded: EncodedImage, question: dict[str, Any]
) -> None:
    assert_equal(model.recognize(encoded, **question), model.recognize(pixels, **question))


def test_regions_are_proposed_in_an_encoded_image_as_in_the_image(
    model: RegionSpot, pixels: Pixels, encoded: EncodedImage
) -> None:
    ours = model.recognize_everything(encoded, grid=GRID)
    assert len(ours) > 0
    assert_equal(ours, model.recognize_everything(pixels, grid=GRID))


def test_asking_runs_no_image_encoder_again(
    model: RegionSpot, models: FrozenModels, encoded: EncodedImage
) -> None:
    ran: list[nn.Module] = []
    sam: Any = models.localizer.module
    clip: Any = models.encoder.module
    hooks = [
        part.register_forward_hook(lambda module, _inputs, _output: ran.append(module))
        for part in (*sam.image_encoder.modules(), *clip.visual.modules())
    ]
    model.recognize(encoded, [[16, 20, 57, 61]])
    assert ran == []
    model.recognize(encoded.pixels, [[16, 20, 57, 61]])
    assert ran
    for hook in hooks:
        hook.remove()


def test_encoded_and_other_images_may_be_mixed(
    model: RegionSpot, pixels: Pixels, encoded: EncodedImage, boxes: NDArray[np.float32]
) -> None:
    images: list[ImageLike] = [pixels[:80], encoded, pixels[:70]]
    prompts = [boxes[:1], boxes, boxes[:0]]
    for image, prompt, ours in zip(images, prompts, model.recognize(images, prompts), strict=True):
        theirs = model.recognize(image, prompt)
        assert ours.labels == theirs.labels
        np.testing.assert_allclose(ours.embeddings, theirs.embeddings, rtol=0, atol=2e-4)


def test_a_saved_image_is_loaded_bit_for_bit(
    model: RegionSpot, encoded: EncodedImage, boxes: NDArray[np.float32], tmp_path: Path
) -> None:
    encoded.save(tmp_path / "folder" / "image.safetensors")
    loaded = EncodedImage.load(str(tmp_path / "folder" / "image.safetensors"))
    assert_equal(model.recognize(loaded, boxes), model.recognize(encoded, boxes))
    assert loaded.fingerprint == encoded.fingerprint
    tensors = safetensors.torch.load_file(tmp_path / "folder" / "image.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        "pixels": (96, 140, 3),
        "sam_embedding": tuple(encoded.sam_embedding.shape),
        "feature_map": (145, 128),
    }


def test_an_image_encoded_by_other_models_is_refused(
    model: RegionSpot, encoded: EncodedImage
) -> None:
    other = replace(encoded, fingerprint=replace(encoded.fingerprint, clip_image_size=224))
    with pytest.raises(CacheMismatchError, match=r"(?s)clip_image_size: .*Encode the image again"):
        model.recognize(other, [[16, 20, 57, 61]])


def test_an_image_turned_by_another_rule_is_refused(
    trained_head: TrainedHead, models: FrozenModels, encoded: EncodedImage
) -> None:
    fingerprint = models.fingerprint(exif_policy="apply").to_dict()
    upright = replace(trained_head, card=replace(trained_head.card, fingerprint=fingerprint))
    with pytest.raises(CacheMismatchError, match="exif_policy"):
        RegionSpot(upright, models).recognize(encoded, [[16, 20, 57, 61]])


def test_what_is_no_whole_encoded_image_is_refused(encoded: EncodedImage, tmp_path: Path) -> None:
    path = tmp_path / "image.safetensors"
    with pytest.raises(MissingFileError, match="no encoded image at"):
        EncodedImage.load(path)
    encoded.save(path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="do not match their sha256"):
        EncodedImage.load(path)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError, match="is not a whole encoded image"):
        EncodedImage.load(path)
    safetensors.torch.save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match=r"version None with the tensors \['weight'\]"):
        EncodedImage.load(path)


def test_a_file_of_other_shapes_than_it_says_is_refused(
    encoded: EncodedImage, tmp_path: Path
) -> None:
    path = tmp_path / "image.safetensors"
    replace(encoded, feature_map=encoded.feature_map[:-1]).save(path)
    with pytest.raises(WeightsError, match=r"wrong shapes or dtypes: .*\(144, 128\)"):
        EncodedImage.load(path)
