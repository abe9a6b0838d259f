"""Multi-head attention, the one replaceable arithmetic core of the fusion head.

Shapes: `B` images, `Q` queries, `K` keys, `D` width, `N` heads.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override


class Attention(nn.Module):
    """Multi-head attention whose parameters are those of `torch.nn.MultiheadAttention`.

    The packed layout (``in_proj_weight``, ``in_proj_bias``, ``out_proj``) is kept so that weights
    trained with torch's own decoder load one to one. The arithmetic sits in `forward` alone: a
    faster form (for example keys and values absorbed into the queries) replaces only that.

    Args:
        width: Width of queries, keys and values; a multiple of ``num_heads``.
        num_heads: Number of heads.
        dropout: Share of attention weights dropped in training.
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
        self, queries_BQD: Tensor, source_BKD: Tensor, attend_BK: Tensor | None = None
    ) -> Tensor:
        """Let every query gather from the source.

        Args:
            queries_BQD: Queries, (B, Q, D).
            source_BKD: What keys and values are made of, (B, K, D).
            attend_BK: True where a key may be attended to, (B, K) bool; None for all. A row must
                allow at least one key.

        Returns:
            The gathered values after the output projection, (B, Q, D).
        """
        width = queries_BQD.shape[-1]
        keys_values = F.linear(source_BKD, self.in_proj_weight[width:], self.in_proj_bias[width:])
        keys_BKD, values_BKD = keys_values.chunk(2, dim=-1)
        gathered_BNQd = F.scaled_dot_product_attention(
            self._queries(queries_BQD),
            self._split_heads(keys_BKD),
            self._split_heads(values_BKD),
            attn_mask=None if attend_BK is None else attend_BK[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out_proj(gathered_BNQd.transpose(1, 2).flatten(2))

    def weights(self, queries_BQD: Tensor, source_BKD: Tensor) -> Tensor:
        """Return how much each query draws from each key, the mean of the heads, (B, Q, K).

        Rows sum to 1. Meant for looking at: `forward` never forms this matrix.
        """
        width = queries_BQD.shape[-1]
        keys_BKD = F.linear(
            source_BKD,
            self.in_proj_weight[width : 2 * width],
            self.in_proj_bias[width : 2 * width],
        )
        queries = self._queries(queries_BQD)
        scores_BNQK = queries @ self._split_heads(keys_BKD).transpose(-2, -1)
        scores_BNQK = scores_BNQK.float() / math.sqrt(queries.shape[-1])
        return scores_BNQK.softmax(dim=-1).mean(dim=1)

    def _queries(self, queries_BQD: Tensor) -> Tensor:
        width = queries_BQD.shape[-1]
        projected = F.linear(queries_BQD, self.in_proj_weight[:width], self.in_proj_bias[:width])
        return self._split_heads(projected)

    def _split_heads(self, values_BKD: Tensor) -> Tensor:
        return values_BKD.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
