"""From a path to a head and the frozen models that it was trained on."""

from typing import cast

from regionspot.backbones import FrozenModels, ModelsConfig, TokenSite, load_frozen_models
from regionspot.backbones.presets import ExifPolicy, as_exif_policy
from regionspot.cache import Fingerprint
from regionspot.core.errors import WeightsError
from regionspot.inference.compatibility import check_same_models
from regionspot.model import HeadCard, TrainedHead


def exif_policy_of(card: HeadCard) -> ExifPolicy:
    """Return what a head's training did about the EXIF orientation of images."""
    return as_exif_policy(str(card.fingerprint.get("exif_policy", "ignore")))


def load_matching_models(
    trained_head: TrainedHead,
    *,
    device: str,
    sam_weights: str | None,
    clip_weights: str | None,
) -> FrozenModels:
    """Build the SAM and CLIP that a head's card names, and check that they are the very same.

    Args:
        trained_head: The head.
        device: Where the frozen models run; "auto" takes a GPU if there is one.
        sam_weights: Name or path of SAM's weights; None takes those released for its architecture.
        clip_weights: Tag or path of CLIP's weights; None takes the usual ones of the architecture.

    Raises:
        WeightsError: The card does not say which models, or weights do not fit.
        CacheMismatchError: The weights or the preprocessing are others than in training.
        MissingExtraError: SAM's or CLIP's package is not installed.
    """
    card = trained_head.card
    if not card.fingerprint:
        raise WeightsError(
            "the head's card does not say which SAM and CLIP it was trained on. Choose them"
            " yourself: RegionSpot(trained_head, load_frozen_models(ModelsConfig(preset=...),"
            " device=...))."
        )
    wanted = Fingerprint.from_dict(dict(card.fingerprint))
    config = ModelsConfig(
        sam=wanted.sam_model,
        sam_weights=sam_weights,
        clip=wanted.clip_model,
        clip_weights=clip_weights,
        token_site=cast("TokenSite", wanted.token_site),
    )
    models = load_frozen_models(config, device=device)
    check_same_models(
        card.fingerprint,
        models.fingerprint(exif_policy=wanted.exif_policy),
        where="SAM or CLIP as loaded (choose with sam_weights= and clip_weights=)",
    )
    return models
