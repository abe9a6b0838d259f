"""Reads and writes the checkpoint layout of the heads that the paper's authors released."""

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
from regionspot.model.fusion_head import FusionHead
from regionspot.model.head_spec import HeadSpec
from regionspot.model.trained_head import HeadCard, TrainedHead

RELEASED_SUFFIX = ".pth"
_HEAD_PARTS = ("to_clip.", "projector.", "decoder.")
_BACKBONE_PARTS = ("sam.", "clip_model.")


def load_released_head(path: Path | str) -> TrainedHead:
    """Load a head released with the paper, on the CPU in eval mode.

    The widths are read from the tensors. Frozen SAM and CLIP weights in the file are ignored. The
    classifier of these heads has a scale of 100 and no bias; the card does not name the SAM and
    CLIP that the head was trained on, as the file does not.

    Args:
        path: A ``.pth`` file, ``{"model": {...}}``.

    Raises:
        MissingFileError: There is no such file.
        WeightsError: The file is not such a checkpoint, or has unknown or misshapen tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"no checkpoint at {path}: give the path of a released .pth file.")
    checkpoint = load_tensors(path, advice=lambda: "Download it again.")
    tensors = _head_tensors(checkpoint, where=path)
    feature_dim, token_dim = tensors["to_clip.weight"].shape
    text_dim = len(tensors["projector.weight"])
    spec = HeadSpec(token_dim=token_dim, feature_dim=feature_dim, text_dim=text_dim)
    head = FusionHead(spec)
    check_finite(tensors, where=str(path))
    load_strictly(head, tensors, source=str(path))
    card = HeadCard(head=spec, scale=100.0, bias=0.0, training={"released_checkpoint": path.name})
    return TrainedHead(head=head.eval(), classifier=RegionClassifier(), card=card)


def save_released_head(path: Path | str, trained: TrainedHead) -> None:
    """Write a trained head in the released layout, for the authors' own code.

    Args:
        path: The ``.pth`` file, written atomically.
        trained: The head.

    Raises:
        WeightsError: The head has other options than the paper's, a scale other than 100, or a
            bias: the layout has no place for them.
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
            "the released layout supports the paper's head only (3 blocks, 8 heads, 2048 hidden,"
            f" plain inputs, scale 100, bias 0); this one has {spec.num_blocks} blocks,"
            f" {spec.num_heads} heads, {spec.ffn_dim} hidden, normalize_inputs"
            f" {spec.normalize_inputs}, guidance {spec.guidance}, position_code"
            f" {spec.position_code}, feature_tokens {spec.feature_tokens}, regions {spec.regions},"
            f" scale {float(scale):g}, bias {bias:g}. Share its head/ folder instead."
        )
    buffer = io.BytesIO()
    tensors = {name: tensor.detach().cpu() for name, tensor in trained.head.state_dict().items()}
    torch.save({"model": tensors}, buffer)
    write_bytes_atomic(Path(path), buffer.getvalue())


def _head_tensors(checkpoint: object, *, where: Path) -> dict[str, Tensor]:
    model = checkpoint.get("model") if isinstance(checkpoint, Mapping) else None
    if not isinstance(model, Mapping):
        raise WeightsError(f"{where} is not a released checkpoint: it has no 'model'.")
    named = {str(name).removeprefix("model."): tensor for name, tensor in model.items()}
    unknown = [name for name in named if not name.startswith(_HEAD_PARTS + _BACKBONE_PARTS)]
    tensors = {name: tensor for name, tensor in named.items() if name.startswith(_HEAD_PARTS)}
    needed = ("to_clip.weight", "projector.weight")
    missing = [name for name in needed if getattr(tensors.get(name), "ndim", 0) != 2]
    if unknown or missing:
        raise WeightsError(
            f"{where} is not a released RegionSpot checkpoint: unknown tensors {unknown[:4]},"
            f" missing or misshapen {missing}."
        )
    return {name: tensor.float() for name, tensor in tensors.items()}
