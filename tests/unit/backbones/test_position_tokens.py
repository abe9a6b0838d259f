"""Position tokens from boxes in SAM's frame."""

import numpy as np
import pytest
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from regionspot.backbones import TokenSite, position_tokens, token_dim
from regionspot.core.errors import ShapeError

SITES: list[TokenSite] = ["prompt_encoder", "transformer", "mlp"]
WIDTHS = {"prompt_encoder": 64, "transformer": 32, "mlp": 4}


@pytest.fixture
def embedding() -> Tensor:
    return torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(0))


def _boxes(count: int) -> Tensor:
    corners = np.random.default_rng(0).uniform(0, 64, (count, 2, 2))
    return torch.from_numpy(np.sort(corners, axis=1).reshape(count, 4).astype(np.float32))


@pytest.mark.parametrize("site", SITES)
def test_each_site_has_its_width(sam: Sam, embedding: Tensor, site: TokenSite) -> None:
    tokens = position_tokens(sam, embedding, _boxes(3), site=site)
    assert tokens.shape == (3, WIDTHS[site])
    assert token_dim(sam, site) == WIDTHS[site]
    assert not tokens.requires_grad


@pytest.mark.parametrize("site", SITES)
def test_no_boxes_give_no_tokens(sam: Sam, embedding: Tensor, site: TokenSite) -> None:
    tokens = position_tokens(sam, embedding, torch.zeros(0, 4), site=site)
    assert tokens.shape == (0, WIDTHS[site])


@pytest.mark.parametrize("chunk_size", [1, 5, 64])
@pytest.mark.parametrize("site", SITES)
def test_chunking_changes_nothing(
    sam: Sam, embedding: Tensor, site: TokenSite, chunk_size: int
) -> None:
    boxes = _boxes(7)
    whole = position_tokens(sam, embedding, boxes, site=site, chunk_size=7)
    chunked = position_tokens(sam, embedding, boxes, site=site, chunk_size=chunk_size)
    torch.testing.assert_close(chunked, whole, rtol=0, atol=2e-6)


def test_a_box_does_not_see_the_others(sam: Sam, embedding: Tensor) -> None:
    boxes = _boxes(4)
    shuffled = position_tokens(sam, embedding, boxes[[2, 0, 3, 1]])
    torch.testing.assert_close(
        shuffled, position_tokens(sam, embedding, boxes)[[2, 0, 3, 1]], rtol=0, atol=2e-6
    )


def test_masks_are_not_upscaled(sam: Sam, embedding: Tensor) -> None:
    calls: list[object] = []
    hook = sam.mask_decoder.output_upscaling.register_forward_hook(
        lambda module, *_: calls.append(module)
    )
    for site in SITES:
        position_tokens(sam, embedding, _boxes(2), site=site)
    hook.remove()
    assert calls == []


def test_boxes_still_in_image_pixels_are_refused(sam: Sam, embedding: Tensor) -> None:
    with pytest.raises(ShapeError, match=r"reaches 640 px.*0 and 64 px.*to_sam_frame"):
        position_tokens(sam, embedding, torch.tensor([[0.0, 0.0, 640.0, 480.0]]))


@pytest.mark.parametrize(
    ("boxes", "match"),
    [
        (torch.zeros(4), r"shape \(4,\); wanted \(R, 4\)"),
        (torch.zeros(2, 5), r"shape \(2, 5\)"),
        (torch.tensor([[0.0, 0.0, -9.0, 3.0]]), "reaches -9 px"),
        (torch.tensor([[0.0, 0.0, torch.nan, 3.0]]), "reaches nan px"),
        (torch.tensor([[0.0, 0.0, torch.inf, 3.0]]), "reaches inf px"),
        (torch.tensor([[1.0, 1.0, 2.0, 2.0], [9.0, 9.0, 2.0, 12.0]]), "box 1 .* ends before"),
    ],
)
def test_boxes_that_cannot_be_right_are_refused(
    sam: Sam, embedding: Tensor, boxes: Tensor, match: str
) -> None:
    with pytest.raises(ShapeError, match=match):
        position_tokens(sam, embedding, boxes)


def test_the_frames_border_itself_is_inside(sam: Sam, embedding: Tensor) -> None:
    border = torch.tensor([[0.0, 0.0, 64.0, 64.0], [-0.4, 0.0, 64.4, 1.0]])
    assert position_tokens(sam, embedding, border).isfinite().all()


@pytest.mark.parametrize("shape", [(2, 32, 8, 8), (32, 8, 8), (1, 32, 4, 4)])
def test_an_embedding_that_is_not_one_images_is_refused(sam: Sam, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"wanted \(1, 32, 8, 8\).*embedding\[i : i \+ 1\]"):
        position_tokens(sam, torch.zeros(shape), _boxes(1))
