"""The identity of the frozen models: everything about them that changes a stored number.

A head sees SAM and CLIP only through their numbers. Other weights, another token site or another
input size give numbers of the same shape and silently worse names. So fingerprints are compared
before features are mixed, and before they are given to a head.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from regionspot.cache.layout import CACHE_COMMAND
from regionspot.core.errors import CacheMismatchError, ConfigError
from regionspot.core.files import canonical_json, sha256_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Identity of the frozen models and of everything done to an image before them.

    Two caches can be mixed, and a head can be used on a cache, only when their fingerprints are
    equal. In which precision numbers were computed and stored is not part of it: that changes them
    by less than a head notices (`Manifest.precision`, `Manifest.codec`).

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
    """How an image is brought to the localizer's input size."""
    clip_model: str
    """Name of the encoder's architecture."""
    clip_weights_sha256: str
    """Identity of the encoder's parameters; text banks must come from the same."""
    clip_image_size: int
    """Side of the encoder's square input, in pixels."""
    clip_activation: str
    """The encoder's activation function; OpenAI's weights need QuickGELU."""
    clip_mean: tuple[float, float, float]
    """Mean that is subtracted from the red, green and blue channels, in 0..1."""
    clip_std: tuple[float, float, float]
    """Deviation that the channels are divided by, in 0..1."""
    clip_resize: str
    """How an image is brought to the encoder's input size."""
    clip_first_token: str
    """What the first token of a feature map is: "class token" or "pooled embedding"."""
    exif_policy: str
    """What is done about an EXIF orientation."""
    token_site: str
    """Where in the localizer the position token is taken."""
    token_dim: int
    """Width of a position token, S."""
    feature_dim: int
    """Width of the feature map, D."""
    num_feature_tokens: int
    """Tokens of the feature map with the class token, T."""
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
        """Identity of all that makes embeddings of names: architecture, activation and weights."""
        identity = [self.clip_model, self.clip_activation, self.clip_weights_sha256]
        return sha256_bytes(canonical_json(identity).encode("utf-8"))

    def differences(self, other: "Fingerprint") -> list[str]:
        """Return ``field: found X, wanted Y`` for each field unequal in the wanted ``other``."""
        pairs = [
            (field.name, getattr(self, field.name), getattr(other, field.name))
            for field in fields(self)
        ]
        return [
            f"{name}: found {found!r}, wanted {wanted!r}"
            for name, found, wanted in pairs
            if found != wanted
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a fingerprint from what `to_dict` returned.

        Raises:
            CacheMismatchError: A field is missing, or one is unknown to this version.
            ConfigError: A field has a value of the wrong kind.
        """
        known = [field.name for field in fields(cls)]
        if set(values) != set(known):
            raise CacheMismatchError(
                f"a fingerprint lacks {sorted(set(known) - set(values))} and has the unknown"
                f" fields {sorted(set(values) - set(known))}: another version of RegionSpot wrote"
                f" it. Use that version, or cache again: {CACHE_COMMAND}"
            )
        return cls(**{name: _from_json(value) for name, value in values.items()})


def _from_json(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def refuse_differences(
    differences: Sequence[str], *, found: str, wanted: str = "wanted", advice: str
) -> None:
    """Refuse what was made otherwise than wanted, in one wording for caches, models and heads.

    Args:
        differences: One line for each field that differs; none if nothing does.
        found: What was found, such as a cache's path.
        wanted: What it was compared with.
        advice: What to do about it.

    Raises:
        CacheMismatchError: There are differences.
    """
    if differences:
        listed = "\n  ".join(differences)
        raise CacheMismatchError(f"{found} was made otherwise than {wanted}:\n  {listed}\n{advice}")


_ADVICE = (
    "Use the models and settings that it was made with, or cache again into another folder:"
    f" {CACHE_COMMAND}"
)


def check_same_fingerprint(
    found: Fingerprint,
    wanted: Fingerprint,
    *,
    found_in: str,
    wanted_by: str = "wanted",
    advice: str = _ADVICE,
) -> None:
    """Refuse features of other frozen models than the wanted ones.

    Args:
        found: The fingerprint of what is there.
        wanted: The fingerprint of what is needed.
        found_in: Where ``found`` comes from, for the message, such as a cache's path.
        wanted_by: Where ``wanted`` comes from, for the message.
        advice: What to do about a difference, for the message.

    Raises:
        CacheMismatchError: They differ; the message names each field.
    """
    refuse_differences(found.differences(wanted), found=found_in, wanted=wanted_by, advice=advice)


def check_same_models(
    head_fingerprint: Mapping[str, Any], found: Fingerprint, *, where: str
) -> None:
    """Refuse features of other frozen models than those that a head was trained on.

    Args:
        head_fingerprint: The fingerprint in the head's card.
        found: The fingerprint of the features or models at hand.
        where: What ``found`` describes, for the message.

    Raises:
        CacheMismatchError: They differ; the message names each field.
    """
    check_same_fingerprint(
        found,
        Fingerprint.from_dict(head_fingerprint),
        found_in=where,
        wanted_by="what the head was trained on",
        advice="Use the head that was trained on these, or the models and features of this head.",
    )
