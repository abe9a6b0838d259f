"""CLIP's text towers, from token ids to embeddings, without computing on padding.

Most text towers are causal, and their embedding is read at the end of the text, so that padding
after it has no effect. OpenAI's context is 77 tokens; a class name in a sentence has about ten.
Texts are sorted by length, and each batch is cut to its longest. Towers in which every token sees
the padding (SigLIP's, those of ``transformers``) or which append a token (CoCa's) get whole rows.

Shape letters: N texts, L tokens of a text, E the joint text space.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

import torch
from torch import Tensor

from regionspot.core.text import needs_extra

if TYPE_CHECKING:
    from open_clip.model import CLIP, CustomTextCLIP
    from open_clip.transformer import TextTransformer


def embed_texts(
    clip: "CLIP | CustomTextCLIP",
    ids_NL: Tensor,
    *,
    batch_size: int = 256,
    on_batch: Callable[[int], object] = lambda _number: None,
) -> Tensor:
    """Embed texts as ``encode_text`` does, equal to it up to rounding.

    Args:
        clip: An open_clip model.
        ids_NL: Token ids of N texts from the model's tokenizer, (N, L) int64, on CLIP's device.
        batch_size: Texts encoded at once.
        on_batch: Called after each batch with the number of its texts.

    Returns:
        (N, E) float32, not normalised, in the order of the texts.
    """
    tower = _causal_tower(clip)
    rows, batches = [], []
    if tower is None:
        for ids in ids_NL.split(batch_size):
            # CoCa normalises by default.
            batches.append(clip.encode_text(ids, normalize=False).float())
            on_batch(len(ids))
        return torch.cat(batches)
    ends_N = tower.ends(ids_NL)
    for batch in ends_N.argsort(stable=True).split(batch_size):
        length = int(ends_N[batch].max()) + 1
        rows.append(batch)
        batches.append(tower.embed(ids_NL[batch, :length], ends_N[batch]).float())
        on_batch(len(batch))
    embedded_NE = torch.cat(batches)
    return torch.empty_like(embedded_NE).index_copy_(0, torch.cat(rows), embedded_NE)


@dataclass(frozen=True, slots=True)
class _CausalTower:
    """A text tower whose tokens only attend to earlier ones; the last one is the embedding."""

    module: Union["CLIP", "TextTransformer"]
    end_id: int | None
    """Token at which the embedding is read; None for the largest id."""

    def ends(self, ids_NL: Tensor) -> Tensor:
        """Return the index of the token at which each text's embedding is read, (N,)."""
        is_end = ids_NL if self.end_id is None else (ids_NL == self.end_id).int()
        return is_end.argmax(dim=-1)

    def embed(self, ids_NL: Tensor, ends_N: Tensor) -> Tensor:
        """Run the tower over texts of L tokens."""
        tower, length = self.module, ids_NL.shape[1]
        dtype = tower.transformer.get_cast_dtype()
        x_NLD = tower.token_embedding(ids_NL).to(dtype)
        x_NLD = x_NLD + tower.positional_embedding[:length].to(dtype)
        x_NLD = tower.transformer(x_NLD, attn_mask=tower.attn_mask[:length, :length])
        last_ND = tower.ln_final(x_NLD[torch.arange(len(x_NLD)), ends_N])
        projection = tower.text_projection
        if projection is None:
            return torch.as_tensor(last_ND)
        if isinstance(projection, torch.nn.Linear):
            return torch.as_tensor(projection(last_ND))
        return torch.as_tensor(last_ND @ projection)


def _causal_tower(clip: object) -> _CausalTower | None:
    """Return the tower if it can be cut, else None."""
    with needs_extra("extract"):
        from open_clip.model import CLIP, CustomTextCLIP
        from open_clip.transformer import TextTransformer
    if isinstance(clip, CLIP):
        module, pool_type, end_id = clip, clip.text_pool_type, getattr(clip, "text_eos_id", None)
    elif isinstance(clip, CustomTextCLIP) and isinstance(clip.text, TextTransformer):
        module, pool_type, end_id = clip.text, clip.text.pool_type, clip.text.eos_id
        if module.cls_emb is not None:
            return None
    else:
        return None
    if module.attn_mask is None or pool_type not in ("argmax", "eos"):
        return None
    return _CausalTower(module, end_id=end_id if pool_type == "eos" else None)
