"""What the features of a cache look like: all that a head needs to know before training."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpec:
    """Widths of cached features; read from the manifest, never typed by hand."""

    token_dim: int
    """Width of the position tokens (S)."""
    feature_dim: int
    """Width of the feature map (D)."""
    text_dim: int
    """Width of the text banks (E)."""
    num_feature_tokens: int
    """Tokens of a feature map, class token included (T = 1 + P)."""
