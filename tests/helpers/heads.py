"""Fusion heads that nobody trained."""

import torch

from regionspot.backbones import FrozenModels
from regionspot.model import FusionHead, HeadCard, HeadSpec, RegionClassifier, TrainedHead

SCALE = 20.0


def random_head(
    models: FrozenModels,
    *,
    seed: int,
    num_blocks: int = 1,
    ffn_dim: int = 32,
    normalize_inputs: bool = False,
    bias: float = 0.0,
    vocabulary: tuple[str, ...] = (),
    templates: str = "",
) -> TrainedHead:
    """Build a small head with seeded random weights for what these models make of an image."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = FusionHead(
            HeadSpec(
                token_dim=models.localizer.token_dim,
                feature_dim=models.encoder.info.width,
                text_dim=models.encoder.info.text_dim,
                num_blocks=num_blocks,
                num_heads=4,
                ffn_dim=ffn_dim,
                normalize_inputs=normalize_inputs,
            )
        )
    card = HeadCard(
        head=head.spec,
        scale=SCALE,
        bias=bias,
        fingerprint=models.fingerprint().to_dict(),
        vocabulary=vocabulary,
        templates=templates,
    )
    return TrainedHead(head=head.eval(), classifier=RegionClassifier(SCALE, bias), card=card)
