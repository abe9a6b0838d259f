"""Released checkpoints are recreated from the documented key names and shapes alone."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from regionspot.core.errors import MissingFileError, WeightsError
from regionspot.model import load_released_head


def released_tensors(width: int, text_dim: int) -> dict[str, Tensor]:
    shapes: dict[str, tuple[int, ...]] = {
        "to_clip.weight": (width, 256),
        "to_clip.bias": (width,),
        "projector.weight": (text_dim, width),
        "projector.bias": (text_dim,),
        "decoder.norm.weight": (width,),
        "decoder.norm.bias": (width,),
    }
    for index in range(3):
        layer = f"decoder.layers.{index}."
        for attention in ("self_attn", "multihead_attn"):
            shapes[f"{layer}{attention}.in_proj_weight"] = (3 * width, width)
            shapes[f"{layer}{attention}.in_proj_bias"] = (3 * width,)
            shapes[f"{layer}{attention}.out_proj.weight"] = (width, width)
            shapes[f"{layer}{attention}.out_proj.bias"] = (width,)
        shapes |= {f"{layer}linear1.weight": (2048, width), f"{layer}linear1.bias": (2048,)}
        shapes |= {f"{layer}linear2.weight": (width, 2048), f"{layer}linear2.bias": (width,)}
        for norm in ("norm1", "norm2", "norm3"):
            shapes |= {f"{layer}{norm}.weight": (width,), f"{layer}{norm}.bias": (width,)}
    return {name: torch.full(shape, 0.01 * i) for i, (name, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize("prefix", ["", "model."])
def test_released_tensors_arrive_under_their_names(tmp_path: Path, prefix: str) -> None:
    tensors = released_tensors(64, 16)  # the widths are read off, so small ones will do
    assert len(tensors) == 60
    model = {prefix + name: tensor for name, tensor in tensors.items()}
    model[prefix + "sam.mask_decoder.iou_token.weight"] = torch.zeros(1, 256)
    model[prefix + "clip_model.logit_scale"] = torch.zeros((), dtype=torch.float16)
    torch.save({"model": model, "iteration": 7, "trainer": {}}, tmp_path / "released.pth")
    head = load_released_head(tmp_path / "released.pth").head
    assert (head.spec.feature_dim, head.spec.text_dim, head.spec.token_dim) == (64, 16, 256)
    for name, tensor in head.state_dict().items():
        assert tensor.equal(tensors[name]), name


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with pytest.raises(MissingFileError, match=r"x\.pth"):
        load_released_head(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(WeightsError, match="no 'model'"):
        load_released_head(path)
    torch.save({"model": {"backbone.conv": torch.zeros(1)}}, path)
    with pytest.raises(WeightsError, match=r"backbone\.conv"):
        load_released_head(path)
    tensors = released_tensors(64, 16)
    del tensors["decoder.norm.bias"]
    torch.save({"model": tensors}, path)
    with pytest.raises(WeightsError, match=r"missing decoder\.norm\.bias"):
        load_released_head(path)
    path.write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_released_head(path)
