"""The frozen SAM and CLIP that belong to a trained head."""

from collections.abc import Mapping
from typing import Any, cast

from regionspot.backbones import (
    Encoder,
    FrozenModels,
    ModelsConfig,
    TokenSite,
    load_frozen_models,
)
from regionspot.backbones.execution import resolve_device
from regionspot.backbones.frozen import load_encoder
from regionspot.backbones.presets import ExifPolicy, as_exif_policy, resolve
from regionspot.backbones.weights import state_sha256
from regionspot.cache import Fingerprint
from regionspot.cache.fingerprint import check_same_models
from regionspot.core.errors import CacheMismatchError, WeightsError
from regionspot.model import HeadCard, TrainedHead


def exif_policy_of(card: HeadCard) -> ExifPolicy:
    """Return how images were rotated by their EXIF orientation when the head was trained."""
    return as_exif_policy(str(card.fingerprint.get("exif_policy", "ignore")))


def load_matching_models(
    trained_head: TrainedHead,
    *,
    device: str,
    sam_weights: str | None,
    clip_weights: str | None,
) -> FrozenModels:
    """Build the SAM and CLIP that a head's card names, and check that they are the same.

    Args:
        trained_head: The head.
        device: Where the frozen models run; "auto" takes a GPU if there is one.
        sam_weights: Name or path of SAM's weights; None takes the released ones.
        clip_weights: Tag or path of CLIP's weights; None takes the usual ones.

    Raises:
        WeightsError: The card does not name the models, or weights do not fit.
        CacheMismatchError: The weights or the preprocessing differ from those of training.
        MissingExtraError: SAM's or CLIP's package is not installed.
    """
    fingerprint = trained_head.card.fingerprint
    if not fingerprint:
        raise WeightsError(
            "the head's card does not say which SAM and CLIP it was trained on. Choose them"
            " yourself: RegionSpot(trained_head, load_frozen_models(ModelsConfig(preset=...),"
            " device=...))."
        )
    wanted = Fingerprint.from_dict(dict(fingerprint))
    config = ModelsConfig(
        sam=wanted.sam_model,
        sam_weights=sam_weights,
        clip=wanted.clip_model,
        clip_weights=clip_weights,
        token_site=cast("TokenSite", wanted.token_site),
    )
    models = load_frozen_models(config, device=device)
    check_same_models(
        fingerprint,
        models.fingerprint(exif_policy=wanted.exif_policy),
        where="the SAM or CLIP loaded (choose with sam_weights= and clip_weights=)",
    )
    return models


def load_matching_encoder(
    fingerprint: Mapping[str, Any], *, device: str, clip_weights: str | None
) -> Encoder:
    """Build the CLIP of a fingerprint, without its SAM, and check that it is the same.

    Args:
        fingerprint: The fingerprint in a head's card.
        device: Where it runs; "auto" takes a GPU if there is one.
        clip_weights: Tag or path of its weights; None takes the usual ones.

    Raises:
        WeightsError: Weights do not fit.
        CacheMismatchError: They are others than those of training.
        MissingExtraError: CLIP's package is not installed.
    """
    wanted = Fingerprint.from_dict(fingerprint)
    config = ModelsConfig(clip=wanted.clip_model, clip_weights=clip_weights)
    encoder = load_encoder(wanted.clip_model, resolve(config).clip_weights)
    found_sha256 = state_sha256(encoder.module)
    if found_sha256 != wanted.clip_weights_sha256:
        raise CacheMismatchError(
            f"the weights of CLIP {wanted.clip_model} loaded here have the hash"
            f" {found_sha256[:12]}; wanted {wanted.clip_weights_sha256[:12]}, as the head was"
            " trained with these. Give them with --clip_weights (clip_weights=)."
        )
    return encoder.to(resolve_device(device))
