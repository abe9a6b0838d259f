"""From similarities to probabilities: the last step that every namer of regions shares.

Probabilities are a softmax over the vocabulary in float32 whatever precision made the logits: in
float16 the tail of a long vocabulary underflows to ties, and ties decide a top-k.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regionspot.core.errors import ShapeError

TextBank = NDArray[np.float32] | Tensor
"""Unit-norm class name embeddings, (C, E), as the cache (numpy) or the text encoder (torch) returns
them."""


def as_text_bank(text_bank: TextBank, *, text_dim: int, device: torch.device) -> Tensor:
    """Check a text bank and bring it to ``device`` as float32.

    Args:
        text_bank: Class embeddings, (C, E), unit norm, one row a class.
        text_dim: The width E of the space that the regions are embedded in.
        device: Where the scores will be computed.

    Raises:
        ShapeError: The bank is not (C, E) with at least one class.
    """
    bank_CE = torch.as_tensor(text_bank)
    if bank_CE.ndim != 2 or len(bank_CE) == 0 or bank_CE.shape[1] != text_dim:
        raise ShapeError(
            f"the text bank has shape {tuple(bank_CE.shape)}; wanted (C, {text_dim}): one row a"
            " class, in the text space of the CLIP that the regions are embedded with."
        )
    return bank_CE.to(device=device, dtype=torch.float32)


def class_probabilities(logits: Tensor) -> NDArray[np.float32]:
    """Turn logits (..., C) into probabilities over the vocabulary, float32, in host memory."""
    probabilities: NDArray[np.float32] = logits.float().softmax(dim=-1).cpu().numpy()
    return probabilities
