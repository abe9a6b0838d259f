"""What the toy models and a random head make of a picture, on any device and in any precision."""

import numpy as np
import torch
from torch import Tensor

from helpers.heads import random_head
from regionspot.backbones import (
    BoxPrompts,
    ModelsConfig,
    Precision,
    load_frozen_models,
    region_tokens,
)
from regionspot.inference import Regions, RegionSpot

NAMES = ("red striped circle", "blue plain square", "sea egg", "green dotted star")
BOXES_XYXY = np.array([[16, 20, 57, 61], [84, 30, 124, 74], [1.5, 70.2, 30.7, 95]], np.float32)
TOLERANCES: dict[Precision, float] = {"bfloat16": 2e-2, "float16": 2.5e-3}
"""Of the error's root mean square over that of the numbers: 2^-8 and 2^-11 a rounding, and what
becomes of it in a few layers."""


def picture() -> np.ndarray:
    """Return a 96 x 140 picture: noise, a red disc, a blue square."""
    image = np.random.default_rng(7).integers(90, 160, (96, 140, 3)).astype(np.uint8)
    y, x = np.mgrid[:96, :140]
    image[(y - 40) ** 2 + (x - 36) ** 2 < 20**2] = (220, 30, 40)
    image[30:74, 84:124] = (30, 40, 210)
    return image


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Return the error's root mean square over that of what is wanted."""
    return float((found - wanted).norm() / wanted.norm())


@torch.inference_mode()
def toy_numbers(device: str, precision: Precision) -> dict[str, Tensor]:
    """Return all that the toy models make of the picture, on the CPU."""
    models = load_frozen_models(ModelsConfig(preset="toy", precision=precision), device=device)
    localizer, encoder = models.localizer, models.encoder
    embedding = localizer.embed(localizer.preprocess(picture())[None])
    return {
        "embedding": embedding.cpu(),
        "tokens": region_tokens(
            localizer, embedding, BoxPrompts(boxes_xyxy=BOXES_XYXY), picture().shape[:2]
        ).cpu(),
        "feature map": encoder.features(encoder.preprocess(picture())[None]).cpu(),
    }


def recognised(device: str) -> Regions:
    """Name three regions of the picture by a head with seeded random weights."""
    models = load_frozen_models(ModelsConfig(preset="toy"), device=device)
    head = random_head(
        models, seed=3, num_blocks=2, ffn_dim=64, normalize_inputs=True, bias=-8.0, vocabulary=NAMES
    )
    model = RegionSpot(head, models)
    return model.recognize(picture(), boxes=BOXES_XYXY, templates="single", top_k=len(NAMES))
