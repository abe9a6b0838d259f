"""What a trained head has to say about itself, as JSON beside its weights."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

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
    def from_json(cls, text: str, *, where: str) -> "HeadCard":
        """Read a card back.

        Args:
            text: What `to_json` wrote.
            where: Where the text comes from, for messages.

        Raises:
            WeightsError: The text is no head card, or one of another version.
        """
        try:
            fields = json.loads(text)
            version = fields.pop("card_version")
            if version != CARD_VERSION:
                raise WeightsError(
                    f"{where}: head card of version {version}, wanted {CARD_VERSION}. Install the"
                    f" regionspot that wrote it (library_version"
                    f" {fields.get('library_version')!r})."
                )
            return cls(
                **{
                    **fields,
                    "head": HeadSpec(**fields["head"]),
                    "vocabulary": tuple(fields["vocabulary"]),
                    "prompts": tuple(fields.get("prompts", ("box",))),
                }
            )
        except RegionSpotError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(
                f"{where} is not the card of a trained head ({type(error).__name__}: {error})."
                " Give the head/ directory of a run, or a checkpoint written by train.py."
            ) from error
