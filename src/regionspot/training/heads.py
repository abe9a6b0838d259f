"""The head of a run: the one that it starts from, its card, and its export for inference."""

import dataclasses
import importlib.metadata
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from regionspot.cache import Fingerprint, TextBankStore, text_banks_path
from regionspot.core.errors import WeightsError
from regionspot.core.vocabulary import Vocabulary
from regionspot.data import CachedRegions
from regionspot.model import (
    RELEASED_SUFFIX,
    HeadCard,
    HeadSpec,
    JsonValue,
    TrainedHead,
    load_released_head,
    load_trained_head,
    save_trained_head,
)

_LOGGER = logging.getLogger(__name__)


def load_start(init_from: str, wanted: HeadSpec) -> TrainedHead:
    """Load the head that a run starts from.

    A head without guidance may start one with guidance, whose strengths then keep their initial
    values.

    Args:
        init_from: A path for `load_trained_head`, or a ``.pth`` file released with the paper, which
            does not name the SAM and CLIP that it was trained on.
        wanted: The head of this run. What has no effect on weights may differ: dropout and the
            initial guidance.

    Raises:
        WeightsError: The head has another shape.
    """
    is_released = Path(init_from).suffix == RELEASED_SUFFIX
    start = load_released_head(init_from) if is_released else load_trained_head(init_from)
    found = start.card.head
    was_added = found.guidance == "none"
    guidance = wanted.guidance if was_added else found.guidance
    found = dataclasses.replace(
        found,
        dropout=wanted.dropout,
        guidance=guidance,
        guidance_region=wanted.guidance_region if was_added else found.guidance_region,
        guidance_spread=wanted.guidance_spread if guidance == "learned" else 0.0,
    )
    if found != wanted:
        ours = dataclasses.asdict(wanted)
        differences = [
            f"{name}: found {value!r}, wanted {ours[name]!r}"
            for name, value in dataclasses.asdict(found).items()
            if value != ours[name]
        ]
        raise WeightsError(
            f"model.init_from {init_from} does not fit this run: {'; '.join(differences)}. Use the"
            " same model.head options and caches of the same widths, or another initial head."
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
    """Warn if the initial head was trained on features of other models or settings.

    This is no error, as it may be intended, though it rarely is.
    """
    changed = [
        f"{name}: {start_fingerprint.get(name)!r} then, {value!r} now"
        for name, value in fingerprint.to_dict().items()
        if start_fingerprint.get(name) != value
    ]
    if start_fingerprint and changed:
        _LOGGER.warning(
            "model.init_from %s was trained on other features: %s", init_from, "; ".join(changed)
        )


def untrained_card(
    data: CachedRegions,
    head: HeadSpec,
    *,
    scale: float,
    bias: float,
    initial: HeadCard | None = None,
) -> HeadCard:
    """Return the card of a head that is to be trained on this data.

    Args:
        data: The training data.
        head: Shape of the head.
        scale: Initial scale of the classifier.
        bias: Initial bias of the classifier.
        initial: Card of the head that training starts from; None for random weights.
    """
    names = [name for vocabulary in data.vocabularies for name in vocabulary]
    return HeadCard(
        head=head,
        scale=scale,
        bias=bias,
        fingerprint=data.fingerprint.to_dict(),
        vocabulary=tuple(dict.fromkeys(names)),
        seen_classes=_seen_classes(data, initial),
        templates=data.templates,
        prompts=tuple(dict.fromkeys(cache.manifest.prompt for cache in data.train_caches)),
        library_version=importlib.metadata.version("regionspot"),
        training={"caches": list(data.names), "batch_sizes": list(data.batch_sizes)},
    )


def _seen_classes(data: CachedRegions, initial: HeadCard | None) -> tuple[str, ...]:
    """Return the classes with regions in the caches or in the initial head's training, sorted."""
    if initial is not None and not initial.seen_classes:
        return ()  # it does not say
    seen = set() if initial is None else set(initial.seen_classes)
    for cache in data.train_caches:
        counts = cache.index.label_counts.tolist()
        seen |= {name for name, num in zip(cache.manifest.vocabulary, counts, strict=True) if num}
    return tuple(sorted(seen))


def export_head(output_dir: Path, trained: TrainedHead, data: CachedRegions) -> None:
    """Write ``head.safetensors``, ``head.json`` and ``text_banks.h5``.

    The last one has the format of a cache's (docs/cache_format.md) and one bank, of the names in
    the card, so that recognition need not embed them again. It takes 4 bytes per name and text
    dimension: 3.7 MB for the 1,203 names of LVIS at a width of 768, 40 MB for the 13,029 of V3Det.
    A name that occurs in several caches has the embedding of the first.

    Args:
        output_dir: The folder to write to; created if necessary.
        trained: The head, as `RegionSpotModule.trained_head` returns it.
        data: What it was trained on.
    """
    banks = TextBankStore(text_banks_path(output_dir))
    banks.path.unlink(missing_ok=True)  # of an earlier run
    save_trained_head(output_dir, trained)
    row_of: dict[str, Tensor] = {}
    for vocabulary, bank_CE in zip(data.vocabularies, data.text_banks, strict=True):
        for name, row in zip(vocabulary, bank_CE, strict=True):
            row_of.setdefault(name, row)
    names = trained.card.vocabulary
    banks.put(
        Vocabulary(names),
        torch.stack([row_of[name] for name in names]).numpy(),
        templates=data.templates,
        clip_sha256=data.fingerprint.text_encoder_sha256,
    )
