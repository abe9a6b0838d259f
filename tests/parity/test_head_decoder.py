"""The fusion head against torch.nn.TransformerDecoder with the same weights."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from regionspot.model import FusionHead, HeadSpec


class TorchHead(nn.Module):
    """The paper's head as torch spells it; parameter names are the same."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(32, 4, 48, dropout, "relu", batch_first=True)
        self.to_clip = nn.Linear(12, 32)
        self.decoder = nn.TransformerDecoder(layer, 3, nn.LayerNorm(32))
        self.projector = nn.Linear(32, 20)

    @override
    def forward(self, tokens: Tensor, features: Tensor, mask: Tensor) -> Tensor:
        queries = self.decoder(self.to_clip(tokens), features, tgt_key_padding_mask=~mask)
        return self.projector(queries)


def pair(dropout: float = 0.0) -> tuple[FusionHead, TorchHead]:
    torch.manual_seed(0)
    theirs = TorchHead(dropout)
    for parameter in theirs.parameters():  # torch copies one layer thrice: make them differ
        nn.init.normal_(parameter, std=0.2)
    ours = FusionHead(
        HeadSpec(
            token_dim=12, feature_dim=32, text_dim=20, num_heads=4, ffn_dim=48, dropout=dropout
        )
    )
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(3, 5, 12, generator=generator)
    features = torch.randn(3, 10, 32, generator=generator)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]).bool()
    return tokens, features, mask


def test_outputs_equal_torchs_decoder() -> None:
    ours, theirs = pair()
    tokens, features, mask = inputs()
    wanted = theirs(tokens, features, mask)
    found = ours(tokens, features, mask)
    torch.testing.assert_close(found[mask], wanted[mask], atol=1e-5, rtol=1e-5)
    without_padding = torch.ones_like(mask)
    torch.testing.assert_close(
        ours(tokens, features), theirs(tokens, features, without_padding), atol=1e-5, rtol=1e-5
    )


def test_gradients_equal_torchs_decoder() -> None:
    ours, theirs = pair()
    tokens, features, mask = inputs()
    weights = torch.randn(3, 5, 20, generator=torch.Generator().manual_seed(2)) * mask[..., None]
    for head in (ours, theirs):
        (head(tokens, features, mask) * weights).sum().backward()
    wanted = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        grad = wanted[name].grad
        torch.testing.assert_close(parameter.grad, grad, atol=1e-4, rtol=1e-4)


def test_dropout_takes_the_same_places_as_in_torch() -> None:
    # The random streams differ, so compare moments over many draws of one input.
    ours, theirs = pair(dropout=0.3)
    tokens, features, mask = inputs()
    tokens, features, mask = (
        x[:1].expand(600, -1, -1) for x in (tokens, features, mask[..., None])
    )
    torch.manual_seed(3)
    with torch.no_grad():
        found = ours(tokens, features, mask[..., 0])
        wanted = theirs(tokens, features, mask[..., 0])
    spread = wanted.std(dim=0).mean()
    assert (found.mean(dim=0) - wanted.mean(dim=0)).abs().max() < 0.3 * spread
    torch.testing.assert_close(found.std(dim=0).mean(), spread, atol=0.0, rtol=0.03)


def test_attention_maps_equal_torchs_averaged_weights() -> None:
    ours, theirs = pair()
    tokens, features, mask = inputs()
    seen: list[tuple[Tensor, ...]] = []
    last = theirs.decoder.layers[-1]
    assert isinstance(last, nn.TransformerDecoderLayer)
    last.multihead_attn.register_forward_hook(lambda _m, args, _out: seen.append(args))
    theirs(tokens, features, mask)
    _, wanted = last.multihead_attn(*seen[0], need_weights=True)
    found = ours.attention_maps(tokens, features, mask)
    torch.testing.assert_close(found[mask], wanted[mask], atol=1e-5, rtol=1e-4)


def inside_by_hand(box: list[float], side: int) -> list[bool]:
    """Which tokens are in a box: not the class token, and patches whose centre is."""
    x1, y1, x2, y2 = box
    centres = [(number + 0.5) / side for number in range(side)]
    return [False, *(x1 <= x < x2 and y1 <= y < y2 for y in centres for x in centres)]


@pytest.mark.parametrize("num_regions", [5, 40])  # by the absorbed form, by the projected one
@pytest.mark.parametrize("kind", ["learned", "halves"])
def test_guidance_equals_torchs_decoder_with_a_mask_for_each_attention_head(
    kind: Literal["learned", "halves"], num_regions: int
) -> None:
    paper, theirs = pair()
    ours = FusionHead(replace(paper.spec, guidance=kind))
    ours.load_state_dict(ours.state_dict() | paper.state_dict())
    strengths = [[0.0, 0.5, 3.0, 7.0], [2.0, 0.0, 0.25, 9.0], [1.0, 4.0, 0.0, 0.125]]
    if kind == "halves":
        strengths = [[float("inf"), float("inf"), 0.0, 0.0]] * 3
    else:
        for guidance, of_block in zip(ours.guidance(), strengths, strict=True):
            guidance.weight.data = torch.tensor(of_block)
    ours, theirs = ours.double(), theirs.double()
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randn(2, num_regions, 12, generator=generator, dtype=torch.float64)
    features = torch.randn(2, 17, 32, generator=generator, dtype=torch.float64)
    mask = torch.ones(2, num_regions, dtype=torch.bool)
    # At least a patch wide, so that no region is without a centre.
    corner = 0.7 * torch.rand(2, num_regions, 2, generator=generator)
    boxes = torch.cat([corner, corner + 0.3], dim=-1)
    inside = torch.tensor(
        [[inside_by_hand(box, 4) for box in image] for image in boxes.tolist()]
    )  # (2, R, 17)

    x = theirs.to_clip(tokens)
    for layer, of_block in zip(theirs.decoder.layers, strengths, strict=True):
        lowered = [-b * torch.ones(2, num_regions, 17, dtype=torch.float64) for b in of_block]
        added = torch.stack([one.masked_fill(inside, 0.0) for one in lowered], dim=1)
        x = layer(x, features, memory_mask=added.flatten(0, 1))
    wanted = theirs.projector(theirs.decoder.norm(x))  # type: ignore[misc]
    found = ours(tokens, features, mask, boxes)
    torch.testing.assert_close(found, wanted, atol=1e-10, rtol=1e-10)


def ablated(**options: str) -> tuple[FusionHead, TorchHead]:
    ours, theirs = pair()
    head = FusionHead(replace(ours.spec, **options))  # type: ignore[arg-type]
    head.load_state_dict(theirs.state_dict(), strict=True)
    return head, theirs


def test_without_the_class_token_it_is_torchs_decoder_on_the_patches() -> None:
    ours, theirs = ablated(feature_tokens="patches")
    tokens, features, mask = inputs()
    wanted = theirs(tokens, features[:, 1:], mask)
    torch.testing.assert_close(ours(tokens, features, mask)[mask], wanted[mask])
    maps = ours.attention_maps(tokens, features, mask)
    assert maps.shape == (3, 5, 10)
    assert (maps[..., 0] == 0).all()
    torch.testing.assert_close(maps.sum(dim=2), torch.ones(3, 5))


def test_without_feature_tokens_it_is_torchs_decoder_on_an_empty_picture() -> None:
    ours, theirs = ablated(feature_tokens="none")
    tokens, features, mask = inputs()
    wanted = theirs(tokens, torch.zeros_like(features), mask)
    torch.testing.assert_close(ours(tokens, features, mask)[mask], wanted[mask])
    torch.testing.assert_close(ours(tokens, features, mask), ours(tokens, -features, mask))


def test_regions_alone_are_torchs_decoder_on_one_region_at_a_time() -> None:
    ours, theirs = ablated(regions="alone")
    tokens, features, mask = inputs()
    one = torch.ones(3, 1, dtype=torch.bool)
    wanted = torch.cat([theirs(tokens[:, [r]], features, one) for r in range(5)], dim=1)
    torch.testing.assert_close(ours(tokens, features, mask)[mask], wanted[mask])
    torch.testing.assert_close(ours(tokens, features), wanted)
