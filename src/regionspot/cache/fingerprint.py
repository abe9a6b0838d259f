"""The identity of the frozen models: everything about them that changes stored numbers.

Features from other weights, another token site or another input size have the same shape, but a
head names regions worse on them, without an error. So fingerprints are compared before features are
mixed or given to a head.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from regionspot.cache.layout import CACHE_COMMAND
from regionspot.core.errors import CacheMismatchError, ConfigError
from regionspot.core.files import canonical_json, sha256_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Identity of the frozen models and their preprocessing.

    Two caches can be mixed, and a head can be used on a cache, only if their fingerprints are
    equal. Precision and codec (`Manifest.precision`, `Manifest.codec`) are not part of it: their
    effect on a head is negligible.

    Raises:
        ConfigError: A text is empty, a number is below 1, or a triple is not three floats.
    """

    sam_model: str
    """Name of the localizer's architecture."""
    sam_weights_sha256: str
    """Identity of the localizer's parameters."""
    sam_image_size: int
    """Side of the localizer's square input, in pixels."""
    sam_resize: str
    """How an image is resized to the localizer's input."""
    clip_model: str
    """Name of the encoder's architecture."""
    clip_weights_sha256: str
    """Identity of the encoder's parameters; text banks must be from the same encoder."""
    clip_image_size: int
    """Side of the encoder's square input, in pixels."""
    clip_activation: str
    """The encoder's activation function; OpenAI's weights need QuickGELU."""
    clip_mean: tuple[float, float, float]
    """Mean of the red, green and blue channels that is subtracted, in 0..1."""
    clip_std: tuple[float, float, float]
    """Standard deviation that the channels are divided by, in 0..1."""
    clip_resize: str
    """How an image is resized to the encoder's input."""
    clip_first_token: str
    """What the first token of a feature map is: "class token" or "pooled embedding"."""
    exif_policy: str
    """How an EXIF orientation is handled."""
    token_site: str
    """Where in the localizer the position token is taken."""
    token_dim: int
    """Width of a position token, S."""
    feature_dim: int
    """Width of the feature map, D."""
    num_feature_tokens: int
    """Number of tokens of the feature map, class token included, T."""
    text_dim: int
    """Width of the encoder's text embeddings, E."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is str:
                fits = isinstance(value, str) and bool(value)
            elif field.type is int:
                fits = type(value) is int and value > 0
            else:
                fits = isinstance(value, tuple) and [type(x) for x in value] == [float] * 3
            if not fits:
                raise ConfigError(
                    f"fingerprint field {field.name} is {value!r}; wanted a non-empty text, a"
                    f" positive integer or three floats ({field.type})."
                )

    @property
    def text_encoder_sha256(self) -> str:
        """Identity of the text encoder: architecture, activation and weights."""
        identity = [self.clip_model, self.clip_activation, self.clip_weights_sha256]
        return sha256_bytes(canonical_json(identity).encode("utf-8"))

    def differences(self, other: "Fingerprint") -> list[str]:
        """Return ``field: found X, wanted Y`` for each field unequal in the wanted ``other``."""
        return field_differences(asdict(self), asdict(other))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a fingerprint from the result of `to_dict`."""
        known = [field.name for field in fields(cls)]
        if set(values) != set(known):
            raise CacheMismatchError(
                f"a fingerprint lacks {sorted(set(known) - set(values))} and has the unknown"
                f" fields {sorted(set(values) - set(known))}: another version of RegionSpot wrote"
                f" it. Use that version, or cache again: {CACHE_COMMAND}"
            )
        parts: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**parts)


def field_differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return ``field: found X, wanted Y`` for each unequal value of two equal sets of fields."""
    return [
        f"{name}: found {value!r}, wanted {wanted[name]!r}"
        for name, value in found.items()
        if value != wanted[name]
    ]


def refuse_differences(
    differences: Sequence[str], *, found: str, wanted: str = "wanted", advice: str
) -> None:
    """Raise `CacheMismatchError` if there are differences, in one wording for all comparisons.

    Args:
        differences: One line for each field that differs.
        found: What was found, such as a cache's path.
        wanted: What it was compared with.
        advice: What to do about it.
    """
    if differences:
        listed = "\n  ".join(differences)
        raise CacheMismatchError(
            f"{found} was made with other models or settings than {wanted}:\n  {listed}\n{advice}"
        )


def check_same_fingerprint(found: Fingerprint, wanted: Fingerprint, *, found_in: str) -> None:
    """Raise `CacheMismatchError` if features were made by other frozen models than wanted.

    Args:
        found: The fingerprint of the features.
        wanted: The fingerprint that is needed.
        found_in: Where ``found`` is from, for the message, such as a cache's path.
    """
    advice = (
        "Use the models and settings that it was made with, or cache again into another folder:"
        f" {CACHE_COMMAND}"
    )
    refuse_differences(found.differences(wanted), found=found_in, advice=advice)


def check_same_models(
    head_fingerprint: Mapping[str, Any], found: Fingerprint, *, where: str
) -> None:
    """Raise `CacheMismatchError` if a head was trained on features of other frozen models.

    Args:
        head_fingerprint: The fingerprint in the head's card.
        found: The fingerprint of the features or models at hand.
        where: What ``found`` describes, for the message.
    """
    refuse_differences(
        found.differences(Fingerprint.from_dict(head_fingerprint)),
        found=where,
        wanted="those that the head was trained on",
        advice="Use the head that was trained on these, or the models and features of this head.",
    )
