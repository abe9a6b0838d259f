"""Trained heads on disk: safe tensors and a card, or the checkpoint of a run.

The tensors carry the names of `FusionHead.state_dict()`; the classifier's two stand beside them as
``classifier.log_scale`` and ``classifier.bias``.
"""

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from regionspot.core.atomic import write_bytes_atomic, write_text_atomic
from regionspot.core.errors import MissingFileError, WeightsError
from regionspot.model.classifier import RegionClassifier
from regionspot.model.fusion_head import FusionHead
from regionspot.model.head_card import HeadCard

WEIGHTS_NAME = "head.safetensors"
CARD_NAME = "head.json"
RUN_FOLDER = "head"
CHECKPOINT_CARD_KEY = "regionspot_head_card"
_CLASSIFIER_PREFIX = "classifier."
_CHECKPOINT_HEAD_PREFIX = "head."


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedHead:
    """A fusion head with its classifier and its card."""

    head: FusionHead
    """The head, in eval mode when loaded."""
    classifier: RegionClassifier
    """Turns region embeddings into logits over a text bank."""
    card: HeadCard
    """What the head is and where it comes from."""


def save_trained_head(output_dir: Path | str, trained: TrainedHead) -> None:
    """Write ``head.safetensors`` and ``head.json``, each whole or not at all.

    Args:
        output_dir: The directory to write to; made if need be.
        trained: What to write.
    """
    tensors = dict(trained.head.state_dict())
    for name, tensor in trained.classifier.state_dict().items():
        tensors[_CLASSIFIER_PREFIX + name] = tensor
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    output_dir = Path(output_dir)
    write_bytes_atomic(output_dir / WEIGHTS_NAME, safetensors.torch.save(on_cpu))
    write_text_atomic(output_dir / CARD_NAME, trained.card.to_json() + "\n")


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
        WeightsError: The file is none of the three, or its tensors do not fit its card.
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
    if path.suffix == ".safetensors":
        tensors, card = _read_safetensors(path)
    elif path.suffix == ".ckpt":
        tensors, card = _read_checkpoint(path)
    else:
        raise WeightsError(
            f"{path}: cannot tell what this is by its ending; wanted a directory, .safetensors or"
            " .ckpt. For the paper's released checkpoints use `regionspot convert`."
        )
    return _assemble(tensors, card, where=path)


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Load weights into a module, refusing anything missing, unknown or of another shape.

    Args:
        module: What to load into.
        tensors: Weights by the names of ``module.state_dict()``.
        where: Where they come from, for messages.

    Raises:
        WeightsError: The names or shapes differ.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    problems = [f"missing {name}" for name in wanted.keys() - found.keys()]
    problems += [f"unknown {name}" for name in found.keys() - wanted.keys()]
    problems += [
        f"{name}: found {found[name]}, wanted {wanted[name]}"
        for name in wanted.keys() & found.keys()
        if found[name] != wanted[name]
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:6])
        raise WeightsError(
            f"{where} does not fit the {type(module).__name__}, {len(problems)} tensors differ:"
            f" {shown}. Use the options the weights were trained with."
        )
    module.load_state_dict(dict(tensors), strict=True)


def _assemble(tensors: Mapping[str, Tensor], card: HeadCard, *, where: Path) -> TrainedHead:
    head = FusionHead.from_spec(card.head)
    classifier = RegionClassifier(card.scale, card.bias)
    of_head = {n: t for n, t in tensors.items() if not n.startswith(_CLASSIFIER_PREFIX)}
    of_classifier = {
        name.removeprefix(_CLASSIFIER_PREFIX): tensor
        for name, tensor in tensors.items()
        if name.startswith(_CLASSIFIER_PREFIX)
    }
    load_strictly(head, of_head, where=str(where))
    load_strictly(classifier, of_classifier, where=str(where))
    return TrainedHead(head=head.eval(), classifier=classifier.eval(), card=card)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], HeadCard]:
    card_path = path.with_suffix(".json")
    if not card_path.is_file():
        raise MissingFileError(
            f"{path} has no card: {card_path} is missing, which says what head the weights are of."
            " Copy it from the run that wrote the weights."
        )
    card = HeadCard.from_json(card_path.read_text(encoding="utf-8"), where=str(card_path))
    try:
        return safetensors.torch.load_file(path), card
    except safetensors.SafetensorError as error:
        raise WeightsError(
            f"{path} is not a whole safetensors file ({error}). Copy it again from the run that"
            " wrote it."
        ) from error


def _read_checkpoint(path: Path) -> tuple[dict[str, Tensor], HeadCard]:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise WeightsError(
            f"{path} cannot be read as a checkpoint of plain tensors ({error}). Train again, or"
            " give the run's head/ directory."
        ) from error
    if not isinstance(checkpoint, dict) or CHECKPOINT_CARD_KEY not in checkpoint:
        raise WeightsError(
            f"{path} was not written by RegionSpot's train.py: it holds no"
            f" {CHECKPOINT_CARD_KEY!r}. Turn one of the paper's released"
            " checkpoints into a head by `regionspot convert` (load_released_head)."
        )
    card = HeadCard.from_json(checkpoint[CHECKPOINT_CARD_KEY], where=str(path))
    # The LightningModule nests the head one level deeper than head.safetensors does.
    tensors = {
        name.removeprefix(_CHECKPOINT_HEAD_PREFIX): tensor
        for name, tensor in checkpoint["state_dict"].items()
    }
    return tensors, card
