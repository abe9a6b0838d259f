"""From region embeddings to class logits: cosine similarity with a text bank.

Shapes: `B` images, `R` regions, `E` text width, `C` classes.
"""

import math

import torch
from torch import Tensor, nn
from typing_extensions import override

from regionspot.core.errors import ConfigError, ShapeError


def classification_logits(
    z_BRE: Tensor,
    text_bank_CE: Tensor,
    scale: float | Tensor = 100.0,
    bias: float | Tensor = 0.0,
) -> Tensor:
    """Compare region embeddings with class embeddings.

    Computed in float32 even under autocast: at a scale of 100 a half-precision logit is off by
    several tenths, which reorders classes.

    Args:
        z_BRE: Region embeddings, (..., E), not normalised.
        text_bank_CE: Class embeddings of unit norm, (C, E).
        scale: Factor of the cosine; CLIP's own is 100.
        bias: Added to every logit.

    Returns:
        ``scale * z / (|z| + 1e-7) @ text_bank.T + bias``, (..., C) float32.

    Raises:
        ShapeError: The widths differ.
    """
    check_widths(z_BRE, text_bank_CE)
    with torch.autocast(device_type=z_BRE.device.type, enabled=False):
        z_BRE = z_BRE.float()
        return scale * (normalized(z_BRE) @ text_bank_CE.float().T) + bias


def normalized(z_BRE: Tensor) -> Tensor:
    """Divide embeddings, (..., E), by their `lengths`."""
    return z_BRE / lengths(z_BRE)


def lengths(z_BRE: Tensor) -> Tensor:
    """Return the divisor of embeddings (..., E): ``|z| + 1e-7``, (..., 1)."""
    return z_BRE.norm(dim=-1, keepdim=True) + 1e-7


def check_widths(z_BRE: Tensor, text_bank_CE: Tensor) -> None:
    """Raise `ShapeError` unless the text bank is (C, E) for region embeddings (..., E)."""
    if text_bank_CE.ndim != 2 or z_BRE.shape[-1] != text_bank_CE.shape[-1]:
        raise ShapeError(
            f"region embeddings {tuple(z_BRE.shape)} and text bank {tuple(text_bank_CE.shape)} do"
            " not fit: wanted (..., E) and (C, E). The bank must be made by the CLIP of the cache."
        )


class RegionClassifier(nn.Module):
    """Scale and bias of the logits, fixed as in the paper or trained.

    The scale is stored as its logarithm, which keeps it positive.

    Args:
        scale: Initial (or fixed) factor of the cosine; the paper's 100 is CLIP's own.
        bias: Initial (or fixed) offset. The focal loss starts better from a negative one, since
            nearly all (region, class) pairs are wrong.
        trainable: Whether both are trained.

    Raises:
        ConfigError: ``scale`` is not positive.
    """

    def __init__(self, scale: float = 100.0, bias: float = 0.0, *, trainable: bool = False) -> None:
        super().__init__()
        if not (math.isfinite(scale) and scale > 0 and math.isfinite(bias)):
            raise ConfigError(f"classifier scale {scale}, bias {bias}: wanted a scale above 0.")
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)), requires_grad=trainable)
        self.bias = nn.Parameter(torch.tensor(float(bias)), requires_grad=trainable)

    @override
    def forward(self, z_BRE: Tensor, text_bank_CE: Tensor) -> Tensor:
        """Return logits, (..., C) float32; see `classification_logits`."""
        return classification_logits(z_BRE, text_bank_CE, self.scale, self.bias)

    @property
    def scale(self) -> Tensor:
        """The factor of the cosine, a scalar; with a gradient if trained."""
        return self.log_scale.exp()
