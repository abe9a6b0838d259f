"""A guided head: what it does with boxes, and what it keeps of the paper's head."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from regionspot.core.errors import ConfigError, ShapeError, WeightsError
from regionspot.model import (
    FusionHead,
    HeadCard,
    HeadSpec,
    RegionClassifier,
    TrainedHead,
    load_trained_head,
    save_released_head,
    save_trained_head,
)

SPEC = HeadSpec(
    token_dim=6, feature_dim=16, text_dim=10, num_blocks=2, num_heads=4, ffn_dim=24, dropout=0.0
)
QUARTER = (0.0, 0.0, 0.5, 0.5)  # of a 4 x 4 grid, the patches 0, 1, 4 and 5


def head_with(**guidance: Any) -> FusionHead:
    torch.manual_seed(0)
    return FusionHead(replace(SPEC, **guidance))


def batch(counts: list[int], padded: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens, feature maps of 4 x 4 patches, mask and boxes."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(len(counts), padded, 6, generator=generator)
    features = torch.randn(len(counts), 17, 16, generator=generator)
    mask = torch.arange(padded) < torch.tensor(counts)[:, None]
    boxes = torch.rand(len(counts), padded, 2, 2, generator=generator).sort(dim=2).values
    return tokens, features, mask, boxes.flatten(2)


# One region looks by the absorbed form of attention, forty by the projected one.
@pytest.mark.parametrize("num_regions", [1, 40])
def test_at_zero_it_is_the_papers_head(num_regions: int) -> None:
    tokens, features, mask, boxes = batch([num_regions], num_regions)
    paper, guided = head_with(), head_with(guidance="learned")
    wanted, found = paper(tokens, features, mask), guided(tokens, features, mask, boxes)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)
    assert {*guided.state_dict()} - {*paper.state_dict()} == {
        "decoder.layers.0.guidance.weight",
        "decoder.layers.1.guidance.weight",
    }


@pytest.mark.parametrize("num_regions", [1, 40])
def test_at_zero_strengths_have_a_gradient(num_regions: int) -> None:
    head = head_with(guidance="learned")
    tokens, features, mask, boxes = batch([num_regions], num_regions)
    head(tokens, features, mask, boxes)[..., 0].sum().backward()
    for guidance in head.guidance():
        assert guidance.weight.tolist() == [0.0] * 4
        assert guidance.weight.grad is not None
        assert guidance.weight.grad.abs().min() > 0


def test_strengths_may_start_spread_over_the_heads() -> None:
    for guidance in head_with(guidance="learned", guidance_spread=6.0).guidance():
        assert guidance.weight.tolist() == [0.0, 2.0, 4.0, 6.0]


@pytest.mark.parametrize("num_regions", [1, 40])
def test_large_strengths_hide_the_outside_with_the_class_token(num_regions: int) -> None:
    head = head_with(guidance="learned")
    for guidance in head.guidance():
        torch.nn.init.constant_(guidance.weight, 1e4)
    tokens, features, mask, _ = batch([num_regions], num_regions)
    boxes = torch.tensor(QUARTER).expand(1, num_regions, 4)
    features.requires_grad_()
    head(tokens, features, mask, boxes).square().sum().backward()
    assert features.grad is not None
    seen = features.grad[0].abs().sum(dim=-1) > 0
    assert seen.nonzero().flatten().tolist() == [1, 2, 5, 6]  # after the class token


@pytest.mark.parametrize("num_regions", [1, 40])
def test_halves_show_the_inside_to_half_of_the_heads_and_everything_to_the_others(
    num_regions: int,
) -> None:
    head = head_with(guidance="halves", num_blocks=1)
    tokens, features, mask, _ = batch([num_regions], num_regions)
    boxes = torch.tensor(QUARTER).expand(1, num_regions, 4)
    values_of_head: list[bool] = []
    for number in range(4):
        # Only this attention head's values go on: 4 of the 16 inputs of the output projection.
        only = head_with(guidance="halves", num_blocks=1)
        attention: Any = only.decoder.layers[0].multihead_attn
        kept = torch.zeros(16)
        kept[4 * number : 4 * number + 4] = 1
        with torch.no_grad():
            attention.out_proj.weight.mul_(kept)
        seen = features.clone().requires_grad_()
        only(tokens, seen, mask, boxes).square().sum().backward()
        assert seen.grad is not None
        values_of_head.append(bool((seen.grad[0].abs().sum(dim=-1) > 0).all()))
    assert values_of_head == [False, False, True, True]
    assert [name for name, _ in head.named_parameters() if "guidance" in name] == []
    assert {*head.state_dict()} == {*head_with(num_blocks=1).state_dict()}


@pytest.mark.parametrize("guidance", ["halves", "learned"])
def test_batch_mates_and_padding_never_change_a_regions_result(guidance: str) -> None:
    head = head_with(guidance=guidance, guidance_spread=8.0 if guidance == "learned" else 0.0)
    counts = [3, 0, 5, 1]
    tokens, features, mask, boxes = batch(counts, 6)
    tokens[~mask], boxes[~mask] = float("nan"), float("nan")
    together = head(tokens, features, mask, boxes)
    assert together.isfinite().all()
    assert (together[~mask] == 0).all()
    for image, count in enumerate(counts):
        one = slice(image, image + 1)
        alone = head(tokens[one, :count], features[one], None, boxes[one, :count])
        torch.testing.assert_close(together[image, :count], alone[0], atol=1e-5, rtol=1e-4)


def test_another_box_is_another_result() -> None:
    head = head_with(guidance="learned", guidance_spread=8.0)
    tokens, features, mask, boxes = batch([3], 3)
    moved = boxes.clone()
    moved[0, 1] = torch.tensor(QUARTER)
    # Regions attend to each other only after the first block's look at the image.
    assert not head(tokens, features, mask, boxes).equal(head(tokens, features, mask, moved))


def test_attention_maps_show_the_guidance() -> None:
    head = head_with(guidance="learned")
    for guidance in head.guidance():
        torch.nn.init.constant_(guidance.weight, 1e4)
    tokens, features, mask, _ = batch([2], 2)
    boxes = torch.tensor(QUARTER).expand(1, 2, 4)
    maps = head.attention_maps(tokens, features, mask, boxes)
    torch.testing.assert_close(maps.sum(dim=-1), torch.ones(1, 2))
    assert (maps[0, 0] > 0).nonzero().flatten().tolist() == [1, 2, 5, 6]


def test_a_head_without_guidance_asks_for_no_boxes_and_ignores_them() -> None:
    head = head_with()
    tokens, features, mask, boxes = batch([3], 3)
    assert head(tokens, features, mask).equal(head(tokens, features, mask, boxes))
    assert head.guidance() == []


@pytest.mark.parametrize("shape", [None, (1, 3, 2), (1, 2, 4), (2, 3, 4)])
def test_a_guided_head_without_its_boxes_says_what_it_wants(shape: tuple[int, ...] | None) -> None:
    tokens, features, mask, _ = batch([3], 3)
    boxes = None if shape is None else torch.zeros(shape)
    for call in (head_with(guidance="halves"), head_with(guidance="learned").attention_maps):
        with pytest.raises(ShapeError, match=r"wants .* \(1, 3, 4\) float, relative boxes; found"):
            call(tokens, features, mask, boxes)


@pytest.mark.parametrize("kind", ["learned", "halves"])
def test_masks_of_the_boxes_patches_guide_as_the_boxes_do(kind: str) -> None:
    by_box, by_mask = (
        head_with(guidance=kind, guidance_region=region) for region in ("box", "mask")
    )
    for head in (by_box, by_mask) if kind == "learned" else ():
        for guidance in head.guidance():
            torch.nn.init.constant_(guidance.weight, 3.0)
    tokens, features, mask, _ = batch([3], 3)
    boxes = torch.tensor(QUARTER).expand(1, 3, 4)
    patches = torch.zeros(1, 3, 16, dtype=torch.bool)
    patches[..., [0, 1, 4, 5]] = True
    assert by_mask(tokens, features, mask, patches).equal(by_box(tokens, features, mask, boxes))
    patches[0, 1, 0] = False
    assert not by_mask(tokens, features, mask, patches).equal(by_box(tokens, features, mask, boxes))


@pytest.mark.parametrize(
    "extents", [None, torch.zeros(1, 3, 16), torch.zeros(1, 3, 4, dtype=torch.bool)]
)
def test_a_head_guided_by_masks_says_what_it_wants(extents: Tensor | None) -> None:
    tokens, features, mask, _ = batch([3], 3)
    head = head_with(guidance="learned", guidance_region="mask")
    with pytest.raises(ShapeError, match=r"\(1, 3, 16\) bool, the patches in masks; found"):
        head(tokens, features, mask, extents)
    with pytest.raises(ShapeError, match="guided by masks"):
        head.extents(np.zeros((1, 4), np.float32), (8, 8), num_tokens=17)


def test_a_guided_head_needs_a_square_grid() -> None:
    tokens, features, mask, boxes = batch([3], 3)
    with pytest.raises(ShapeError, match="15 patch tokens do not form a square"):
        head_with(guidance="learned")(tokens, features[:, :16], mask, boxes)


def test_nothing_in_gives_every_parameter_a_gradient_of_zeros() -> None:
    head = head_with(guidance="learned")
    head(torch.zeros(2, 0, 6), torch.zeros(2, 17, 16), None, torch.zeros(2, 0, 4)).sum().backward()
    assert all(p.grad is not None and (p.grad == 0).all() for p in head.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_features_and_autocast_stay_near_float32(dtype: torch.dtype) -> None:
    head = head_with(guidance="learned", guidance_spread=8.0)
    tokens, features, mask, boxes = batch([3, 1], 3)
    exact = head(tokens, features.half().float(), mask, boxes)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = head(tokens.half(), features.half(), mask, boxes)
    assert (found.float() - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance": "quarters"}, "guidance is 'quarters'; wanted one of none, halves, learned"),
        ({"guidance": "learned", "guidance_spread": -1.0}, "guidance_spread is -1.0"),
        ({"guidance": "learned", "guidance_spread": float("nan")}, "guidance_spread is nan"),
        ({"guidance_spread": 8.0}, "guidance is 'none', which learns nothing"),
        ({"guidance": "halves", "guidance_spread": 8.0}, "guidance is 'halves', which learns"),
        ({"guidance": "learned", "feature_tokens": "none"}, "nothing to guide to"),
        ({"guidance_region": "mask"}, "guidance_region is 'mask', but guidance is 'none'"),
        ({"guidance": "learned", "guidance_region": "hull"}, "wanted one of box, mask"),
        ({"feature_tokens": "class"}, "feature_tokens is 'class'; wanted one of all, patches"),
        ({"regions": "apart"}, "regions is 'apart'; wanted one of together, alone"),
        ({"guidance": "halves", "num_heads": 1}, "needs model.head.num_heads 2 or more"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SPEC, **options)


def trained_of(head: FusionHead) -> TrainedHead:
    card = HeadCard(head=head.spec, scale=100.0, bias=0.0)
    return TrainedHead(head=head.eval(), classifier=RegionClassifier(), card=card)


@pytest.mark.parametrize(
    "options", [{"guidance": "halves"}, {"guidance": "learned", "guidance_spread": 8.0}]
)
def test_a_saved_head_comes_back_with_its_guidance(tmp_path: Path, options: dict[str, Any]) -> None:
    trained = trained_of(head_with(**options))
    if options["guidance"] == "learned":
        torch.nn.init.constant_(trained.head.guidance()[1].weight, 1.5)
    save_trained_head(tmp_path, trained)
    found = load_trained_head(tmp_path)
    assert found.card == trained.card
    tokens, features, mask, boxes = batch([3], 3)
    wanted = trained.head(tokens, features, mask, boxes)
    assert found.head(tokens, features, mask, boxes).equal(wanted)


def test_weights_without_guidance_are_no_guided_head(tmp_path: Path) -> None:
    plain = trained_of(head_with())
    card = replace(plain.card, head=replace(SPEC, guidance="learned"))
    save_trained_head(tmp_path, replace(plain, card=card))
    with pytest.raises(WeightsError, match=r"missing decoder\.layers\.0\.guidance\.weight"):
        load_trained_head(tmp_path)


def test_a_card_of_before_guidance_is_read_as_one_without() -> None:
    fields = {
        "card_version": 1,
        "head": {"token_dim": 6, "feature_dim": 16, "text_dim": 10, "num_heads": 4},
        "scale": 100.0,
        "bias": 0.0,
        "fingerprint": {},
        "vocabulary": [],
        "templates": "",
    }
    card = HeadCard.from_fields(fields, where="an old card")
    assert card.head.guidance == "none"


def test_the_released_layout_holds_no_guidance(tmp_path: Path) -> None:
    spec = HeadSpec(token_dim=6, feature_dim=16, text_dim=10, guidance="halves")
    with pytest.raises(WeightsError, match="guidance halves"):
        save_released_head(tmp_path / "mine.pth", trained_of(FusionHead(spec)))
