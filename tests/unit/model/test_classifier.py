import pytest
import torch
from torch.nn import functional as F

from regionspot.core.errors import ConfigError, ShapeError
from regionspot.model import RegionClassifier, classification_logits


def test_logits_by_hand() -> None:
    z = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    wanted = torch.tensor([[[60.0, 80.0, 100.0], [0.0, 0.0, 0.0]]])
    torch.testing.assert_close(classification_logits(z, bank), wanted)
    torch.testing.assert_close(classification_logits(z, bank, 10.0, -8.0), wanted / 10 - 8)


def test_logits_are_scaled_cosines() -> None:
    generator = torch.Generator().manual_seed(0)
    z, bank = torch.randn(2, 3, 8, generator=generator), torch.randn(5, 8, generator=generator)
    wanted = 100 * F.cosine_similarity(z[:, :, None], bank, dim=-1)
    torch.testing.assert_close(
        classification_logits(z, F.normalize(bank, dim=-1)), wanted, atol=1e-3, rtol=1e-4
    )


def test_autocast_does_not_coarsen_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1, 4, 8, generator=generator)
    bank = F.normalize(torch.randn(5, 8, generator=generator), dim=-1)
    wanted = classification_logits(z, bank)
    with torch.autocast("cpu", torch.bfloat16):
        assert classification_logits(z, bank).equal(wanted)


def test_an_embedding_of_zeros_has_a_gradient_that_is_finite() -> None:
    z = torch.zeros(1, 1, 4, requires_grad=True)
    classification_logits(z, torch.eye(4)).sum().backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()


def test_classifier_starts_at_its_scale_and_bias() -> None:
    z, bank = torch.ones(1, 1, 2), torch.eye(2)
    fixed, trained = RegionClassifier(), RegionClassifier(20.0, -8.0, trainable=True)
    torch.testing.assert_close(fixed(z, bank), classification_logits(z, bank))
    torch.testing.assert_close(trained(z, bank), classification_logits(z, bank, 20.0, -8.0))
    assert not any(p.requires_grad for p in fixed.parameters())
    trained(z, bank).sum().backward()
    assert all(p.grad is not None for p in trained.parameters())


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf")])
def test_a_scale_that_is_not_positive_is_refused(scale: float) -> None:
    with pytest.raises(ConfigError, match="scale"):
        RegionClassifier(scale)


def test_a_bank_of_another_width_is_refused() -> None:
    with pytest.raises(ShapeError, match="do not fit"):
        classification_logits(torch.zeros(1, 2, 8), torch.zeros(5, 7))
