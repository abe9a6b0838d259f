"""Position tokens from boxes in SAM's frame."""

import numpy as np
import pytest
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from regionspot.backbones import SamLocalizer, SamPrompts, TokenSite
from regionspot.core.errors import ShapeError

SITES: list[TokenSite] = ["prompt_encoder", "transformer", "mlp"]
WIDTHS = {"prompt_encoder": 64, "transformer": 32, "mlp": 4}


@pytest.fixture
def embedding() -> Tensor:
    return torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(0))


def _boxes(count: int) -> Tensor:
    corners = np.random.default_rng(0).uniform(0, 64, (count, 2, 2))
    return torch.from_numpy(np.sort(corners, axis=1).reshape(count, 4).astype(np.float32))


def _tokens(sam: Sam, embedding: Tensor, boxes: Tensor, site: TokenSite = "transformer") -> Tensor:
    localizer = SamLocalizer(sam, token_site=site, model_name="small")
    tokens, ious = localizer.decode_tokens(embedding, SamPrompts(boxes_xyxy_sam=boxes))
    assert ious.shape == (len(boxes),)
    assert tokens.shape == (len(boxes), localizer.token_dim)
    return tokens


@pytest.mark.parametrize("site", SITES)
def test_each_site_has_its_width(sam: Sam, embedding: Tensor, site: TokenSite) -> None:
    tokens = _tokens(sam, embedding, _boxes(3), site)
    assert tokens.shape == (3, WIDTHS[site])
    assert not tokens.requires_grad


@pytest.mark.parametrize("site", SITES)
def test_no_boxes_give_no_tokens(sam: Sam, embedding: Tensor, site: TokenSite) -> None:
    assert _tokens(sam, embedding, torch.zeros(0, 4), site).shape == (0, WIDTHS[site])


@pytest.mark.parametrize("site", SITES)
def test_more_boxes_than_are_decoded_at_once_have_the_tokens_that_each_has_alone(
    sam: Sam, embedding: Tensor, site: TokenSite
) -> None:
    boxes = _boxes(150)
    alone = torch.cat([_tokens(sam, embedding, box, site) for box in boxes.split(1)])
    torch.testing.assert_close(_tokens(sam, embedding, boxes, site), alone, rtol=0, atol=2e-6)


def test_masks_are_not_upscaled(sam: Sam, embedding: Tensor) -> None:
    calls: list[object] = []
    hook = sam.mask_decoder.output_upscaling.register_forward_hook(
        lambda module, *_: calls.append(module)
    )
    for site in SITES:
        _tokens(sam, embedding, _boxes(2), site)
    hook.remove()
    assert calls == []


@pytest.mark.parametrize("shape", [(2, 32, 8, 8), (32, 8, 8), (1, 32, 4, 4)])
def test_an_embedding_that_is_not_one_images_is_refused(sam: Sam, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"wanted \(1, 32, 8, 8\).*embedding\[i : i \+ 1\]"):
        _tokens(sam, torch.zeros(shape), _boxes(1))
