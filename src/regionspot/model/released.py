"""The layout of the heads that the paper's authors released, read and written."""

import io
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from regionspot.core.errors import MissingFileError, WeightsError
from regionspot.core.files import write_bytes_atomic
from regionspot.core.state_dict import load_strictly
from regionspot.model.checkpoint_file import check_finite, load_tensors
from regionspot.model.classifier import RegionClassifier
from regionspot.model.fusion_head import FusionHead, HeadSpec
from regionspot.model.trained_head import HeadCard, JsonValue, TrainedHead

RELEASED_SUFFIX = ".pth"
_HEAD_PARTS = ("to_clip.", "projector.", "decoder.")
_BACKBONE_PARTS = ("sam.", "clip_model.")


def load_released_head(path: Path | str) -> FusionHead:
    """Load the fusion head of a checkpoint released with the paper.

    The widths are read off the tensors. Frozen SAM and CLIP weights that some of the files carry
    along are left out. The classifier of these heads is ``RegionClassifier()``: scale 100, bias 0.

    Args:
        path: A ``.pth`` file, ``{"model": {...}}``.

    Returns:
        The head on the CPU, in eval mode.

    Raises:
        MissingFileError: There is no such file.
        WeightsError: The file is no such checkpoint, or holds unknown or misshapen tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"no checkpoint at {path}: give the path of a released .pth file.")
    checkpoint = load_tensors(path, advice=lambda: "Download it again.")
    tensors = _head_tensors(checkpoint, where=path)
    feature_dim, token_dim = tensors["to_clip.weight"].shape
    head = FusionHead(
        HeadSpec(
            token_dim=token_dim,
            feature_dim=feature_dim,
            text_dim=len(tensors["projector.weight"]),
        )
    )
    check_finite(tensors, where=str(path))
    load_strictly(head, tensors, source=str(path))
    return head.eval()


def load_released(path: Path | str) -> TrainedHead:
    """Load such a head with its classifier and a card.

    The card says what the file says: not which SAM and CLIP the head was trained on.

    Args:
        path: A ``.pth`` file, ``{"model": {...}}``.

    Raises:
        MissingFileError: There is no such file.
        WeightsError: The file is no such checkpoint, or holds unknown or misshapen tensors.
    """
    head = load_released_head(path)
    training: dict[str, JsonValue] = {"released_checkpoint": Path(path).name}
    card = HeadCard(head=head.spec, scale=100.0, bias=0.0, training=training)
    return TrainedHead(head=head, classifier=RegionClassifier(), card=card)


def save_released_head(path: Path | str, trained: TrainedHead) -> None:
    """Write a trained head in the layout of the released checkpoints, for the authors' own code.

    Args:
        path: The ``.pth`` file to write, whole or not at all.
        trained: The head.

    Raises:
        WeightsError: The layout cannot express the head: it is always the paper's, with a scale of
            100 and no bias.
    """
    spec, scale, bias = trained.head.spec, trained.classifier.log_scale.exp(), trained.card.bias
    paper = HeadSpec(
        token_dim=spec.token_dim,
        feature_dim=spec.feature_dim,
        text_dim=spec.text_dim,
        dropout=spec.dropout,
    )
    if spec != paper or abs(float(scale) - 100) > 1e-3 or bias != 0:
        raise WeightsError(
            "the released layout knows the paper's head only (3 blocks, 8 heads, 2048 hidden, plain"
            f" inputs, scale 100, bias 0); this one has {spec.num_blocks} blocks, {spec.num_heads}"
            f" heads, {spec.ffn_dim} hidden, normalize_inputs {spec.normalize_inputs}, guidance"
            f" {spec.guidance}, position_code {spec.position_code}, scale {float(scale):g}, bias"
            f" {bias:g}. Share its head/ folder instead."
        )
    buffer = io.BytesIO()
    tensors = {name: tensor.detach().cpu() for name, tensor in trained.head.state_dict().items()}
    torch.save({"model": tensors}, buffer)
    write_bytes_atomic(Path(path), buffer.getvalue())


def _head_tensors(checkpoint: object, *, where: Path) -> dict[str, Tensor]:
    model = checkpoint.get("model") if isinstance(checkpoint, Mapping) else None
    if not isinstance(model, Mapping):
        raise WeightsError(f"{where}: no 'model' in the file, so it is no released checkpoint.")
    named = {str(name).removeprefix("model."): tensor for name, tensor in model.items()}
    unknown = [name for name in named if not name.startswith(_HEAD_PARTS + _BACKBONE_PARTS)]
    tensors = {name: tensor for name, tensor in named.items() if name.startswith(_HEAD_PARTS)}
    needed = ("to_clip.weight", "projector.weight")
    missing = [name for name in needed if getattr(tensors.get(name), "ndim", 0) != 2]
    if unknown or missing:
        raise WeightsError(
            f"{where} is no released RegionSpot checkpoint: unknown tensors {unknown[:4]}, missing"
            f" or misshapen {missing}."
        )
    return {name: tensor.float() for name, tensor in tensors.items()}
