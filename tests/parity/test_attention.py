"""Both forms of attention against torch.nn.MultiheadAttention with the same weights."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from regionspot.model.attention import Attention, absorbing_is_cheaper

WIDTH, HEADS = 24, 4
FEW, MANY = 2, 40  # queries for which, of 30 keys, the absorbed and the projected form is cheaper


def pair(dropout: float = 0.0) -> tuple[Attention, nn.MultiheadAttention]:
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(WIDTH, HEADS, dropout=dropout, batch_first=True)
    for parameter in theirs.parameters():  # biases too, which torch starts at zero
        nn.init.normal_(parameter, std=0.3)
    ours = Attention(WIDTH, HEADS, dropout=dropout)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def inputs(num_queries: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(3, num_queries, WIDTH, generator=generator, dtype=dtype)
    source = torch.randn(3, 30, WIDTH, generator=generator, dtype=dtype)
    attend = torch.arange(30) < torch.tensor([[30], [7], [1]])
    return queries, source, attend


# Multiply-adds counted by hand, without the projections of queries and outputs.
@pytest.mark.parametrize(
    ("num_queries", "num_keys", "width", "num_heads", "projected", "absorbed"),
    [
        (16, 257, 1024, 8, 547_389_440, 100_925_440),  # BL
        (1, 2, 4, 1, 2 * 2 * 16 + 2 * 2 * 4, 2 * 16 + 2 * 2 * 4),
        (2, 3, 4, 2, 2 * 3 * 16 + 2 * 2 * 3 * 4, 2 * 2 * 16 + 2 * 2 * 2 * 3 * 4),
        (3, 3, 4, 1, 2 * 3 * 16 + 2 * 3 * 3 * 4, 2 * 3 * 16 + 2 * 3 * 3 * 4),  # no less: projected
    ],
)
def test_the_form_with_fewer_multiply_adds_is_chosen(
    num_queries: int, num_keys: int, width: int, num_heads: int, projected: int, absorbed: int
) -> None:
    chosen = absorbing_is_cheaper(num_queries, num_keys, width, num_heads)
    assert chosen == (absorbed < projected)


def test_at_bl_size_the_balance_is_at_93_regions() -> None:
    assert absorbing_is_cheaper(93, 257, 1024, 8)
    assert not absorbing_is_cheaper(94, 257, 1024, 8)


def test_the_sizes_of_these_tests_cover_both_forms() -> None:
    assert absorbing_is_cheaper(FEW, 30, WIDTH, HEADS)
    assert not absorbing_is_cheaper(MANY, 30, WIDTH, HEADS)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=["f32", "f64"]
)
@pytest.mark.parametrize("num_queries", [FEW, MANY])
@pytest.mark.parametrize("masked", [False, True])
def test_outputs_and_gradients_equal_torchs(
    num_queries: int, dtype: torch.dtype, tolerance: float, *, masked: bool
) -> None:
    ours, theirs = (module.to(dtype) for module in pair())
    queries, source, attend = inputs(num_queries, dtype)
    weights = torch.randn(queries.shape, generator=torch.Generator().manual_seed(2), dtype=dtype)
    mine, others = ([x.clone().requires_grad_() for x in (queries, source)] for _ in range(2))
    found = ours(*mine, attend[:, None, None] if masked else None)
    wanted, _ = theirs(
        others[0], others[1], others[1], key_padding_mask=~attend if masked else None
    )
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    for a, b in zip(mine, others, strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=10 * tolerance, rtol=10 * tolerance)
    for (name, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(
            a.grad, b.grad, atol=20 * tolerance, rtol=20 * tolerance, msg=name
        )


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=["f32", "f64"]
)
@pytest.mark.parametrize("num_queries", [FEW, MANY])
def test_numbers_added_to_the_scores_are_torchs_mask(
    num_queries: int, dtype: torch.dtype, tolerance: float
) -> None:
    ours, theirs = pair()
    ours, theirs = ours.to(dtype), theirs.to(dtype)
    queries, source, _ = inputs(num_queries, dtype)
    generator = torch.Generator().manual_seed(3)
    shape = (3, HEADS, num_queries, 30)
    added = 4 * torch.randn(shape, generator=generator, dtype=dtype)
    weights = torch.randn(queries.shape, generator=generator, dtype=dtype)
    mine, others = added.clone().requires_grad_(), added.clone().requires_grad_()
    found = ours(queries, source, mine)
    wanted, mean_weights = theirs(queries, source, source, attn_mask=others.flatten(0, 1))
    torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    torch.testing.assert_close(mine.grad, others.grad, atol=10 * tolerance, rtol=10 * tolerance)
    torch.testing.assert_close(
        ours.weights(queries, source, added), mean_weights, atol=1e-5, rtol=1e-5, check_dtype=False
    )


def test_attention_to_itself_equals_torchs() -> None:
    ours, theirs = pair()
    queries, _, _ = inputs(FEW, torch.float32)
    found, (wanted, _) = ours(queries, queries), theirs(queries, queries, queries)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    found.square().sum().backward()
    wanted.square().sum().backward()
    torch.testing.assert_close(
        ours.in_proj_weight.grad, theirs.in_proj_weight.grad, atol=1e-4, rtol=1e-4
    )


def test_a_key_that_is_masked_cannot_reach_the_result() -> None:
    ours, _ = pair()
    queries, source, attend = inputs(FEW, torch.float32)
    source.requires_grad_()
    ours(queries, source, attend[:, None, None]).sum().backward()
    assert source.grad is not None
    assert (source.grad[~attend] == 0).all()
    assert source.grad[attend].abs().min() > 0


@pytest.mark.parametrize("num_queries", [FEW, MANY])
def test_dropout_has_the_moments_of_torchs(num_queries: int) -> None:
    # With every share at 1/30 and a value bias far from zero, what varies is mostly the bias times
    # the sum of the shares left: a form that adds the bias once would hardly vary.
    ours, theirs = pair(dropout=0.4)
    for module in (ours, theirs):
        with torch.no_grad():
            module.in_proj_weight.mul_(0.1)
            module.in_proj_bias[2 * WIDTH :] = torch.linspace(-3, 3, WIDTH)
    queries, source, _ = (x[:1].expand(3000, -1, -1) for x in inputs(num_queries, torch.float32))
    if num_queries == MANY:
        queries, source = queries[:300], source[:300]
    torch.manual_seed(3)
    with torch.no_grad():
        found, (wanted, _) = ours(queries, source), theirs(queries, source, source)
    spread = wanted.std(dim=0)
    torch.testing.assert_close(found.std(dim=0).mean(), spread.mean(), atol=0.0, rtol=0.04)
    off = (found.mean(dim=0) - wanted.mean(dim=0)) / spread
    assert off.abs().max() < 5 * (2 / len(queries)) ** 0.5
    ours.eval()
    once = ours(queries[:1], source[:1])
    assert ours(queries[:1], source[:1]).equal(once)


class SoftmaxDtypes(TorchDispatchMode):
    """Writes down what softmax returns."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[torch.dtype] = []

    @override
    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._softmax.default:
            self.seen.append(result.dtype)
        return result


@pytest.mark.parametrize(
    ("dtype", "autocast", "wanted"),
    [
        (torch.float32, True, torch.float32),
        (torch.bfloat16, False, torch.float32),
        (torch.float64, False, torch.float64),
    ],
)
def test_the_absorbed_forms_softmax_runs_in_float32_at_least(
    dtype: torch.dtype, wanted: torch.dtype, *, autocast: bool
) -> None:
    ours = pair()[0].to(dtype)
    queries, source, _ = inputs(FEW, dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), SoftmaxDtypes() as softmax:
        ours(queries, source)
    assert softmax.seen == [wanted]


@pytest.mark.parametrize("num_queries", [FEW, MANY])
def test_bf16_autocast_stays_near_float32(num_queries: int) -> None:
    ours, _ = pair()
    queries, source, attend = inputs(num_queries, torch.float32)
    exact, half = copy.deepcopy(ours), ours
    wanted = exact(queries, source, attend[:, None, None])
    with torch.autocast("cpu", torch.bfloat16):
        found = half(queries, source, attend[:, None, None])
    assert (found.float() - wanted).norm() / wanted.norm() < 0.02
    for output in (wanted, found):
        output.float().square().sum().backward()
    assert exact.in_proj_weight.grad is not None
    assert half.in_proj_weight.grad is not None
    error = (half.in_proj_weight.grad - exact.in_proj_weight.grad).norm()
    assert error / exact.in_proj_weight.grad.norm() < 0.04
