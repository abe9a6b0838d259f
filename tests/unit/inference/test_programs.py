"""Exported heads and steps give eager's numbers, for any numbers of images, regions and names."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from regionspot.backbones import ModelsConfig, load_frozen_models
from regionspot.core.errors import ConfigError
from regionspot.inference import Program, RegionSpot, export_chain, head_program
from regionspot.inference.onnx_files import to_onnx
from regionspot.model import FusionHead, HeadCard, HeadSpec, RegionClassifier, TrainedHead

NUM_TOKENS = 10  # a class token and 3 x 3 patches
SIZES = [(1, 1, 1), (3, 4, 2), (1, 9, 30)]  # images, regions, classes


SPEC = HeadSpec(token_dim=4, feature_dim=8, text_dim=6, num_heads=2, num_blocks=1, ffn_dim=8)
GUIDED = replace(
    SPEC, guidance="learned", guidance_spread=5.0, position_code="sincos", normalize_inputs=True
)
ABLATED = replace(SPEC, feature_tokens="patches", regions="alone")
"""With `GUIDED`, both values of every option; tests/unit/cli/test_export.py has the paper's."""


@pytest.fixture(scope="module", params=[GUIDED, ABLATED], ids=["guided", "ablated"])
def program(request: pytest.FixtureRequest) -> Program:
    """A random head."""
    torch.manual_seed(4)
    head, classifier = FusionHead(request.param), RegionClassifier(20.0, -1.0)
    card = HeadCard(head=head.spec, scale=20.0, bias=-1.0)
    return head_program(TrainedHead(head=head, classifier=classifier, card=card), NUM_TOKENS)


def random_inputs(program: Program, sizes: tuple[int, int, int]) -> dict[str, Tensor]:
    """Numbers for the head at the given sizes; of several regions the last is padding."""
    images, regions, classes = sizes
    generator = torch.Generator().manual_seed(sum(sizes))
    lengths = {"images": images, "regions": regions, "classes": classes}
    inputs = {}
    for name, example in program.inputs.items():
        shape = list(example.shape)
        for axis, axis_name in program.axes[name].items():
            shape[axis] = lengths[axis_name]
        inputs[name] = torch.randn(shape, generator=generator)
    inputs["text"] = F.normalize(inputs["text"], dim=-1)
    inputs["region_mask"] = torch.arange(regions).expand(images, -1) < max(1, regions - 1)
    if "boxes" in inputs:
        inputs["boxes"] = torch.tensor([0.1, 0.2, 0.8, 0.7]).expand(images, regions, 4).clone()
    return inputs


def eager_outputs(program: Program, inputs: dict[str, Tensor]) -> list[Tensor]:
    with torch.inference_mode():
        outputs: tuple[Tensor, ...] = program.module(*inputs.values())
    return list(outputs)


@pytest.mark.parametrize("program", [GUIDED], ids=["guided"], indirect=True)
def test_a_head_saved_by_torch_export_gives_the_same_numbers_at_other_sizes(
    program: Program,
) -> None:
    buffer = io.BytesIO()
    torch.export.save(program.exported(), buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()
    for sizes in SIZES:
        inputs = random_inputs(program, sizes)
        with torch.no_grad():
            found = loaded(*inputs.values())
        torch.testing.assert_close(list(found), eager_outputs(program, inputs), rtol=0, atol=1e-5)


def test_a_head_in_onnxruntime_gives_the_same_numbers_at_other_sizes(program: Program) -> None:
    model = to_onnx(program).model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == list(program.inputs)
    assert {one.name: one.shape for one in session.get_outputs()}["logits"] == [
        *("images", "regions", "classes")
    ]
    for sizes in SIZES:
        inputs = random_inputs(program, sizes)
        found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        for ours, theirs in zip(eager_outputs(program, inputs), found, strict=True):
            np.testing.assert_allclose(theirs, ours.numpy(), rtol=0, atol=1e-4)


def test_sam_2_is_refused_before_anything_is_written(
    trained_head: TrainedHead, model: RegionSpot, tmp_path: Path
) -> None:
    config = ModelsConfig(preset="toy", sam="sam2.1_hiera_tiny", sam_weights="random")
    models = load_frozen_models(config, device="cpu")
    with pytest.raises(ConfigError, match="trained on sam2.1_hiera_tiny and tiny; only a SAM of"):
        export_chain(tmp_path / "exported", trained_head, models, model.choose_names())
    assert not (tmp_path / "exported").exists()
