"""The focal loss from region embeddings against torchvision's on one-hot targets, and autograd."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import (
    sigmoid_focal_loss as torchvision_focal_loss,
)
from typing_extensions import override

from regionspot.core.errors import ConfigError, ShapeError
from regionspot.model import Normalization, RegionClassifier, region_focal_loss
from regionspot.model import region_loss as module_under_test

CLASSES = 5000  # three tiles on a CPU
WIDTH = 16
COUNTS = (9, 1, 4, 0)


def case(
    dtype: torch.dtype, *, scale: float = 12.0, bias: float = -3.0, classes: int = CLASSES
) -> tuple[Tensor, Tensor, Tensor, Tensor, RegionClassifier]:
    """Return embeddings, bank, labels, mask and a trainable classifier."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4, 9, WIDTH, generator=generator, dtype=dtype).requires_grad_()
    bank = F.normalize(torch.randn(classes, WIDTH, generator=generator, dtype=dtype), dim=-1)
    labels = torch.randint(0, classes, (4, 9), generator=generator)
    labels[0, 0], labels[0, 1] = 0, classes - 1
    mask = torch.arange(9) < torch.tensor(COUNTS)[:, None]
    return z, bank, labels, mask, RegionClassifier(scale, bias, trainable=True).to(dtype)


def wanted_loss(
    z: Tensor,
    bank: Tensor,
    labels: Tensor,
    classifier: RegionClassifier,
    alpha: float = 0.25,
    gamma: float = 2.0,
    normalization: str = "paper",
) -> Tensor:
    """Return torchvision's loss of logits written out, image by image."""
    logits = classifier.log_scale.exp() * F.normalize(z, dim=-1) @ bank.T + classifier.bias
    one_hot = F.one_hot(labels, len(bank)).to(z.dtype)
    pairs = torchvision_focal_loss(logits, one_hot, alpha=alpha, gamma=gamma).sum(dim=-1)
    sums = [pairs[image, :count].sum() for image, count in enumerate(COUNTS) if count]
    if normalization == "regions":
        return torch.stack(sums).sum() / sum(COUNTS)
    return sum((x / n for x, n in zip(sums, COUNTS, strict=False)), torch.zeros(()))


class RegionLoss(nn.Module):
    """The loss as a module, whose classifier can be exchanged."""

    def __init__(
        self, bank: Tensor, labels: Tensor, classifier: RegionClassifier, gamma: float
    ) -> None:
        super().__init__()
        self.bank, self.labels, self.gamma = bank, labels, gamma
        self.classifier = classifier

    @override
    def forward(self, z: Tensor) -> Tensor:
        return region_focal_loss(
            z, self.bank, self.labels, classifier=self.classifier, gamma=self.gamma
        )


def gradients(loss: Tensor, z: Tensor, classifier: RegionClassifier) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [z, classifier.log_scale, classifier.bias]))


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-6)], ids=["f32", "f64"]
)
@pytest.mark.parametrize("normalization", ["paper", "regions"])
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 1.0), (0.5, 0.0), (0.3, 0.5)])
def test_loss_and_gradients_equal_torchvisions(
    dtype: torch.dtype, tolerance: float, normalization: Normalization, alpha: float, gamma: float
) -> None:
    z, bank, labels, mask, classifier = case(dtype)
    found = region_focal_loss(
        z,
        bank,
        labels,
        mask,
        classifier=classifier,
        alpha=alpha,
        gamma=gamma,
        normalization=normalization,
    )
    wanted = wanted_loss(z, bank, labels, classifier, alpha, gamma, normalization)
    assert found.dtype == dtype
    torch.testing.assert_close(found, wanted, atol=0.0, rtol=tolerance)
    for a, b in zip(gradients(found, z, classifier), gradients(wanted, z, classifier), strict=True):
        torch.testing.assert_close(a, b, atol=tolerance * float(b.abs().max()), rtol=0.0)


@pytest.mark.parametrize("normalization", ["paper", "regions"])
def test_losses_of_parts_add_up_to_that_of_the_whole(normalization: Normalization) -> None:
    z, bank, labels, mask, classifier = case(torch.float64)
    parts = [
        region_focal_loss(
            *(z[part], bank, labels[part], mask[part]),
            classifier=classifier,
            normalization=normalization,
            num_regions=sum(COUNTS),
        )
        for part in (slice(0, 1), slice(1, 3), slice(3, 4))  # of 9, 5 and no regions
    ]
    wanted = wanted_loss(z, bank, labels, classifier, normalization=normalization)
    torch.testing.assert_close(torch.stack(parts).sum(), wanted)


def test_at_the_papers_scale_it_equals_torchvisions() -> None:
    z, bank, labels, mask, classifier = case(torch.float32, scale=100.0, bias=0.0)
    found = region_focal_loss(z, bank, labels, mask, classifier=classifier)
    wanted = wanted_loss(z, bank, labels, classifier)
    torch.testing.assert_close(found, wanted, atol=0.0, rtol=1e-5)
    for a, b in zip(gradients(found, z, classifier), gradients(wanted, z, classifier), strict=True):
        assert (a - b).norm() < 1e-5 * b.norm()


@pytest.mark.parametrize("gamma", [2.0, 1.5, 0.0])
def test_gradients_equal_finite_differences(gamma: float) -> None:
    z, bank, labels, _, classifier = case(torch.float64, classes=7)
    z, labels = z.detach()[:2, 3:5].requires_grad_(), labels[:2, 3:5]
    module = RegionLoss(bank, labels, classifier, gamma)

    def loss(z: Tensor, log_scale: Tensor, bias: Tensor) -> Tensor:
        trained = {"classifier.log_scale": log_scale, "classifier.bias": bias}
        return torch.func.functional_call(module, trained, (z,))

    assert torch.autograd.gradcheck(loss, (z, classifier.log_scale, classifier.bias))


@pytest.mark.parametrize("logit", [-1e4, -60.0, 60.0, 90.0, 1e4])
def test_extreme_logits_cost_what_they_should(logit: float) -> None:
    # Two classes in opposite directions; by hand: a wrong class at x > 17 costs x, at x < -60
    # nothing, and its slope is 1 or 0. The right class at -x costs x as well.
    z = torch.tensor([[[1.0, 0.0]]], requires_grad=True)
    bank = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    classifier = RegionClassifier(abs(logit), 0.0, trainable=True)
    label = 1 if logit > 0 else 0
    loss = region_focal_loss(z, bank, torch.tensor([[label]]), classifier=classifier)
    wanted = logit if logit > 0 else 0.0
    torch.testing.assert_close(loss.item(), wanted, atol=1e-6, rtol=1e-6)
    loss.backward()
    assert classifier.log_scale.grad is not None
    torch.testing.assert_close(classifier.log_scale.grad.item(), wanted, atol=1e-4, rtol=1e-5)


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    z, bank, labels, mask, classifier = case(torch.float64)

    def found() -> list[Tensor]:
        loss = region_focal_loss(z, bank, labels, mask, classifier=classifier)
        return [loss, *gradients(loss, z, classifier)]

    usual = found()
    small = module_under_test._Tile(regions=5, classes=777, regions_at_once=2)
    monkeypatch.setattr(module_under_test, "_CPU_TILE", small)
    for a, b in zip(found(), usual, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)


def test_padding_has_no_influence_and_gets_no_gradient() -> None:
    z, bank, labels, mask, classifier = case(torch.float32)
    loss = region_focal_loss(z, bank, labels, mask, classifier=classifier)
    loss.backward()
    assert z.grad is not None
    assert (z.grad[~mask] == 0).all()
    assert z.grad[mask].abs().sum(dim=-1).min() > 0
    other = torch.where(mask[..., None], z.detach(), torch.nan)
    unlabelled = torch.where(mask, labels, -1)
    assert region_focal_loss(other, bank, unlabelled, classifier=classifier).equal(loss)


@pytest.mark.parametrize("shape", [(2, 0, WIDTH), (0, 3, WIDTH), (2, 3, WIDTH)])
@pytest.mark.parametrize("normalization", ["paper", "regions"])
def test_no_region_at_all_gives_zero_and_zero_gradients(
    shape: tuple[int, int, int], normalization: Normalization
) -> None:
    # Zero, but not None: under DDP every process has to bring a gradient of every parameter.
    z = torch.ones(shape, requires_grad=True)
    classifier = RegionClassifier(trainable=True)
    nothing = torch.full(shape[:2], -1)
    loss = region_focal_loss(
        z, torch.ones(3, WIDTH), nothing, classifier=classifier, normalization=normalization
    )
    loss.backward()
    assert loss.item() == 0
    for leaf in (z, classifier.log_scale, classifier.bias):
        assert leaf.grad is not None
        assert (leaf.grad == 0).all()


def test_bf16_autocast_is_as_near_to_float32_as_autocast_brings_it() -> None:
    z, bank, labels, mask, classifier = case(torch.float32)
    wanted = wanted_loss(z, bank, labels, classifier)
    with torch.autocast("cpu", torch.bfloat16):
        found = region_focal_loss(z, bank, labels, mask, classifier=classifier)
        usual = wanted_loss(z, bank, labels, classifier)  # torch runs the product in bfloat16
    assert found.dtype == torch.float32
    assert not found.equal(wanted)
    torch.testing.assert_close(found, wanted, atol=0.0, rtol=3e-3)
    for a, b, c in zip(
        *(gradients(loss, z, classifier) for loss in (found, usual, wanted)), strict=True
    ):
        assert (a - c).norm() < 2 * (b - c).norm() + 1e-3 * c.norm()


def test_under_fp16_autocast_small_slopes_do_not_vanish() -> None:
    # At -7 the slope of a wrong class is about 1e-9: zero in float16, whose least number is 6e-8.
    z, bank, labels, mask, classifier = case(torch.float32, scale=1.0, bias=-7.0)
    with torch.autocast("cpu", torch.float16):
        found = region_focal_loss(z, bank, labels, mask, classifier=classifier)
    wanted = wanted_loss(z, bank, labels, classifier)
    for a, b in zip(gradients(found, z, classifier), gradients(wanted, z, classifier), strict=True):
        assert (a - b).norm() < 1e-5 * b.norm()


def test_memory_does_not_grow_with_the_vocabulary() -> None:
    def largest_tensor(classes: int) -> int:
        z, bank, labels, mask, classifier = case(torch.float32, classes=classes)
        with torch.profiler.profile(profile_memory=True) as profile:
            region_focal_loss(z, bank, labels, mask, classifier=classifier).backward()
        return max(event.self_cpu_memory_usage for event in profile.events())

    # What is held of each pair of the 14 regions that count is at most one tile of 2048 classes.
    assert largest_tensor(20_000) == largest_tensor(4096) == 14 * 2048 * 4


def test_a_gradient_of_the_gradient_is_refused_with_the_way_out() -> None:
    z, bank, labels, mask, classifier = case(torch.float32)
    loss = region_focal_loss(z, bank, labels, mask, classifier=classifier)
    with pytest.raises(ConfigError, match=r"once only.*sigmoid_focal_loss"):
        torch.autograd.grad(loss, z, create_graph=True)


def test_what_does_not_fit_is_refused() -> None:
    z, bank, labels, mask, classifier = case(torch.float32)
    with pytest.raises(ShapeError, match="wanted .*\\(C, E\\)"):
        region_focal_loss(z, bank[:, 1:], labels, mask, classifier=classifier)
    with pytest.raises(ShapeError, match="label 4999 is outside the 4999 classes"):
        region_focal_loss(z, bank[:-1], labels, mask, classifier=classifier)
    with pytest.raises(ShapeError, match="region mask"):
        region_focal_loss(z, bank, labels, mask[:, 1:], classifier=classifier)
    with pytest.raises(ConfigError, match="text bank as frozen"):
        region_focal_loss(z, bank.requires_grad_(), labels, mask, classifier=classifier)
    with pytest.raises(ConfigError, match="'batch'"):
        region_focal_loss(
            z,
            bank.detach(),
            labels,
            mask,
            classifier=classifier,
            normalization="batch",  # type: ignore[arg-type]
        )


def test_regions_whose_number_is_known_give_the_same_loss_and_another_number_is_refused() -> None:
    z, bank, labels, mask, classifier = case(torch.float32)
    num_counted = sum(COUNTS)
    wanted = region_focal_loss(z, bank, labels, mask, classifier=classifier)
    found = region_focal_loss(z, bank, labels, mask, classifier=classifier, num_counted=num_counted)
    assert found.equal(wanted)
    for wrong in (num_counted - 1, num_counted + 1):
        with pytest.raises(ShapeError, match=f"{num_counted} regions count, .* is {wrong}"):
            region_focal_loss(z, bank, labels, mask, classifier=classifier, num_counted=wrong)
