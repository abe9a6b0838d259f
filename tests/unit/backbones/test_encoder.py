"""An encoder that is none of open_clip's takes one class: everything else only knows `Encoder`."""

from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from typing_extensions import override

from regionspot.backbones import (
    FLOAT32,
    Encoder,
    EncoderInfo,
    Execution,
    FrozenModels,
    ModelsConfig,
    Tokenizer,
    frozen,
    load_frozen_models,
)
from regionspot.core.errors import ConfigError
from regionspot.inference import PromptedImage, score_pixel_methods

SIDE, GRID, WIDTH, TEXT_DIM = 8, 2, 6, 5


class Towers(nn.Module):
    """Patches are projected linearly; a text is the mean of its letters' embeddings."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, WIDTH, SIDE // GRID, stride=SIDE // GRID)
        self.image_projection = nn.Linear(WIDTH, TEXT_DIM)
        self.letters = nn.Embedding(128, TEXT_DIM)

    def feature_map(self, pixels_BCHW: Tensor) -> Tensor:
        patches_BPD = self.patches(pixels_BCHW).flatten(2).transpose(1, 2)
        return torch.cat([patches_BPD.mean(dim=1, keepdim=True), patches_BPD], dim=1)


def letter_ids(texts: list[str], context_length: int | None = None) -> Tensor:
    rows = [list(text.encode("ascii"))[: context_length or 32] for text in texts]
    return torch.tensor([row + [0] * ((context_length or 32) - len(row)) for row in rows])


class LetterEncoder(Encoder):
    """What the contract asks for, and no more."""

    def __init__(self, towers: Towers, *, execution: Execution = FLOAT32) -> None:
        self._towers = towers
        self.heard: list[str] = []
        super().__init__(
            towers,
            EncoderInfo(
                name="letters",
                image_size=SIDE,
                activation="none",
                mean=(0.5, 0.5, 0.5),
                std=(0.25, 0.25, 0.25),
                width=WIDTH,
                text_dim=TEXT_DIM,
                num_tokens=1 + GRID**2,
                first_token="pooled embedding",  # noqa: S106 - not that kind of token
                logit_scale=10.0,
            ),
            encode=towers.feature_map,
            execution=execution,
        )

    @classmethod
    @override
    def load(cls, model: str, weights: str, *, execution: Execution = FLOAT32) -> Self:
        assert (model, weights) == ("letters", "random")
        return cls(Towers(), execution=execution)

    @property
    @override
    def tokenizer(self) -> Tokenizer:
        return letter_ids

    @override
    def reference(self) -> Self:
        return type(self)(self._towers)

    @override
    def _embed_images(self, pixels_BCHW: Tensor) -> Tensor:
        pooled_BD = self._towers.feature_map(pixels_BCHW)[:, 0]
        projected_BE: Tensor = self._towers.image_projection(pooled_BD)
        return projected_BE

    @override
    def _embed_texts(
        self, texts: list[str], *, batch_size: int, on_batch: Callable[[int], object]
    ) -> Tensor:
        self.heard += texts
        on_batch(len(texts))
        letters_NLE: Tensor = self._towers.letters(letter_ids(texts).to(self.device))
        return letters_NLE.mean(dim=1)


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> FrozenModels:
    """The toy world's SAM and this encoder, loaded as a configuration says."""
    monkeypatch.setitem(frozen.ENCODERS, "letters", LetterEncoder)
    return load_frozen_models(ModelsConfig(preset="toy", clip="letters", clip_weights="random"))


def by_hand(picture: NDArray[np.uint8]) -> Tensor:
    """Pixels as PIL resizes them, normalised: (1, 3, 8, 8)."""
    squashed = np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    return torch.tensor((squashed / 255 - 0.5) / 0.25).float().permute(2, 0, 1)[None]


def test_its_numbers_are_the_modules_own(models: FrozenModels, photo: NDArray[np.uint8]) -> None:
    encoder, towers = models.encoder, Towers()  # of the same seed
    pixels_BCHW = encoder.preprocess(photo)[None]
    torch.testing.assert_close(pixels_BCHW, by_hand(photo))
    with torch.no_grad():
        wanted_BTD = towers.feature_map(by_hand(photo))
        embedded_BE = towers.image_projection(wanted_BTD[:, 0])
    torch.testing.assert_close(encoder.features(pixels_BCHW), wanted_BTD)
    torch.testing.assert_close(
        encoder.embed_images(pixels_BCHW), embedded_BE / embedded_BE.norm(dim=1, keepdim=True)
    )
    found = encoder.reference()
    assert found.execution == FLOAT32
    assert found.features(pixels_BCHW).equal(encoder.features(pixels_BCHW))


def test_the_fingerprint_tells_of_it(models: FrozenModels) -> None:
    fingerprint = models.fingerprint()
    assert (fingerprint.clip_model, fingerprint.clip_activation) == ("letters", "none")
    assert (fingerprint.feature_dim, fingerprint.num_feature_tokens) == (WIDTH, 5)
    other = Towers()
    with torch.no_grad():
        other.letters.weight[0, 0] += 1
    changed = FrozenModels(localizer=models.localizer, encoder=LetterEncoder(other))
    assert [line.split(":")[0] for line in changed.fingerprint().differences(fingerprint)] == [
        "clip_weights_sha256"
    ]


def test_names_become_sentences_and_unit_rows(models: FrozenModels) -> None:
    encoder = models.encoder
    assert isinstance(encoder, LetterEncoder)
    for templates in ("none", "single-readable"):
        encoder.text_bank(["bat_(animal)", "{odd}"], templates)
    assert encoder.heard == [
        "bat_(animal)",
        "{odd}",
        "a photo of a bat (animal).",
        "a photo of a {odd}.",
    ]
    bank_CE = models.encoder.text_bank(["ab", "b"], "none")
    letters = Towers().letters.weight.detach()
    wanted_E = letters[ord("a")] + letters[ord("b")] + 30 * letters[0]  # 32 tokens are read
    torch.testing.assert_close(bank_CE[0], wanted_E / wanted_E.norm())
    findings = models.encoder.examine_names(["x" * 40, "x" * 41, "b"], "none")
    assert (findings.alike, findings.cut, findings.num_read) == (((0, 1),), (0, 1), 32)


def test_crops_are_named_and_what_it_cannot_do_is_said(
    models: FrozenModels, photo: NDArray[np.uint8], tmp_path: Path
) -> None:
    Image.fromarray(photo).save(tmp_path / "photo.png")
    height, width = photo.shape[:2]
    whole = np.array([[0, 0, width, height]], np.float32)
    image = PromptedImage(image_id=1, path=tmp_path / "photo.png", boxes_xyxy=whole)
    bank_CE = models.encoder.text_bank(["ab", "c"], "none")
    (by_method,) = score_pixel_methods(models, [image], bank_CE, methods=["clip_box_crop"])
    scores = by_method["clip_box_crop"]
    embedded_E = models.encoder.embed_images(by_hand(photo))[0]
    torch.testing.assert_close(
        torch.from_numpy(scores.scores[0]), (10 * bank_CE @ embedded_E).softmax(dim=0)
    )
    with pytest.raises(ConfigError, match=r"letters \(LetterEncoder\) cannot project"):
        score_pixel_methods(models, [image], bank_CE, methods=["pooled_patches"])
    with pytest.raises(ConfigError, match="cannot project single patches"):
        models.encoder.project(torch.zeros(1, 5, WIDTH))
