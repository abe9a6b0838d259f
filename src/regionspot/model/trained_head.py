"""Trained heads on disk: a safetensors file with a card, or the checkpoint of a run.

The tensors have the names of `FusionHead.state_dict()`; the two of the classifier are called
``classifier.log_scale`` and ``classifier.bias``. The card is JSON that says what the head is and
what it was trained on. It ends with two hashes: ``weights_sha256`` of the bytes of the weights'
file, and ``sha256`` of the card itself up to there.
"""

import dataclasses
import json
import logging
import math
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from regionspot.core.errors import MissingFileError, RegionSpotError, WeightsError
from regionspot.core.files import canonical_json, open_atomic, sha256_bytes
from regionspot.core.sealing import SEAL_KEY, json_seal, seal_json_text
from regionspot.core.state_dict import check_shapes, load_strictly
from regionspot.model.checkpoint_file import (
    CHECKPOINT_CARD_KEY,
    CHECKPOINT_SUFFIX,
    check_finite,
    read_checkpoint,
)
from regionspot.model.classifier import RegionClassifier
from regionspot.model.fusion_head import FusionHead, HeadSpec

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
    """Refuse values of another type, which would fail later without the file's name."""
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


WEIGHTS_SUFFIX = ".safetensors"
WEIGHTS_NAME = f"head{WEIGHTS_SUFFIX}"
CARD_NAME = "head.json"
RUN_FOLDER = "head"
_WEIGHTS_KEY = "weights_sha256"
_CLASSIFIER_PREFIX = "classifier."
_CHECKPOINT_HEAD_PREFIX = "head."
_MAX_BLOCKS = 1000
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedHead:
    """A fusion head with its classifier and its card."""

    head: FusionHead
    """The head, in eval mode when loaded."""
    classifier: RegionClassifier
    """Turns region embeddings into logits over a text bank."""
    card: HeadCard
    """What the head is and where it comes from."""
    folder: Path | None = None
    """The folder that it was loaded from, where text banks may lie beside it."""


def save_trained_head(output_dir: Path | str, trained: TrainedHead) -> None:
    """Write ``head.safetensors`` and ``head.json``, each whole or not at all, with their seal.

    Args:
        output_dir: The directory to write to; made if need be.
        trained: What to write.
    """
    tensors = dict(trained.head.state_dict())
    for name, tensor in trained.classifier.state_dict().items():
        tensors[_CLASSIFIER_PREFIX + name] = tensor
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    weights = safetensors.torch.save(on_cpu)
    fields = json.loads(trained.card.to_json()) | {_WEIGHTS_KEY: sha256_bytes(weights)}
    card, _ = seal_json_text(canonical_json(fields))
    output_dir = Path(output_dir)
    # Both are on disk before either gets its name, so that a crash hardly ever parts them.
    with ExitStack() as both:
        for name, data in ((CARD_NAME, card.encode("utf-8")), (WEIGHTS_NAME, weights)):
            file = both.enter_context(open_atomic(output_dir / name))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def load_trained_head(path: Path | str) -> TrainedHead:
    """Load a trained head, strictly and without running any code from the file.

    Args:
        path: A directory with ``head.safetensors`` and ``head.json``, or one with such a directory
            ``head/`` in it (a run of train.py); a ``.safetensors`` file with its card beside it
            under the same stem; or a ``.ckpt`` of train.py.

    Returns:
        Head and classifier on the CPU in eval mode, and the card.

    Raises:
        MissingFileError: A file is not there.
        WeightsError: The file is none of the three, was damaged or edited, holds weights that are
            not finite, or its tensors do not fit its card. One without a seal, as earlier versions
            wrote them, is loaded with a warning.
    """
    path = Path(path)
    where = str(path)
    if path.is_dir():
        in_run, directly = path / RUN_FOLDER / WEIGHTS_NAME, path / WEIGHTS_NAME
        where = f"{in_run}, nor at {directly}"
        path = in_run if in_run.is_file() else directly
    if not path.is_file():
        raise MissingFileError(
            f"no trained head at {where}. Give the directory or a .ckpt of a run of `python"
            " train.py fit`, or the path of a .safetensors file. `regionspot quickstart` makes the"
            " run runs/quickstart, also where files of it were removed; with --fresh it makes all"
            " of it again."
        )
    if path.suffix == WEIGHTS_SUFFIX:
        tensors, card = _read_safetensors(path)
    elif path.suffix == CHECKPOINT_SUFFIX:
        tensors, card = _read_checkpoint(path)
    else:
        raise WeightsError(
            f"{path}: cannot tell what this is by its ending; wanted a directory, .safetensors or"
            " .ckpt. For the paper's released checkpoints use `regionspot convert`."
        )
    return replace(_assemble(tensors, card, where=path), folder=path.parent)


def _assemble(tensors: Mapping[str, Tensor], card: HeadCard, *, where: Path) -> TrainedHead:
    of_head = {n: t for n, t in tensors.items() if not n.startswith(_CLASSIFIER_PREFIX)}
    of_classifier = {
        name.removeprefix(_CLASSIFIER_PREFIX): tensor
        for name, tensor in tensors.items()
        if name.startswith(_CLASSIFIER_PREFIX)
    }
    check_shapes(_without_memory(card.head, where=where), of_head, source=str(where))
    check_finite(tensors, where=str(where))
    head = FusionHead(card.head)
    classifier = RegionClassifier(card.scale, card.bias)
    load_strictly(head, of_head, source=str(where))
    load_strictly(classifier, of_classifier, source=str(where))
    return TrainedHead(head=head.eval(), classifier=classifier.eval(), card=card)


def _without_memory(spec: HeadSpec, *, where: Path) -> FusionHead:
    """Build a head that holds no weights: a forged card may speak of any size."""
    try:
        if spec.num_blocks > _MAX_BLOCKS:
            raise ValueError(f"{spec.num_blocks} blocks")  # noqa: TRY301 - one message for all
        with torch.device("meta"):
            return FusionHead(spec)
    except (ValueError, RuntimeError, OverflowError, TypeError) as error:
        raise WeightsError(
            f"{where}: the card's head cannot be built ({error}). Copy it again from the run that"
            " wrote it."
        ) from error


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], HeadCard]:
    card_path = path.with_suffix(".json")
    if not card_path.is_file():
        raise MissingFileError(
            f"{path} has no card: {card_path} is missing, which says what head the weights are of."
            " Copy it from the run that wrote the weights."
        )
    weights = path.read_bytes()
    card = _read_card(card_path, weights, weights_path=path)
    try:
        return safetensors.torch.load(weights), card
    except Exception as error:  # a forged header raises more than SafetensorError
        raise WeightsError(
            f"{path} is not a whole safetensors file ({error}). Copy it again from the run that"
            " wrote it."
        ) from error


def _read_card(path: Path, weights: bytes, *, weights_path: Path) -> HeadCard:
    """Read a card and compare its two hashes with the card's and the weights' bytes."""
    data = path.read_bytes()
    fields = parse_card(data, where=str(path))
    seal, wanted = fields.pop(SEAL_KEY, None), fields.pop(_WEIGHTS_KEY, None)
    if seal is None and wanted is None:
        _logger.warning(
            "%s carries no checksum, as of an earlier version: damage to it would go unnoticed",
            path.parent,
        )
    elif json_seal(data) is None:
        raise WeightsError(
            f"{path} is damaged or was edited: its contents do not have the sha256 in its last"
            " line. Copy it again from the run that wrote it."
        )
    elif wanted != sha256_bytes(weights):
        raise WeightsError(
            f"{weights_path} is damaged, or of another head than {path}: its bytes do not have the"
            f" {_WEIGHTS_KEY} that the card gives. Copy both again from the run that wrote them."
        )
    return HeadCard.from_fields(fields, where=str(path))


def _read_checkpoint(path: Path) -> tuple[dict[str, Tensor], HeadCard]:
    checkpoint = read_checkpoint(path)
    card = HeadCard.from_json(checkpoint[CHECKPOINT_CARD_KEY], where=str(path))
    # The LightningModule nests the head one level deeper than head.safetensors does.
    tensors = {
        name.removeprefix(_CHECKPOINT_HEAD_PREFIX): tensor
        for name, tensor in checkpoint["state_dict"].items()
    }
    return tensors, card
