"""Trained heads on disk: a safetensors file with a card, or the checkpoint of a run.

The tensors have the names of `FusionHead.state_dict()`; those of the classifier are
``classifier.log_scale`` and ``classifier.bias``. The card is JSON that describes the head and its
training. It ends with two hashes: ``weights_sha256`` of the weights file, and ``sha256`` of the
card itself up to that key.
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
from regionspot.model.fusion_head import FusionHead
from regionspot.model.head_files import CARD_NAME, WEIGHTS_NAME, WEIGHTS_SUFFIX, find_head
from regionspot.model.head_spec import HeadSpec

CARD_VERSION = 1
JsonValue: TypeAlias = (
    str | int | float | bool | list["JsonValue"] | Mapping[str, "JsonValue"] | None
)

_WEIGHTS_KEY = "weights_sha256"
_CLASSIFIER_PREFIX = "classifier."
_CHECKPOINT_HEAD_PREFIX = "head."
_MAX_BLOCKS = 1000
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadCard:
    """Describes a trained head: its shape, the origin of its inputs, and its training."""

    head: HeadSpec
    """Shape and options of the fusion head."""
    scale: float
    """The classifier's scale."""
    bias: float
    """The classifier's bias."""
    fingerprint: Mapping[str, JsonValue] = field(default_factory=dict)
    """The caches' fingerprint: SAM, CLIP and preprocessing of the inputs; {} if unknown."""
    vocabulary: tuple[str, ...] = ()
    """Names of all classes of training, without repeats, in the order of the training caches."""
    seen_classes: tuple[str, ...] = ()
    """Names of the classes with at least one region in training, including the training of the head
    that this one started from; () if unknown."""
    templates: str = ""
    """Template set of the text banks in training."""
    prompts: tuple[str, ...] = ("box",)
    """SAM's prompts for the regions of training: box, points, mask or box_and_mask."""
    library_version: str = ""
    """Version of regionspot that trained the head."""
    training: Mapping[str, JsonValue] = field(default_factory=dict)
    """Summary of the training: steps, images, caches, options."""

    def to_json(self) -> str:
        """Return the card as canonical JSON."""
        return canonical_json({"card_version": CARD_VERSION, **dataclasses.asdict(self)})

    @classmethod
    def from_json(cls, text: str | bytes, *, where: str) -> "HeadCard":
        """Read the text of `to_json`; errors as `from_fields`."""
        return cls.from_fields(_json_object(text, where=where), where=where)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any], *, where: str) -> "HeadCard":
        """Create a card from the JSON object of `to_json`.

        Args:
            fields: The object.
            where: Its origin, for messages.

        Raises:
            WeightsError: It is not a head card, or one of another version.
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
                raise KeyError("card_version")  # noqa: TRY301 - one message for missing fields
            card = cls(
                **{
                    **known,
                    "head": HeadSpec(**known["head"]),
                    "vocabulary": tuple(known["vocabulary"]),
                    "seen_classes": tuple(known.get("seen_classes", ())),
                    "prompts": tuple(known.get("prompts", ("box",))),
                }
            )
            _check_types(card)
        except RegionSpotError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _no_card(where, error) from error
        return card


def _json_object(text: str | bytes, *, where: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _no_card(where, error) from error
    if not isinstance(fields, dict):
        raise _no_card(where, TypeError(f"a JSON {type(fields).__name__}, not an object"))
    return fields


def _no_card(where: str, error: Exception) -> WeightsError:
    return WeightsError(
        f"{where} is not the card of a trained head ({type(error).__name__}: {error})."
        " Give the head/ directory of a run, or a checkpoint written by train.py."
    )


def _check_types(card: HeadCard) -> None:
    """Refuse values of a wrong type, which would fail later without the file's name."""
    for name in ("scale", "bias"):
        value = getattr(card, name)
        if type(value) not in (int, float) or not math.isfinite(value):
            raise TypeError(f"{name} is {value!r}, not a finite number")
    for option in dataclasses.fields(HeadSpec):
        value, kind = getattr(card.head, option.name), type(option.default)
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise TypeError(f"head.{option.name} is {value!r}, not {kind.__name__}")
    names = (*card.vocabulary, *card.seen_classes, *card.prompts)
    if not all(isinstance(text, str) for text in (*names, card.templates, card.library_version)):
        raise TypeError(
            "vocabulary, seen_classes, prompts, templates and library_version must be text"
        )
    for name in ("fingerprint", "training"):
        if not isinstance(getattr(card, name), Mapping):
            raise TypeError(f"{name} is not a JSON object")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedHead:
    """A fusion head with its classifier and its card."""

    head: FusionHead
    """The head, in eval mode when loaded."""
    classifier: RegionClassifier
    """Turns region embeddings into logits over a text bank."""
    card: HeadCard
    """Description of the head and its training."""
    folder: Path | None = None
    """The folder that it was loaded from, which may contain text banks."""

    @property
    def sha256(self) -> str:
        """Identity of its embeddings and logits: a hash of its weights, options and inputs.

        It does not depend on the kind of file or the device.
        """
        weights_sha256 = sha256_bytes(self.weights())
        identity = [dataclasses.asdict(self.card.head), self.card.fingerprint, weights_sha256]
        return sha256_bytes(canonical_json(identity).encode("utf-8"))

    def weights(self) -> bytes:
        """Return the contents of ``head.safetensors``."""
        tensors = self.head.state_dict()
        self.classifier.state_dict(destination=tensors, prefix=_CLASSIFIER_PREFIX)
        on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        return safetensors.torch.save(on_cpu)


def save_trained_head(output_dir: Path | str, trained: TrainedHead) -> None:
    """Write ``head.safetensors`` and ``head.json`` atomically, with checksums.

    Args:
        output_dir: The directory; created if missing.
        trained: The head.
    """
    weights = trained.weights()
    fields = json.loads(trained.card.to_json()) | {_WEIGHTS_KEY: sha256_bytes(weights)}
    card, _ = seal_json_text(canonical_json(fields))
    output_dir = Path(output_dir)
    # Both are on disk before either is renamed, so that a crash rarely leaves only one.
    with ExitStack() as both:
        for name, data in ((CARD_NAME, card.encode("utf-8")), (WEIGHTS_NAME, weights)):
            file = both.enter_context(open_atomic(output_dir / name))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def load_trained_head(
    name_or_path: Path | str,
    *,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    cache_dir: str | Path | None = None,
) -> TrainedHead:
    """Load a trained head, strictly and without running code from the file.

    Args:
        name_or_path: A directory with ``head.safetensors`` and ``head.json``, or one with such a
            directory ``head/`` in it (a run of train.py); a ``.safetensors`` file with its card
            beside it under the same stem; a ``.ckpt`` of train.py; or ``hf://owner/name`` on the
            Hugging Face Hub.
        revision: Branch, tag or commit on the Hub; None is the main branch.
        token: The Hub's access token; None takes that of ``hf auth login``, if any.
        local_files_only: Whether to use earlier downloads from the Hub without asking it.
        cache_dir: Where downloads from the Hub are kept; None is its client's folder.

    Returns:
        Head and classifier on the CPU in eval mode, and the card.

    Raises:
        MissingFileError: A file is not there, or the Hub has no such head.
        WeightsError: The file is none of the three, is damaged or was edited, has weights that are
            not finite, or its tensors do not fit its card. One without checksums, from an earlier
            version, is loaded with a warning.
        ConfigError: The name is not ``hf://owner/name``, or a local path has options of the Hub.
        StorageError: The Hub refuses access or does not answer.
        MissingExtraError: The extra ``hub`` is needed and not installed.
    """
    path = find_head(
        name_or_path,
        revision=revision,
        token=token,
        local_files_only=local_files_only,
        cache_dir=cache_dir,
    )
    if path.suffix == WEIGHTS_SUFFIX:
        tensors, card = _read_safetensors(path)
    elif path.suffix == CHECKPOINT_SUFFIX:
        tensors, card = _read_checkpoint(path)
    else:
        raise WeightsError(
            f"{path} has an unknown suffix; wanted a directory, .safetensors or .ckpt. For the"
            " paper's released checkpoints use `regionspot convert`."
        )
    return replace(_assemble(tensors, card, where=path), folder=path.parent)


def _assemble(tensors: Mapping[str, Tensor], card: HeadCard, *, where: Path) -> TrainedHead:
    of_head, of_classifier = {}, {}
    for name, tensor in tensors.items():
        if name.startswith(_CLASSIFIER_PREFIX):
            of_classifier[name.removeprefix(_CLASSIFIER_PREFIX)] = tensor
        else:
            of_head[name] = tensor
    check_shapes(_without_memory(card.head, where=where), of_head, source=str(where))
    check_finite(tensors, where=str(where))
    head = FusionHead(card.head)
    classifier = RegionClassifier(card.scale, card.bias)
    load_strictly(head, of_head, source=str(where))
    load_strictly(classifier, of_classifier, source=str(where))
    return TrainedHead(head=head.eval(), classifier=classifier.eval(), card=card)


def _without_memory(spec: HeadSpec, *, where: Path) -> FusionHead:
    """Build a head without weights: a forged card may ask for any size."""
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
            f"{path} has no card: {card_path} is missing, which describes the head. Copy it from"
            " the run that wrote the weights."
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
    """Read a card and check its two hashes."""
    data = path.read_bytes()
    fields = _json_object(data, where=str(path))
    seal, wanted = fields.pop(SEAL_KEY, None), fields.pop(_WEIGHTS_KEY, None)
    if seal is None and wanted is None:
        _logger.warning(
            "%s has no checksum (written by an earlier version), so damage cannot be detected",
            path.parent,
        )
    elif json_seal(data) is None:
        raise WeightsError(
            f"{path} is damaged or was edited: its contents do not match the sha256 in its last"
            " line. Copy it again from the run that wrote it."
        )
    elif wanted != sha256_bytes(weights):
        raise WeightsError(
            f"{weights_path} is damaged, or of another head than {path}: it does not match the"
            f" card's {_WEIGHTS_KEY}. Copy both again from the run that wrote them."
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
