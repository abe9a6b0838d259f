"""The focal loss against torchvision's, including gradients."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import (
    sigmoid_focal_loss as torchvision_focal_loss,
)

from regionspot.model import sigmoid_focal_loss


def case() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 6, 9, generator=generator) * 4
    labels = torch.randint(0, 9, (4, 6), generator=generator)
    return logits, labels


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 1.0), (0.5, 0.0)])
def test_without_padding_it_is_the_papers_formula(alpha: float, gamma: float) -> None:
    logits, labels = case()
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    one_hot = F.one_hot(labels, 9).float()
    wanted = torchvision_focal_loss(theirs, one_hot, alpha=alpha, gamma=gamma, reduction="sum") / 6
    found = sigmoid_focal_loss(ours, labels, alpha=alpha, gamma=gamma)
    torch.testing.assert_close(found, wanted)
    found.backward()
    wanted.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_padding_divides_each_image_by_its_own_regions() -> None:
    logits, labels = case()
    mask = torch.arange(6) < torch.tensor([[6], [1], [3], [0]])
    pairs = torchvision_focal_loss(logits, F.one_hot(labels, 9).float(), reduction="none").sum(-1)
    by_image = [pairs[image, :count].sum() / count for image, count in enumerate((6, 1, 3))]
    torch.testing.assert_close(
        sigmoid_focal_loss(logits, labels, mask), torch.stack(by_image).sum()
    )
    torch.testing.assert_close(
        sigmoid_focal_loss(logits, labels, mask, normalization="regions"), pairs[mask].mean()
    )
