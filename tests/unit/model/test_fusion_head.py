import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regionspot.core.errors import ConfigError, ShapeError
from regionspot.model import FusionHead, HeadSpec


def small_head(*, normalize_inputs: bool = False, sincos: bool = False) -> FusionHead:
    torch.manual_seed(0)
    return FusionHead(
        HeadSpec(
            token_dim=6,
            feature_dim=16,
            text_dim=10,
            num_blocks=2,
            num_heads=4,
            ffn_dim=24,
            dropout=0.0,
            normalize_inputs=normalize_inputs,
            position_code="sincos" if sincos else "none",
        )
    )


def batch(counts: list[int], padded: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(len(counts), padded, 6, generator=generator)
    features = torch.randn(len(counts), 10, 16, generator=generator)
    mask = torch.arange(padded) < torch.tensor(counts)[:, None]
    return tokens, features, mask


def test_parameter_counts_are_those_of_the_paper() -> None:
    with torch.device("meta"):
        base = FusionHead(HeadSpec(feature_dim=768, text_dim=512))
        large = FusionHead(HeadSpec())
    assert sum(parameter.numel() for parameter in base.parameters()) == 24_226_304
    assert sum(parameter.numel() for parameter in large.parameters()) == 38_853_376
    assert len(large.state_dict()) == 60


@settings(max_examples=20, deadline=None)
@given(
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    extra=st.integers(0, 3),
    options=st.booleans(),
    seed=st.integers(0, 100),
)
def test_batch_mates_never_change_a_regions_result(
    *, counts: list[int], extra: int, options: bool, seed: int
) -> None:
    head = small_head(normalize_inputs=options, sincos=options)
    tokens, features, mask = batch(counts, max(counts) + extra, seed)
    tokens[~mask] = float("nan")
    together = head(tokens, features, mask)
    assert together.isfinite().all()
    assert (together[~mask] == 0).all()
    for image, count in enumerate(counts):
        alone = head(tokens[image : image + 1, :count], features[image : image + 1])
        torch.testing.assert_close(together[image, :count], alone[0], atol=1e-5, rtol=1e-4)


def test_batch_mates_and_padding_get_no_gradient_from_a_region() -> None:
    head = small_head()
    tokens, features, mask = batch([3, 2, 0], 4)
    tokens.requires_grad_()
    features.requires_grad_()
    head(tokens, features, mask)[0, 1].sum().backward()
    assert tokens.grad is not None
    assert features.grad is not None
    assert tokens.grad[0, :3].abs().min() > 0
    assert (tokens.grad[0, 3:] == 0).all()
    assert (tokens.grad[1:] == 0).all()
    assert (features.grad[1:] == 0).all()


def test_weight_gradients_are_the_sum_over_images_on_their_own() -> None:
    head = small_head()
    tokens, features, mask = batch([3, 1, 0], 5)
    head(tokens, features, mask).square().sum().backward()
    together = {name: p.grad for name, p in head.named_parameters()}
    head.zero_grad()
    for image, count in enumerate([3, 1]):
        head(tokens[[image], :count], features[[image]]).square().sum().backward()
    for name, parameter in head.named_parameters():
        torch.testing.assert_close(parameter.grad, together[name], atol=1e-4, rtol=1e-4)


def test_order_of_regions_does_not_matter() -> None:
    head = small_head()
    tokens, features, _ = batch([4], 4)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        head(tokens[:, order], features), head(tokens, features)[:, order], atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize(("batch_size", "num_regions"), [(2, 0), (0, 3)])
def test_nothing_in_gives_nothing_out(batch_size: int, num_regions: int) -> None:
    head = small_head()
    tokens, features = torch.zeros(batch_size, num_regions, 6), torch.zeros(batch_size, 10, 16)
    assert head(tokens, features).shape == (batch_size, num_regions, 10)
    assert head.attention_maps(tokens, features).shape == (batch_size, num_regions, 10)


@pytest.mark.parametrize(("batch_size", "num_regions"), [(2, 0), (0, 3), (0, 0)])
def test_nothing_in_gives_every_parameter_a_gradient_of_zeros(
    batch_size: int, num_regions: int
) -> None:
    # DDP waits until the gradients of all parameters are there, also of a rank without an image.
    head = small_head()
    tokens, features = torch.zeros(batch_size, num_regions, 6), torch.zeros(batch_size, 10, 16)
    head(tokens, features).sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad == 0).all(), name


def test_an_image_without_regions_gives_finite_gradients() -> None:
    head = small_head()
    tokens, features, mask = batch([0, 0], 3)
    head(tokens, features, mask).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


def test_half_precision_inputs_are_taken_as_they_come() -> None:
    head = small_head()
    tokens, features, mask = batch([2, 1], 2)
    half = head(tokens.half(), features.half(), mask)
    assert half.dtype == torch.float32
    torch.testing.assert_close(
        half, head(tokens.half().float(), features.half().float(), mask), rtol=0, atol=0
    )


@pytest.mark.parametrize("options", [False, True])
def test_under_autocast_half_precision_features_give_what_float32_ones_give(
    *, options: bool
) -> None:
    head = small_head(normalize_inputs=options, sincos=options)
    tokens, features, mask = batch([2, 1], 2)
    features = features.half()
    with torch.autocast("cpu", torch.bfloat16):
        half, full = head(tokens, features, mask), head(tokens, features.float(), mask)
    assert half.equal(full)
    exact = head(tokens, features, mask)
    assert (half.float() - exact).norm() < 0.03 * exact.norm()


def test_attention_maps_are_distributions() -> None:
    head = small_head(sincos=True)
    tokens, features, mask = batch([2, 0], 3)
    maps = head.attention_maps(tokens, features, mask)
    assert maps.shape == (2, 3, 10)
    torch.testing.assert_close(maps.sum(dim=-1), torch.ones(2, 3))


def test_without_a_position_code_patches_are_a_set() -> None:
    tokens, features, _ = batch([3], 3)
    shuffled = torch.cat([features[:, :1], features[:, 1:].flip(1)], dim=1)
    plain, coded = small_head(), small_head(sincos=True)
    torch.testing.assert_close(
        plain(tokens, shuffled), plain(tokens, features), atol=1e-5, rtol=1e-4
    )
    assert (coded(tokens, shuffled) - coded(tokens, features)).abs().max() > 1e-3


def test_normalize_inputs_removes_scale_and_offset() -> None:
    head = small_head(normalize_inputs=True)
    tokens, features, _ = batch([3], 3)
    torch.testing.assert_close(
        head(tokens * 50 + 7, features * 9 - 3), head(tokens, features), atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize(
    ("tokens", "features", "mask", "message"),
    [
        ((2, 3, 7), (2, 10, 16), None, r"wants \(B, R, 6\)"),
        ((2, 3, 6), (2, 10, 15), None, r"feature map has shape \(2, 10, 15\)"),
        ((2, 3, 6), (1, 10, 16), None, "feature map"),
        ((2, 3, 6), (2, 0, 16), None, "feature map"),
        ((2, 3, 6), (2, 10, 16), torch.ones(2, 4).bool(), "region mask"),
        ((2, 3, 6), (2, 10, 16), torch.ones(2, 3), "region mask is torch.float32"),
    ],
)
def test_wrong_shapes_are_refused(
    tokens: tuple[int, ...], features: tuple[int, ...], mask: Tensor | None, message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        small_head()(torch.zeros(tokens), torch.zeros(features), mask)


def test_a_position_code_needs_a_square_grid() -> None:
    with pytest.raises(ShapeError, match="square grid"):
        small_head(sincos=True)(torch.zeros(1, 2, 6), torch.zeros(1, 9, 16))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_blocks": 0}, "num_blocks is 0"),
        ({"num_heads": 3}, "does not divide feature_dim 1024"),
        ({"dropout": 1.0}, "dropout"),
        ({"position_code": "learned"}, "position_code"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HeadSpec(**options)  # type: ignore[arg-type]


def test_a_head_is_rebuilt_from_its_spec() -> None:
    head = small_head(normalize_inputs=True, sincos=True)
    again = FusionHead(head.spec)
    assert again.spec == head.spec
    again.load_state_dict(head.state_dict(), strict=True)
