"""The options of a fusion head, and what else determines its shape."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from regionspot.core.errors import ConfigError
from regionspot.model.guidance import GuidanceKind, GuidanceRegion
from regionspot.model.position_code import PositionCode

FeatureTokens = Literal["all", "patches", "none"]
RegionContext = Literal["together", "alone"]


_CHOICES = {
    "position_code": PositionCode,
    "guidance": GuidanceKind,
    "guidance_region": GuidanceRegion,
    "feature_tokens": FeatureTokens,
    "regions": RegionContext,
}
"""Options of a head that are one of several words."""


# Without slots, as jsonargparse reads the default values of a group from ``__dict__``.
@dataclass(frozen=True, kw_only=True)
class HeadOptions:
    """Shape of a fusion head, except for the widths, which the cache determines."""

    num_blocks: int = 3
    """Number of decoder blocks."""
    num_heads: int = 8
    """Number of attention heads; must divide the width of the feature map."""
    ffn_dim: int = 2048
    """Hidden width of a block's feed-forward network."""
    dropout: float = 0.1
    """Dropout probability in training, in [0, 1)."""
    normalize_inputs: bool = False
    """Whether to normalise both inputs to zero mean and unit variance; not in the paper."""
    position_code: PositionCode = "none"
    """'sincos' adds a fixed code of the patch grid to the feature map; not in the paper."""
    guidance: GuidanceKind = "none"
    """How cross-attention prefers the patches in a region: 'learned' lowers the scores of those
    outside by a learned number per attention head, 'halves' hides them from half of the heads; not
    in the paper."""
    guidance_region: GuidanceRegion = "box"
    """With guidance: whether patches belong to a region by its 'box' or by SAM's 'mask' of it. For
    masks, training needs caches made with --masks true."""
    guidance_spread: float = 0.0
    """For 'learned': the numbers of a block start evenly spaced from 0 to this value; with 0 the
    head starts as the paper's."""
    feature_tokens: FeatureTokens = "all"
    """Tokens of the feature map that regions attend to: 'all', the 'patches' without the class
    token, or 'none': the head then uses position tokens only. The paper's ablation of CLIP."""
    regions: RegionContext = "together"
    """Whether the regions of an image attend to each other ('together') or each to itself only
    ('alone'). The paper's ablation of prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSpec(HeadOptions):
    """Everything that determines a fusion head except its weights; the defaults are BL.

    Raises:
        ConfigError: A value is out of range, or two do not fit each other.
    """

    token_dim: int = 256
    """Width of the position tokens (S)."""
    feature_dim: int = 1024
    """Width of the feature map, and of the head (D)."""
    text_dim: int = 768
    """Width of the text space that regions are projected to (E)."""

    @property
    def needs_masks(self) -> bool:
        """Whether the head's guidance compares patches with masks instead of boxes."""
        return self.guidance != "none" and self.guidance_region == "mask"

    def __post_init__(self) -> None:
        widths = ("token_dim", "feature_dim", "text_dim")
        for name in (*widths, "num_blocks", "num_heads", "ffn_dim"):
            if getattr(self, name) < 1:
                raise ConfigError(f"head option {name} is {getattr(self, name)}; wanted 1 or more.")
        if self.feature_dim % self.num_heads:
            raise ConfigError(
                f"num_heads is {self.num_heads}, which does not divide feature_dim"
                f" {self.feature_dim}. Set model.head.num_heads to one of its divisors."
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"head option dropout is {self.dropout}; wanted a share in [0, 1).")
        for name, kinds in _CHOICES.items():
            if getattr(self, name) not in get_args(kinds):
                raise ConfigError(
                    f"head option {name} is {getattr(self, name)!r}; wanted one of"
                    f" {', '.join(get_args(kinds))}."
                )
        self._check_guidance()

    def _check_guidance(self) -> None:
        if self.guidance == "halves" and self.num_heads < 2:
            raise ConfigError("guidance 'halves' needs model.head.num_heads 2 or more, found 1.")
        if not 0.0 <= self.guidance_spread < math.inf:
            raise ConfigError(
                f"head option guidance_spread is {self.guidance_spread}; wanted 0 or more."
            )
        if self.guidance_spread and self.guidance != "learned":
            raise ConfigError(
                f"guidance_spread is {self.guidance_spread}, but guidance is {self.guidance!r},"
                " which learns nothing. Set model.head.guidance to 'learned'."
            )
        if self.guidance == "none" and self.guidance_region != "box":
            raise ConfigError(
                f"guidance_region is {self.guidance_region!r}, but guidance is 'none', which uses"
                " no regions. Set model.head.guidance to 'learned'."
            )
        if self.guidance != "none" and self.feature_tokens == "none":
            raise ConfigError(
                f"guidance is {self.guidance!r}, but feature_tokens is 'none': there is nothing to"
                " guide to. Set model.head.guidance to 'none'."
            )
