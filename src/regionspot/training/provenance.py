"""The provenance of a head: the data of its run, and the head that it was initialized from."""

import dataclasses
import importlib.metadata
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from regionspot.cache import Fingerprint
from regionspot.core.errors import WeightsError
from regionspot.data import CachedRegions
from regionspot.model import (
    RELEASED_SUFFIX,
    HeadCard,
    HeadSpec,
    JsonValue,
    TrainedHead,
    load_released_head,
    load_trained_head,
)

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """The training data, as described on a card."""

    fingerprint: Fingerprint
    """What made the features."""
    vocabulary: tuple[str, ...]
    """Names of all classes of all caches, without repeats."""
    templates: str
    """Template set of the text banks."""
    prompts: tuple[str, ...]
    """What SAM was shown of regions, without repeats."""
    caches: tuple[str, ...]
    """Names of the caches."""
    batch_sizes: tuple[int, ...]
    """Images of a step of each cache, over all devices."""

    def card(
        self, *, head: HeadSpec, scale: float, bias: float, training: Mapping[str, JsonValue]
    ) -> HeadCard:
        """Return the card of a head that was trained on this data.

        Args:
            head: Its shape.
            scale: Factor of the cosines.
            bias: Added to every logit.
            training: How it was trained, apart from the data.
        """
        return HeadCard(
            head=head,
            scale=scale,
            bias=bias,
            fingerprint=self.fingerprint.to_dict(),
            vocabulary=self.vocabulary,
            templates=self.templates,
            prompts=self.prompts,
            library_version=importlib.metadata.version("regionspot"),
            training={
                "caches": list(self.caches),
                "batch_sizes": list(self.batch_sizes),
                **training,
            },
        )


def provenance_of(data: CachedRegions) -> Provenance:
    """Return the description of a data module for a card."""
    names = [name for vocabulary in data.vocabularies for name in vocabulary]
    return Provenance(
        fingerprint=data.fingerprint,
        vocabulary=tuple(dict.fromkeys(names)),
        templates=data.templates,
        prompts=tuple(dict.fromkeys(cache.manifest.prompt for cache in data.train_caches)),
        caches=data.names,
        batch_sizes=data.batch_sizes,
    )


def load_start(init_from: str, wanted: HeadSpec) -> TrainedHead:
    """Load the head that a run starts from.

    A head without guidance may start one with guidance, whose strengths it leaves as they are.

    Args:
        init_from: Where it is, see `load_trained_head`; or a ``.pth`` file released with the paper,
            which does not name the SAM and CLIP that it was trained on.
        wanted: The head of this run. What does not affect weights may differ, which is dropout and
            the start of the guidance.

    Raises:
        WeightsError: It is a head of another shape.
    """
    if Path(init_from).suffix == RELEASED_SUFFIX:
        start = load_released_head(init_from)
    else:
        start = load_trained_head(init_from)
    found = start.card.head
    guidance = wanted.guidance if found.guidance == "none" else found.guidance
    found = dataclasses.replace(
        found,
        dropout=wanted.dropout,
        guidance=guidance,
        guidance_spread=wanted.guidance_spread if guidance == "learned" else 0.0,
    )
    if found != wanted:
        raise WeightsError(
            f"model.init_from {init_from} does not fit this run:"
            f" {'; '.join(_differences(found, wanted))}. Use the same model.head options and caches"
            " of the same widths, or another head to start from."
        )
    if start.card.head.guidance != wanted.guidance:
        _LOGGER.info(
            "model.init_from %s has no guidance; that of this run (%s) starts from"
            " model.head.guidance_spread %g",
            init_from,
            wanted.guidance,
            wanted.guidance_spread,
        )
    return start


def warn_of_other_features(
    start_fingerprint: Mapping[str, JsonValue], fingerprint: Fingerprint, *, init_from: str
) -> None:
    """Warn if the initial head was trained on features that were made differently.

    This is not an error, as it may be intended, but it rarely is.
    """
    now = fingerprint.to_dict()
    changed = [
        f"{name}: {start_fingerprint.get(name)!r} then, {value!r} now"
        for name, value in now.items()
        if start_fingerprint.get(name) != value
    ]
    if start_fingerprint and changed:
        _LOGGER.warning(
            "model.init_from %s was trained on features made differently: %s",
            init_from,
            "; ".join(changed),
        )


def _differences(found: HeadSpec, wanted: HeadSpec) -> Iterator[str]:
    for field in dataclasses.fields(HeadSpec):
        theirs, ours = getattr(found, field.name), getattr(wanted, field.name)
        if theirs != ours:
            yield f"{field.name}: found {theirs!r}, wanted {ours!r}"
