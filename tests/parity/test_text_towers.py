"""Embeddings of texts cut to their length, against ``open_clip``'s ``encode_text``."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from open_clip.coca_model import CoCa, MultimodalCfg
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from torch import Tensor, nn

from regionspot.backbones import load_clip
from regionspot.backbones.text_towers import embed_texts

CONTEXT, END, VOCABULARY = 20, 49, 50
VISION = CLIPVisionCfg(layers=1, width=16, head_width=8, patch_size=8, image_size=16)
COCA_VISION = CLIPVisionCfg(
    layers=1, width=16, head_width=8, patch_size=8, image_size=16, output_tokens=True
)


def _text_cfg(**changes: object) -> CLIPTextCfg:
    return CLIPTextCfg(
        **{
            "context_length": CONTEXT,
            "vocab_size": VOCABULARY,
            "width": 16,
            "heads": 2,
            "layers": 2,
            **changes,
        }
    )


def _ids(lengths: list[int]) -> Tensor:
    """Return rows of start, words, end of text, and padding with zeros."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.zeros(len(lengths), CONTEXT, dtype=torch.long)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = torch.randint(1, END, (length,), generator=generator)
        row[length - 1] = END
    return ids


def _count_tokens(clip: nn.Module) -> list[tuple[int, ...]]:
    """Return a list that grows by the shape of each batch of ids."""
    shapes: list[tuple[int, ...]] = []
    for module in clip.modules():
        if isinstance(module, nn.Embedding):
            module.register_forward_pre_hook(
                lambda _module, inputs: shapes.append(tuple(inputs[0].shape))
            )
    return shapes


LENGTHS = [5, 20, 3, 5, 7, 2, 12]
WHOLE = [(3, CONTEXT), (3, CONTEXT), (1, CONTEXT)]
CUT = [(3, 5), (3, 12), (1, 20)]
CLIPS: dict[str, tuple[Callable[[], Any], list[tuple[int, int]]]] = {
    "OpenAI's": (lambda: CLIP(24, VISION, _text_cfg()), CUT),
    "its own text module": (lambda: CustomTextCLIP(24, VISION, _text_cfg()), CUT),
    "read at its end token": (
        lambda: CustomTextCLIP(24, VISION, _text_cfg(pool_type="eos", eos_id=END)),
        CUT,
    ),
    "a bias in the projection": (
        lambda: CustomTextCLIP(24, VISION, _text_cfg(proj_bias=True)),
        CUT,
    ),
    "no projection": (lambda: CustomTextCLIP(16, VISION, _text_cfg(proj_type="none")), CUT),
    "SigLIP's": (
        lambda: CustomTextCLIP(24, VISION, _text_cfg(no_causal_mask=True, pool_type="last")),
        WHOLE,
    ),
    "CoCa's": (
        lambda: CoCa(
            embed_dim=24,
            multimodal_cfg=MultimodalCfg(
                context_length=CONTEXT, vocab_size=VOCABULARY, width=16, heads=2, layers=1
            ),
            text_cfg=_text_cfg(embed_cls=True, output_tokens=True),
            vision_cfg=COCA_VISION,
        ),
        WHOLE,
    ),
}


@pytest.mark.parametrize("name", CLIPS)
@torch.inference_mode()
def test_embeddings_are_those_of_whole_rows_and_causal_towers_see_no_padding(name: str) -> None:
    build, shapes_wanted = CLIPS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = build().eval()
        for parameter in clip.parameters():
            nn.init.normal_(parameter, std=0.2)
    ids = _ids(LENGTHS)
    wanted = clip.encode_text(ids, normalize=False)
    shapes = _count_tokens(clip)
    found = embed_texts(clip, ids, batch_size=3)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert found.dtype == torch.float32
    assert shapes == shapes_wanted


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["ViT-B-16-quickgelu", "ViT-L-14-quickgelu", "ViT-L-14-336-quickgelu", "tiny"]
)
@torch.inference_mode()
def test_the_presets_text_towers_embed_to_1e_6(name: str) -> None:
    loaded = load_clip(name, "random" if name != "tiny" else "shipped")
    texts = ["striped red heart.", "a photo of a blue star.", "a heart", "an origami sea egg."]
    ids = loaded.tokenizer(texts)
    wanted = loaded.model.encode_text(ids, normalize=True)
    found = torch.nn.functional.normalize(embed_texts(loaded.model, ids, batch_size=2), dim=-1)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
