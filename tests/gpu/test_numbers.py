"""What a GPU computes is what the CPU does, to rounding."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.toy_numbers import TOLERANCES, recognised, relative_error, toy_numbers
from regionspot.backbones import Precision
from regionspot.model import FusionHead, HeadSpec, RegionClassifier, region_focal_loss

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS"),  # torch then makes a context
]

# cuDNN multiplies float32 in convolutions by TF32 unless told otherwise: 2^-11 a rounding.
FLOAT32_TOLERANCE = 2e-3


def test_float32_on_the_gpu_is_float32_on_the_cpu() -> None:
    on_cpu = toy_numbers("cpu", "float32")
    for name, values in toy_numbers("cuda", "float32").items():
        assert relative_error(values, on_cpu[name]) < FLOAT32_TOLERANCE, name


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_16_bits_on_the_gpu_are_within_the_stated_error(precision: Precision) -> None:
    on_cpu = toy_numbers("cpu", "float32")
    for name, values in toy_numbers("cuda", precision).items():
        assert 0 < relative_error(values, on_cpu[name]) < TOLERANCES[precision], name


def test_regions_are_called_the_same_on_the_gpu() -> None:
    on_cpu, on_gpu = recognised("cpu"), recognised("cuda")
    np.testing.assert_allclose(on_gpu.embeddings, on_cpu.embeddings, rtol=0.02, atol=0.02)
    np.testing.assert_allclose(on_gpu.scores, on_cpu.scores, rtol=0.02)
    np.testing.assert_array_equal(on_gpu.top_class_ids, on_cpu.top_class_ids)
    np.testing.assert_array_equal(on_gpu.boxes_xyxy, on_cpu.boxes_xyxy)


def loss_and_gradients(device: str) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = FusionHead(
            HeadSpec(
                token_dim=16, feature_dim=32, text_dim=24, num_heads=4, ffn_dim=48, dropout=0.0
            )
        )
    head.to(device)
    tokens = torch.randn(4, 6, 16, generator=generator)
    features = torch.randn(4, 17, 32, generator=generator)
    mask = torch.arange(6) < torch.tensor([6, 1, 0, 3])[:, None]
    bank = F.normalize(torch.randn(20_000, 24, generator=generator), dim=-1)  # several tiles
    labels = torch.randint(0, 20_000, (4, 6), generator=generator)
    loss = region_focal_loss(
        head(tokens.to(device), features.to(device), mask.to(device)),
        bank.to(device),
        labels.to(device),
        mask.to(device),
        classifier=RegionClassifier(20.0, -8.0).to(device),
        num_counted=10,
    )
    loss.backward()
    return loss.detach().cpu(), [p.grad.cpu() for p in head.parameters() if p.grad is not None]


def test_loss_and_gradients_of_a_step_are_those_of_the_cpu() -> None:
    wanted, wanted_gradients = loss_and_gradients("cpu")
    loss, gradients = loss_and_gradients("cuda")
    torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=0)
    scale = max(float(gradient.abs().max()) for gradient in wanted_gradients)
    for found, gradient in zip(gradients, wanted_gradients, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-3, atol=1e-4 * scale)
