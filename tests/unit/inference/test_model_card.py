"""The folder that is shared: a head, its text bank, and a model card that the Hub can read."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from numpy.typing import NDArray

from regionspot.backbones import FrozenModels
from regionspot.cache import TextBankStore, text_banks_path
from regionspot.core.errors import ConfigError, MissingFileError
from regionspot.core.vocabulary import Vocabulary
from regionspot.inference import RegionSpot
from regionspot.model import JsonValue, TrainedHead, load_trained_head, save_trained_head

Pixels = NDArray[np.uint8]
METRICS = {
    "methods": {
        "fusion_head": {"AP": 90.763, "APr": 89.69, "APl": None, "top1_accuracy": 76.19},
        "clip_box_crop": {"AP": 73.5, "APr": None, "APl": None, "top1_accuracy": 44.2},
    },
    "metric": "lvis",
    "scorer": "hotcoco",
    "protocol": "flattened_top300",
    "templates": "single",
    "data": {"name": "val", "num_images": 500, "num_regions": 2176, "num_classes": 164},
}


@pytest.fixture
def run_head(trained_head: TrainedHead, models: FrozenModels, tmp_path: Path) -> Path:
    """A head as training leaves it, with its text bank."""
    training: dict[str, JsonValue] = {"caches": ["toy365", "toyoi"], "steps": 1200}
    card = replace(trained_head.card, training=training)
    save_trained_head(tmp_path / "run" / "head", replace(trained_head, card=card))
    TextBankStore(text_banks_path(tmp_path / "run" / "head")).put(
        Vocabulary(card.vocabulary),
        models.encoder.text_bank(card.vocabulary, "single").numpy(),
        templates="single",
        clip_sha256=models.clip_sha256,
    )
    return tmp_path / "run" / "head"


def test_a_saved_folder_answers_as_the_head_did(
    run_head: Path, models: FrozenModels, pixels: Pixels, tmp_path: Path
) -> None:
    model = RegionSpot(load_trained_head(run_head), models)
    model.save_pretrained(tmp_path / "shared")
    names = {path.name for path in (tmp_path / "shared").iterdir()}
    assert names == {"README.md", "head.json", "head.safetensors", "text_banks.h5"}
    for name in names - {"README.md"}:
        assert (tmp_path / "shared" / name).read_bytes() == (run_head / name).read_bytes()
    loaded = RegionSpot.from_pretrained(tmp_path / "shared", device="cpu")
    box = [[16, 20, 57, 61]]
    ours, theirs = loaded.recognize(pixels, box, top_k=4), model.recognize(pixels, box, top_k=4)
    np.testing.assert_array_equal(ours.top_scores, theirs.top_scores)


def test_the_hubs_client_reads_the_card(
    run_head: Path, models: FrozenModels, tmp_path: Path
) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps(METRICS))
    model = RegionSpot(load_trained_head(run_head), models)
    model.save_pretrained(tmp_path / "shared", metrics=tmp_path, weights_license="cc-by-4.0")
    card = ModelCard.load(tmp_path / "shared" / "README.md")
    assert card.data.library_name == "regionspot"
    assert card.data.license == "cc-by-4.0"
    assert "open-vocabulary" in card.data.tags
    text = card.text
    assert "| data sets | toy365, toyoi |" in text
    assert "| names of training | 4: red striped circle, blue plain square, sea egg, green" in text
    assert "| method | AP | APr | top1_accuracy |" in text
    assert "| fusion_head | 90.8 | 89.7 | 76.2 |" in text
    assert "| clip_box_crop | 73.5 |  | 44.2 |" in text
    assert "val: 500 images, 2176 regions, 164 classes" in text
    assert "protocol flattened_top300" in text
    assert models.sam_sha256 in text
    assert models.clip_sha256 in text
    assert "| ffn_dim | 64 |" in text
    for path in run_head.iterdir():
        assert f"| {path.name} | {hashlib.sha256(path.read_bytes()).hexdigest()} |" in text


def test_the_example_of_the_card_loads_the_head(
    run_head: Path, models: FrozenModels, pixels: Pixels, tmp_path: Path
) -> None:
    RegionSpot(load_trained_head(run_head), models).save_pretrained(tmp_path / "shared")
    text = (tmp_path / "shared" / "README.md").read_text(encoding="utf-8")
    code = text.partition("```python\n")[2].partition("print")[0]
    names: dict[str, object] = {}
    exec(code, names)  # noqa: S102 - it is ours
    assert isinstance(names["model"], RegionSpot)
    assert "Not evaluated." in text


def test_figures_that_are_none_are_refused_before_anything_is_written(
    model: RegionSpot, tmp_path: Path
) -> None:
    with pytest.raises(MissingFileError, match=r"no figures at .*metrics\.json"):
        model.save_pretrained(tmp_path / "shared", metrics=tmp_path)
    (tmp_path / "metrics.json").write_text('{"methods": {"fusion_head": 90}}')
    with pytest.raises(ConfigError, match=r"metrics\.json holds no figures of an evaluation"):
        model.save_pretrained(tmp_path / "shared", metrics=tmp_path / "metrics.json")
    assert not (tmp_path / "shared").exists()
