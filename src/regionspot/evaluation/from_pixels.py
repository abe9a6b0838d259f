"""What methods and masks from pixels need: the images of a cache, and the models that made it."""

from collections.abc import Iterator

import numpy as np

from regionspot.backbones import FrozenModels, load_frozen_models
from regionspot.cache import check_same_fingerprint
from regionspot.core.errors import ConfigError
from regionspot.evaluation.config import EvalConfig
from regionspot.evaluation.data import EvaluationData
from regionspot.inference import PromptedImage


def prompted_images(data: EvaluationData) -> Iterator[PromptedImage]:
    """Yield the cache's images with the very boxes that the heads see."""
    for position in data.positions:
        sample = data.cache.sample(position)
        yield PromptedImage(
            image_id=sample.image_id,
            path=data.image_paths[sample.image_id],
            boxes_xyxy=np.array(sample.boxes_xyxy),
            box_scores=np.array(sample.box_scores),
        )


def load_models(config: EvalConfig, data: EvaluationData) -> FrozenModels:
    """Load the frozen models, and check that they are those that made the cache.

    Raises:
        ConfigError: No models are given, or the cache was made from rotated images.
        CacheMismatchError: The cache was made by other models.
    """
    if config.models is None:
        raise ConfigError("set --models.preset to the models that made the cache.")
    wanted = data.cache.manifest.fingerprint
    if wanted.exif_policy != "ignore":
        raise ConfigError(
            f"{data.cache.location} was made with exif_policy {wanted.exif_policy!r}; methods and"
            " masks from pixels read images as stored. Leave them out, or cache with exif_policy"
            " ignore."
        )
    models = load_frozen_models(config.models, device=config.device)
    check_same_fingerprint(
        wanted, models.fingerprint(), found_in=f"the cache {data.cache.location}"
    )
    return models
