"""What a trained head has to say about itself, as JSON beside its weights."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from regionspot.core.errors import RegionSpotError, WeightsError
from regionspot.core.hashing import canonical_json
from regionspot.model.fusion_head import HeadSpec

CARD_VERSION = 1
JsonValue: TypeAlias = (
    str | int | float | bool | list["JsonValue"] | Mapping[str, "JsonValue"] | None
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadCard:
    """The identity of a trained head: its shape, its inputs' origin, what it was trained on."""

    head: HeadSpec
    """Shape and options of the fusion head."""
    scale: float
    """The classifier's scale."""
    bias: float
    """The classifier's bias."""
    fingerprint: Mapping[str, JsonValue] = field(default_factory=dict)
    """The caches' fingerprint: which SAM, CLIP and preprocessing made the inputs; {} if unknown."""
    vocabulary: tuple[str, ...] = ()
    """Names of all classes seen in training, without repeats, in order of the training caches."""
    templates: str = ""
    """Template set of the text banks trained against."""
    prompts: tuple[str, ...] = ("box",)
    """What SAM was shown of the regions trained on: box, points, mask or box_and_mask."""
    library_version: str = ""
    """Version of regionspot that trained it."""
    training: Mapping[str, JsonValue] = field(default_factory=dict)
    """Summary of the training: steps, images, caches, options."""

    def to_json(self) -> str:
        """Write the card in canonical JSON."""
        return canonical_json({"card_version": CARD_VERSION, **dataclasses.asdict(self)})

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str) -> "HeadCard":
        """Read a card back.

        Args:
            text: What `to_json` wrote.
            where: Where the text comes from, for messages.

        Raises:
            WeightsError: The text is no head card, or one of another version.
        """
        return cls.from_fields(parse_card(text, where=where), where=where)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any], *, where: str) -> "HeadCard":
        """Build a card from the JSON object that `to_json` writes.

        Args:
            fields: The object.
            where: Where it comes from, for messages.

        Raises:
            WeightsError: It is no head card, or one of another version.
        """
        known = dict(fields)
        version = known.pop("card_version", None)
        if isinstance(version, int) and version != CARD_VERSION:
            raise WeightsError(
                f"{where}: head card of version {version}, wanted {CARD_VERSION}. Install the"
                f" regionspot that wrote it (library_version {known.get('library_version')!r})."
            )
        try:
            if version is None:
                raise KeyError("card_version")  # noqa: TRY301 - told as every other missing field
            card = cls(
                **{
                    **known,
                    "head": HeadSpec(**known["head"]),
                    "vocabulary": tuple(known["vocabulary"]),
                    "prompts": tuple(known.get("prompts", ("box",))),
                }
            )
            _check_types(card)
        except RegionSpotError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _no_card(where, error) from error
        return card


def parse_card(text: str | bytes, *, where: str) -> dict[str, Any]:
    """Read the JSON object of a card.

    Raises:
        WeightsError: It is no JSON object.
    """
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _no_card(where, error) from error
    if not isinstance(fields, dict):
        raise _no_card(where, TypeError(f"a JSON {type(fields).__name__}, no object"))
    return fields


def _no_card(where: str, error: Exception) -> WeightsError:
    return WeightsError(
        f"{where} is not the card of a trained head ({type(error).__name__}: {error})."
        " Give the head/ directory of a run, or a checkpoint written by train.py."
    )


def _check_types(card: HeadCard) -> None:
    """Refuse values of another kind, which would fail somewhere else, without the file's name."""
    for name in ("scale", "bias"):
        value = getattr(card, name)
        if type(value) not in (int, float) or not math.isfinite(value):
            raise TypeError(f"{name} is {value!r}, no finite number")
    for option in dataclasses.fields(HeadSpec):
        value, kind = getattr(card.head, option.name), type(option.default)
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise TypeError(f"head.{option.name} is {value!r}, no {kind.__name__}")
    texts = (*card.vocabulary, *card.prompts, card.templates, card.library_version)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("vocabulary, prompts, templates and library_version have to be text")
    for name in ("fingerprint", "training"):
        if not isinstance(getattr(card, name), Mapping):
            raise TypeError(f"{name} is no JSON object")
