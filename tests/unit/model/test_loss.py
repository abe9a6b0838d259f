import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regionspot.core.errors import ConfigError, ShapeError
from regionspot.model import sigmoid_focal_loss


def test_one_region_by_hand() -> None:
    # Both probabilities are 1/2: (0.25 + 0.75) * (1/2)^2 * log 2.
    loss = sigmoid_focal_loss(torch.zeros(1, 1, 2), torch.tensor([[1]]))
    assert math.isclose(loss.item(), 0.25 * math.log(2), rel_tol=1e-6)


@settings(max_examples=25, deadline=None)
@given(extra=st.integers(0, 4), garbage=st.floats(-50, 50), seed=st.integers(0, 100))
def test_padding_and_batch_mates_change_no_gradient(extra: int, garbage: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    alone = torch.randn(1, 3, 5, generator=generator).requires_grad_()
    labels = torch.tensor([[0, 4, 2]])
    sigmoid_focal_loss(alone, labels).backward()

    padded = torch.full((2, 3 + extra, 5), garbage)
    padded[0, :3] = alone.detach()[0]
    padded.requires_grad_()
    padded_labels = torch.full((2, 3 + extra), -1)
    padded_labels[0, :3] = labels[0]
    padded_labels[1, 0] = 1
    mask = padded_labels >= 0
    sigmoid_focal_loss(padded, padded_labels, mask).backward()
    assert padded.grad is not None
    assert alone.grad is not None
    torch.testing.assert_close(padded.grad[0, :3], alone.grad[0])
    assert (padded.grad[~mask] == 0).all()


def test_label_minus_one_counts_as_padding_without_a_mask() -> None:
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[0, -1, 3], [-1, -1, -1]])
    torch.testing.assert_close(
        sigmoid_focal_loss(logits, labels), sigmoid_focal_loss(logits[:1, ::2], labels[:1, ::2])
    )


@pytest.mark.parametrize("shape", [(2, 0, 4), (0, 3, 4), (2, 3, 4)])
@pytest.mark.parametrize("normalization", ["paper", "regions"])
def test_no_region_at_all_gives_zero_and_zero_gradients(
    shape: tuple[int, int, int], normalization: str
) -> None:
    logits = torch.zeros(shape, requires_grad=True)
    loss = sigmoid_focal_loss(
        logits,
        torch.full(shape[:2], -1),
        normalization=normalization,  # type: ignore[arg-type]
    )
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_large_logits_stay_finite() -> None:
    logits = torch.tensor([[[1e4, -1e4]]], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([[1]]))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_half_precision_logits_are_converted() -> None:
    logits = torch.randn(1, 2, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = torch.tensor([[0, 2]])
    assert sigmoid_focal_loss(logits, labels).equal(sigmoid_focal_loss(logits.float(), labels))


def test_labels_of_another_vocabulary_are_refused() -> None:
    with pytest.raises(ShapeError, match="label 3 is outside the 3 classes"):
        sigmoid_focal_loss(torch.zeros(1, 1, 3), torch.tensor([[3]]))


def test_shapes_and_names_are_checked() -> None:
    with pytest.raises(ShapeError, match="labels"):
        sigmoid_focal_loss(torch.zeros(1, 2, 3), torch.zeros(1, 3).long())
    with pytest.raises(ShapeError, match="region mask"):
        sigmoid_focal_loss(torch.zeros(1, 2, 3), torch.zeros(1, 2).long(), torch.ones(1, 3).bool())
    with pytest.raises(ConfigError, match="'batch'"):
        sigmoid_focal_loss(
            torch.zeros(1, 1, 3),
            torch.zeros(1, 1).long(),
            normalization="batch",  # type: ignore[arg-type]
        )
