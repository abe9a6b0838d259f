"""Multi-head attention of the fusion head, in two equivalent forms.

Shapes: `B` images, `Q` queries, `K` keys, `D` width, `N` heads, `d` width of a head.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override


def absorbing_is_cheaper(num_queries: int, num_keys: int, width: int, num_heads: int) -> bool:
    """Return whether the absorbed form of attention takes fewer multiply-adds than the projected.

    Multiply-adds per image, without the projections of queries and outputs that both forms need:

    - projected: ``2 K D^2`` for keys and values, ``2 Q K D`` for scores and weighted sums;
    - absorbed: ``2 Q D^2`` for moving the two weights to the queries' side, ``2 N Q K D`` for
      scores and weighted sums, as every head now spans the whole width.

    The backward pass over a frozen source shifts the break-even by about a tenth, which is ignored:
    near it both forms take equally long. For BL's 257 keys the absorbed form is chosen up to 93
    regions; in self-attention never.
    """
    projected = num_keys * width + num_queries * num_keys
    absorbed = num_queries * width + num_heads * num_queries * num_keys
    return absorbed < projected


class Attention(nn.Module):
    """Multi-head attention whose parameters are those of `torch.nn.MultiheadAttention`.

    The packed layout (``in_proj_weight``, ``in_proj_bias``, ``out_proj``) is kept so that weights
    trained with torch's own decoder load one to one. The result has two equivalent forms;
    `absorbing_is_cheaper` selects one. `torch.export` gets the projected form for self-attention
    and the absorbed one otherwise, as the number of queries is unknown.

    Args:
        width: Width of queries, keys and values; a multiple of ``num_heads``.
        num_heads: Number of heads.
        dropout: Dropout probability of the attention weights in training.
    """

    def __init__(self, width: int, num_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    @override
    def forward(
        self, queries_BQD: Tensor, source_BKD: Tensor, attn_mask: Tensor | None = None
    ) -> Tensor:
        """Attend from queries to the source.

        Args:
            queries_BQD: Queries, (B, Q, D).
            source_BKD: The source of keys and values, (B, K, D).
            attn_mask: As in `torch.nn.functional.scaled_dot_product_attention`, broadcastable to
                (B, N, Q, K): bool, True where a query may attend to a key, at least one per
                query; or numbers of the scores' dtype, added to them before the softmax.

        Returns:
            The output, (B, Q, D).
        """
        num_queries, width = queries_BQD.shape[1:]
        if torch.compiler.is_exporting():  # for any number of queries: most often few
            absorb = source_BKD is not queries_BQD
        else:
            absorb = absorbing_is_cheaper(num_queries, source_BKD.shape[1], width, self.num_heads)
        gather = self._gather_absorbed if absorb else self._gather_projected
        return self.out_proj(gather(queries_BQD, source_BKD, attn_mask))

    def weights(
        self, queries_BQD: Tensor, source_BKD: Tensor, bias_BNQK: Tensor | None = None
    ) -> Tensor:
        """Return the attention weights, mean of the heads, (B, Q, K); rows sum to 1.

        ``bias_BNQK`` is added to the scores. For visualisation: `forward` computes no such matrix.
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        queries_BNQd = self._split_heads(F.linear(queries_BQD, weights[0], biases[0]))
        keys_BNKd = self._split_heads(F.linear(source_BKD, weights[1], biases[1]))
        scores_BNQK = (queries_BNQd @ keys_BNKd.transpose(-2, -1)).float()
        scores_BNQK = scores_BNQK / math.sqrt(queries_BNQd.shape[-1])
        if bias_BNQK is not None:
            scores_BNQK = scores_BNQK + bias_BNQK
        return scores_BNQK.softmax(dim=-1).mean(dim=1)

    def _gather_projected(
        self, queries_BQD: Tensor, source_BKD: Tensor, attn_mask: Tensor | None
    ) -> Tensor:
        """Gather values, (B, Q, D), by projecting the source to keys and values."""
        if source_BKD is queries_BQD:  # one product instead of two, also in the backward pass
            projected = F.linear(queries_BQD, self.in_proj_weight, self.in_proj_bias)
            queries, keys, values = projected.chunk(3, dim=-1)
        else:
            width = queries_BQD.shape[-1]
            weight, weights = self.in_proj_weight.split([width, 2 * width])
            bias, biases = self.in_proj_bias.split([width, 2 * width])
            queries = F.linear(queries_BQD, weight, bias)
            keys, values = F.linear(source_BKD, weights, biases).chunk(2, dim=-1)
        gathered_BNQd = F.scaled_dot_product_attention(
            self._split_heads(queries),
            self._split_heads(keys),
            self._split_heads(values),
            attn_mask=attn_mask,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return gathered_BNQd.transpose(1, 2).flatten(2)

    def _gather_absorbed(
        self, queries_BQD: Tensor, source_BKD: Tensor, attn_mask: Tensor | None
    ) -> Tensor:
        """Gather values, (B, Q, D), without computing keys and values.

        A score ``q . (W_k x + b_k)`` is ``(W_k^T q) . x`` plus a term that is the same for all keys
        and cancels in the softmax; ``sum p (W_v x + b_v)`` is ``W_v (sum p x) + (sum p) b_v``. This
        takes two tensors (B, N, Q, D) and the scores (B, N, Q, K) instead of keys and values. The
        softmax runs in float32 or wider.
        """
        # Split, not sliced: the gradient of a slice would be padded to the whole weight.
        query_weight, key_weight, value_weight = self.in_proj_weight.chunk(3)
        query_bias, _, value_bias = self.in_proj_bias.chunk(3)
        queries_BNQd = self._split_heads(F.linear(queries_BQD, query_weight, query_bias))
        queries_BNQd = queries_BNQd / math.sqrt(queries_BNQd.shape[-1])
        absorbed_BNQD = torch.einsum(
            "bnqd,ndw->bnqw", queries_BNQd, key_weight.unflatten(0, (self.num_heads, -1))
        )
        scores_BNQK = torch.einsum("bnqw,bkw->bnqk", absorbed_BNQD, source_BKD)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores_BNQK = scores_BNQK.masked_fill(~attn_mask, -math.inf)
        elif attn_mask is not None:
            scores_BNQK = scores_BNQK + attn_mask
        dtype = torch.promote_types(scores_BNQK.dtype, torch.float32)
        shares_BNQK = scores_BNQK.softmax(dim=-1, dtype=dtype).to(source_BKD.dtype)
        shares_BNQK = F.dropout(shares_BNQK, self.dropout, self.training)
        seen_BNQD = torch.einsum("bnqk,bkw->bnqw", shares_BNQK, source_BKD)
        gathered_BQNd = torch.einsum(
            "bnqw,ndw->bqnd", seen_BNQD, value_weight.unflatten(0, (self.num_heads, -1))
        )
        if not (self.training and self.dropout):
            return gathered_BQNd.flatten(2) + value_bias
        # With dropout, shares do not sum to 1.
        total_BQN1 = shares_BNQK.sum(dim=-1).transpose(1, 2)[..., None]
        bias_Nd = value_bias.unflatten(0, (self.num_heads, -1))
        return (gathered_BQNd + total_BQN1 * bias_Nd).flatten(2)

    def _split_heads(self, values_BKD: Tensor) -> Tensor:
        return values_BKD.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
