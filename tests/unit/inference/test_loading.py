"""From a path to a model: where a head is looked for, and which SAM and CLIP it is put to."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from regionspot.backbones import FrozenModels
from regionspot.core.errors import CacheMismatchError, MissingFileError, WeightsError
from regionspot.inference import RegionSpot
from regionspot.model import TrainedHead, save_trained_head


@pytest.fixture(scope="module")
def run_dir(trained_head: TrainedHead, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_trained_head(folder / "head", trained_head)
    return folder


@pytest.mark.parametrize("place", ["", "head", "head/head.safetensors"])
def test_a_saved_head_answers_as_it_did_before(
    run_dir: Path,
    place: str,
    model: RegionSpot,
    pixels: NDArray[np.uint8],
    boxes: NDArray[np.float32],
) -> None:
    loaded = RegionSpot.from_pretrained(run_dir / place, device="cpu")
    ours = loaded.recognize(pixels, boxes=boxes, top_k=4)
    theirs = model.recognize(pixels, boxes=boxes, top_k=4)
    assert ours.top_labels == theirs.top_labels
    np.testing.assert_array_equal(ours.top_scores, theirs.top_scores)
    np.testing.assert_array_equal(ours.embeddings, theirs.embeddings)
    assert loaded.vocabulary == model.vocabulary


def test_a_path_may_be_text(run_dir: Path) -> None:
    assert len(RegionSpot.from_pretrained(str(run_dir), device="cpu").vocabulary) == 4


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("clip_weights_sha256", "0" * 64),
        ("sam_weights_sha256", "0" * 64),
        ("clip_image_size", 224),
        ("clip_resize", "crop"),
    ],
)
def test_a_head_of_other_frozen_models_is_refused_and_says_what_differs(
    trained_head: TrainedHead, tmp_path: Path, field: str, value: str | int
) -> None:
    card = trained_head.card
    changed = replace(card, fingerprint={**card.fingerprint, field: value})
    save_trained_head(tmp_path, replace(trained_head, card=changed))
    with pytest.raises(CacheMismatchError, match=f"{field}: found .*, wanted {value!r}"):
        RegionSpot.from_pretrained(tmp_path, device="cpu")


def test_other_weights_than_in_training_are_refused(run_dir: Path) -> None:
    with pytest.raises(CacheMismatchError, match="clip_weights_sha256"):
        RegionSpot.from_pretrained(run_dir, device="cpu", clip_weights="random")
    with pytest.raises(CacheMismatchError, match="sam_weights_sha256"):
        RegionSpot.from_pretrained(run_dir, device="cpu", sam_weights="random")


def test_a_head_that_names_no_models_is_refused_with_the_way_out(
    trained_head: TrainedHead, models: FrozenModels, tmp_path: Path
) -> None:
    nameless = replace(trained_head, card=replace(trained_head.card, fingerprint={}))
    save_trained_head(tmp_path, nameless)
    with pytest.raises(WeightsError, match=r"RegionSpot\(trained_head, load_frozen_models"):
        RegionSpot.from_pretrained(tmp_path, device="cpu")
    assert len(RegionSpot(nameless, models).vocabulary) == 4


def test_nothing_and_a_folder_of_something_else_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no trained head at .*nowhere\. Give the"):
        RegionSpot.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(MissingFileError, match=r"no trained head at .*/head\.safetensors\."):
        RegionSpot.from_pretrained(tmp_path)


def test_a_card_without_its_weights_is_refused(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "head.json").write_bytes((run_dir / "head" / "head.json").read_bytes())
    with pytest.raises(MissingFileError, match=r"head\.safetensors"):
        RegionSpot.from_pretrained(tmp_path)
