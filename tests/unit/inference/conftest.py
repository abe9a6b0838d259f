"""The genuine SAM and CLIP made tiny, a small random head, and a picture to look at."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from helpers.heads import random_head
from regionspot.backbones import FrozenModels, ModelsConfig, load_frozen_models
from regionspot.core.vocabulary import Vocabulary
from regionspot.inference import RegionSpot
from regionspot.model import TrainedHead

NAMES = ("red striped circle", "blue plain square", "sea egg", "green dotted star")


@pytest.fixture(scope="session")
def models() -> FrozenModels:
    torch.set_num_threads(1)
    return load_frozen_models(ModelsConfig(preset="toy"))


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    return Vocabulary(NAMES)


@pytest.fixture(scope="session")
def bank(models: FrozenModels, vocabulary: Vocabulary) -> torch.Tensor:
    return models.encoder.text_bank(vocabulary.names, "single")


@pytest.fixture(scope="session")
def trained_head(models: FrozenModels) -> TrainedHead:
    return random_head(
        models,
        seed=3,
        num_blocks=2,
        ffn_dim=64,
        normalize_inputs=True,
        bias=-8.0,
        vocabulary=NAMES,
        templates="single",
    )


@pytest.fixture(scope="session")
def model(trained_head: TrainedHead, models: FrozenModels) -> RegionSpot:
    return RegionSpot(trained_head, models)


@pytest.fixture(scope="session")
def pixels() -> NDArray[np.uint8]:
    """A 96 x 140 picture: noise, a red disc, a blue square."""
    image = np.random.default_rng(7).integers(90, 160, (96, 140, 3)).astype(np.uint8)
    y, x = np.mgrid[:96, :140]
    image[(y - 40) ** 2 + (x - 36) ** 2 < 20**2] = (220, 30, 40)
    image[30:74, 84:124] = (30, 40, 210)
    return image


@pytest.fixture(scope="session")
def boxes() -> NDArray[np.float32]:
    """The disc, the square, and a corner that holds neither, of the picture."""
    return np.array([[16, 20, 57, 61], [84, 30, 124, 74], [1.5, 70.2, 30.7, 95]], np.float32)


@pytest.fixture(scope="session")
def picture_path(pixels: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "disc_and_square.png"
    Image.fromarray(pixels).save(path)
    return path
