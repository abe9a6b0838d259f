"""Text banks on disk: no name is embedded twice, and no bank is used that does not fit.

What is right is what ``open_clip`` computes; whether its text transformer ran is counted by a hook.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from helpers.clip import clip_of
from helpers.files import flip_bit
from regionspot.backbones import FrozenModels, ModelsConfig, template_texts
from regionspot.cache import TextBankStore
from regionspot.core.errors import ConfigError, MissingFileError, ShapeError
from regionspot.core.files import file_lock
from regionspot.core.vocabulary import Vocabulary
from regionspot.data import CachedRegions
from regionspot.extraction import AnnotationsConfig, CacheConfig, cache_features
from regionspot.inference import ImageError, RegionSpot
from regionspot.inference.text_banks import StoredBanks
from regionspot.model import TrainedHead, load_trained_head
from regionspot.training import export_head

Pixels = NDArray[np.uint8]
BOX = [[16, 20, 57, 61]]
NAMES = ("gem", "blue plain star", "sea egg", "lamp")


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let banks be kept, in a home of this test."""
    monkeypatch.setenv("REGIONSPOT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("REGIONSPOT_TEXT_BANKS_MB")
    return tmp_path / "home" / "text_banks"


def files_in(kept: Path) -> list[Path]:
    return sorted(kept.glob("*.h5"))


def bank_by_open_clip(
    models: FrozenModels, names: tuple[str, ...], templates: str
) -> NDArray[np.float32]:
    """Embed a sentence at a time by open_clip, at its full length."""
    clip = clip_of(models)
    with torch.no_grad():
        means = [
            torch.cat(
                [
                    clip.model.encode_text(clip.tokenizer([sentence.replace("{}", name)]))
                    for sentence in template_texts(templates)
                ]
            ).mean(dim=0)
            for name in names
        ]
    bank: NDArray[np.float32] = torch.nn.functional.normalize(torch.stack(means), dim=-1).numpy()
    return bank


@contextmanager
def counting(models: FrozenModels) -> Iterator[list[int]]:
    """Count how often the text transformer of CLIP runs."""
    runs: list[int] = []
    transformer = clip_of(models).model.transformer
    hook = transformer.register_forward_hook(lambda *_: runs.append(1))
    try:
        yield runs
    finally:
        hook.remove()


def bank_of(model: RegionSpot, **options: Any) -> NDArray[np.float32]:
    """Return the bank that a model compares regions with."""
    asked = {"vocabulary": None, "templates": None, "same_tokens": "keep", **options}
    names = model.choose_names(**asked)
    bank: NDArray[np.float32] = names.bank_CE.numpy()
    return bank


# --- In the folder of a head ----------------------------------------------------------------


@pytest.fixture(scope="module")
def caches(picture_path: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two caches of one picture by the tiny models; both know the second and the third name."""
    folders = []
    for names in (NAMES[:3], NAMES[1:]):
        folder = tmp_path_factory.mktemp("cache")
        content = {
            "images": [{"id": 7, "file_name": picture_path.name, "height": 96, "width": 140}],
            "annotations": [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [16, 20, 41, 41]}],
            "categories": [{"id": n, "name": name} for n, name in enumerate(names, start=1)],
        }
        (folder / "annotations.json").write_text(json.dumps(content))
        cache_features(
            CacheConfig(
                output_dir=str(folder / "cache"),
                annotations=AnnotationsConfig(
                    format="coco",
                    path=str(folder / "annotations.json"),
                    images_dir=str(picture_path.parent),
                ),
                models=ModelsConfig(preset="toy"),
                templates=["ensemble81"],
                device="cpu",
            )
        )
        folders.append(folder / "cache")
    return folders


@pytest.fixture
def head_dir(trained_head: TrainedHead, caches: list[Path], tmp_path: Path) -> Path:
    """What a training on both caches leaves."""
    card = replace(trained_head.card, vocabulary=NAMES, templates="ensemble81")
    export_head(tmp_path / "head", replace(trained_head, card=card), CachedRegions(caches))
    return tmp_path / "head"


def test_a_head_comes_with_the_bank_of_its_names(
    head_dir: Path, models: FrozenModels, pixels: Pixels, kept: Path
) -> None:
    wanted = bank_by_open_clip(models, NAMES, "ensemble81")
    model = RegionSpot(load_trained_head(head_dir), models)
    with counting(models) as runs:
        named = model.recognize(pixels, boxes=BOX, top_k=4)
        again = model.recognize(pixels, boxes=BOX, vocabulary=list(NAMES), top_k=4)
        found = bank_of(model)
        assert not runs
        model.recognize(pixels, boxes=BOX, vocabulary=NAMES[::-1])
        assert runs
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    assert tuple(named.vocabulary) == NAMES
    np.testing.assert_array_equal(named.top_scores, again.top_scores)
    assert len(files_in(kept)) == 1  # of the other order of the names


def test_the_folder_is_enough_and_in_an_old_one_without_a_bank_names_are_embedded(
    head_dir: Path, pixels: Pixels
) -> None:
    new = RegionSpot.from_pretrained(head_dir, device="cpu")
    with counting(new._models) as runs:
        by_new = new.recognize(pixels, boxes=BOX, top_k=4)
        assert not runs
    (head_dir / "text_banks.h5").unlink()
    old = RegionSpot.from_pretrained(head_dir, device="cpu")
    with counting(old._models) as runs:
        by_old = old.recognize(pixels, boxes=BOX, top_k=4)
        assert runs
    assert by_new.top_labels == by_old.top_labels
    np.testing.assert_allclose(by_new.top_scores, by_old.top_scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("position", [100, 600, -5])
def test_one_flipped_bit_in_the_bank_of_a_head_is_noticed(
    head_dir: Path, models: FrozenModels, position: int, caplog: pytest.LogCaptureFixture
) -> None:
    flip_bit(head_dir / "text_banks.h5", position)
    model = RegionSpot(load_trained_head(head_dir), models)
    with counting(models) as runs:
        found = bank_of(model)
        assert runs
    assert "text_banks.h5 is damaged or was edited: it is not used" in caplog.text
    wanted = bank_by_open_clip(models, NAMES, "ensemble81")
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("clip_weights_sha256", "0" * 64),
        ("clip_model", "ViT-B-16"),
        ("clip_activation", "sigmoid"),
        ("text_dim", 77),
    ],
)
def test_the_bank_of_another_clip_is_not_used(
    head_dir: Path,
    models: FrozenModels,
    field: str,
    value: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = replace(models.fingerprint(), **{field: value})
    path = head_dir / "text_banks.h5"
    path.unlink()
    TextBankStore(path).put(
        Vocabulary(NAMES),
        np.eye(4, other.text_dim, dtype=np.float32),
        templates="ensemble81",
        clip_sha256=other.text_encoder_sha256,
    )
    found = bank_of(RegionSpot(load_trained_head(head_dir), models))
    wanted = bank_by_open_clip(models, NAMES, "ensemble81")
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    assert "text_banks.h5 " in caplog.text
    assert "it is not used; the names are embedded again" in caplog.text


def test_other_sentences_and_another_order_are_another_bank(
    head_dir: Path, models: FrozenModels
) -> None:
    model = RegionSpot(load_trained_head(head_dir), models)
    names = (NAMES[2], *NAMES[:2])
    for question, wanted in (
        ({"templates": "single"}, bank_by_open_clip(models, NAMES, "single")),
        ({"vocabulary": names}, bank_by_open_clip(models, names, "ensemble81")),
    ):
        np.testing.assert_allclose(bank_of(model, **question), wanted, rtol=0, atol=1e-6)


def test_a_second_training_into_a_folder_leaves_its_own_bank_only(
    head_dir: Path, trained_head: TrainedHead, caches: list[Path]
) -> None:
    flip_bit(head_dir / "text_banks.h5", 700)
    card = replace(trained_head.card, vocabulary=NAMES[1:], templates="ensemble81")
    export_head(head_dir, replace(trained_head, card=card), CachedRegions(caches[1:]))
    with h5py.File(head_dir / "text_banks.h5") as h5:
        (bank,) = h5["ensemble81"].values()
        assert [name.decode() for name in bank["names"]] == list(NAMES[1:])
    assert {path.name for path in head_dir.iterdir()} == {
        *("head.json", "head.safetensors", "text_banks.h5")
    }


# --- On this machine ------------------------------------------------------------------------


def test_names_are_embedded_once_for_all_processes(
    trained_head: TrainedHead, models: FrozenModels, kept: Path
) -> None:
    wanted = bank_by_open_clip(models, NAMES, "single")
    with counting(models) as runs:
        first = bank_of(RegionSpot(trained_head, models), vocabulary=NAMES)
        assert runs
    with counting(models) as runs:
        second = bank_of(RegionSpot(trained_head, models), vocabulary=NAMES)
        assert not runs
    np.testing.assert_allclose(first, wanted, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(second, first)
    (path,) = files_in(kept)
    with h5py.File(path) as h5:
        ((templates, banks),) = h5.items()
        assert templates == "single"
        (bank,) = banks.values()
        np.testing.assert_array_equal(bank["embeddings"], first)


def test_a_damaged_file_is_told_and_replaced(
    trained_head: TrainedHead, models: FrozenModels, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = bank_of(RegionSpot(trained_head, models), vocabulary=NAMES)
    (path,) = files_in(kept)
    whole = path.read_bytes()
    flipped = whole[:700] + bytes([whole[700] ^ 4]) + whole[701:]
    for damaged in (b"", whole[:-1], flipped, b"no HDF5 at all"):
        path.write_bytes(damaged)
        caplog.clear()
        with counting(models) as runs:
            found = bank_of(RegionSpot(trained_head, models), vocabulary=NAMES)
            assert runs
        assert f"{path} is damaged or was edited: it is not used" in caplog.text
        np.testing.assert_array_equal(found, wanted)
        assert path.read_bytes() == whole


def test_banks_of_two_clips_do_not_meet(
    trained_head: TrainedHead, models: FrozenModels, kept: Path
) -> None:
    other = replace(models.fingerprint(), clip_weights_sha256="0" * 64)
    wrong = np.eye(4, other.text_dim, dtype=np.float32)
    StoredBanks(other, None).keep(Vocabulary(NAMES), wrong, templates="single")
    found = bank_of(RegionSpot(trained_head, models), vocabulary=NAMES)
    wanted = bank_by_open_clip(models, NAMES, "single")
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    ours, theirs = StoredBanks(models.fingerprint(), None), StoredBanks(other, None)
    for banks, bank in ((ours, found), (theirs, wrong)):
        read = banks.get(Vocabulary(NAMES), templates="single")
        assert read is not None
        np.testing.assert_array_equal(read, bank)
    assert len(files_in(kept)) == 2
    # Whoever gives one file the name of the other gains nothing.
    first, second = files_in(kept)
    second.write_bytes(first.read_bytes())
    found = bank_of(RegionSpot(trained_head, models), vocabulary=NAMES)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def test_the_longest_unused_banks_go_and_nothing_else_does(
    models: FrozenModels, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.mkdir(parents=True)
    of_others = [kept / "notes.h5", kept / "lock.txt", kept.parent / "sam.pth"]
    for path in of_others:
        path.write_bytes(b"x" * 10_000)
    bank = np.eye(4, models.encoder.info.text_dim, dtype=np.float32)
    banks = StoredBanks(models.fingerprint(), None)
    banks.keep(Vocabulary(NAMES), bank, templates="single")
    (path,) = set(files_in(kept)) - set(of_others)
    num_bytes = path.stat().st_size
    monkeypatch.setenv("REGIONSPOT_TEXT_BANKS_MB", str(2.5 * num_bytes / 1e6))
    banks = StoredBanks(models.fingerprint(), None)
    banks.keep(Vocabulary(NAMES[::-1]), bank, templates="single")
    (second,) = set(files_in(kept)) - {*of_others, path}
    for age, old in ((300, path), (200, second)):
        at = time.time() - age
        os.utime(old, (at, at))
    assert banks.get(Vocabulary(NAMES), templates="single") is not None  # used just now
    banks.keep(Vocabulary(NAMES[:3]), bank[:3], templates="single")
    left = set(files_in(kept)) - set(of_others)
    assert len(left) == 2
    assert path in left
    assert second not in left
    assert all(other.read_bytes() == b"x" * 10_000 for other in of_others)


def test_what_exceeds_the_limit_alone_is_not_kept(
    models: FrozenModels, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = np.eye(4, models.encoder.info.text_dim, dtype=np.float32)
    for megabytes in ("0", str((bank.nbytes - 1) / 1e6)):
        monkeypatch.setenv("REGIONSPOT_TEXT_BANKS_MB", megabytes)
        banks = StoredBanks(models.fingerprint(), None)
        banks.keep(Vocabulary(NAMES), bank, templates="single")
        assert banks.get(Vocabulary(NAMES), templates="single") is None
        assert not kept.exists()


@pytest.mark.parametrize("text", ["-1", "much", "inf", "nan"])
def test_a_limit_that_is_none_is_refused(
    trained_head: TrainedHead, models: FrozenModels, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGIONSPOT_TEXT_BANKS_MB", text)
    with pytest.raises(ConfigError, match=f"is '{text}'; wanted a number of MB, or 0"):
        RegionSpot(trained_head, models)


def test_where_nothing_can_be_written_names_are_embedded_and_it_is_told_once(
    trained_head: TrainedHead, models: FrozenModels, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept.parent.write_text("a file where the folder would be")
    model = RegionSpot(trained_head, models)
    for names in (NAMES, NAMES[::-1]):
        wanted = bank_by_open_clip(models, names, "single")
        found = bank_of(model, vocabulary=names)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    (record,) = caplog.records
    assert f"as {kept} cannot be written" in record.message
    assert "REGIONSPOT_TEXT_BANKS_MB=0" in record.message


def test_another_process_that_writes_is_not_waited_for(
    trained_head: TrainedHead, models: FrozenModels, kept: Path
) -> None:
    with file_lock(kept / "lock"):
        bank_of(RegionSpot(trained_head, models), vocabulary=NAMES)
        assert not files_in(kept)
    bank_of(RegionSpot(trained_head, models), vocabulary=NAMES)
    assert len(files_in(kept)) == 1


# --- What is wrong is told before names are embedded -----------------------------------------


@pytest.mark.parametrize(
    ("image", "question", "error"),
    [
        ("nowhere.png", {"boxes": BOX}, MissingFileError),
        (b"no image", {"boxes": BOX}, ImageError),
        (np.zeros((9, 9, 3), np.uint8), {"boxes": [[20, 20, 30, 30]]}, ShapeError),
        (np.zeros((9, 9, 3), np.uint8), {"boxes": [[1, 1, 3, 3]], "top_k": 0}, ConfigError),
        (np.zeros((9, 9, 3), np.uint8), {}, ConfigError),
        (["nowhere.png"], {"points": [[[3, 3]]]}, MissingFileError),
    ],
)
def test_no_name_is_embedded_for_a_mistake(
    trained_head: TrainedHead,
    models: FrozenModels,
    image: Any,
    question: dict[str, Any],
    error: type[Exception],
) -> None:
    model = RegionSpot(trained_head, models)
    with counting(models) as runs:
        with pytest.raises(error):
            model.recognize(image, vocabulary=NAMES, **question)
        if not isinstance(image, list) and "boxes" not in question:
            with pytest.raises(MissingFileError):
                model.recognize_everything("nowhere.png", vocabulary=NAMES)
        assert not runs
