"""The frozen models, composed from ``segment_anything`` and ``open_clip`` without a fork.

Importing this package needs neither of the two; building a model does.
"""

from regionspot.backbones.clip_image import CLIP_RESIZE, Encoder, feature_map
from regionspot.backbones.clip_models import LoadedClip, describe_clip, load_clip
from regionspot.backbones.clip_registry import Tokenizer
from regionspot.backbones.clip_text import TEMPLATE_SETS, template_texts, text_bank
from regionspot.backbones.device import resolve_device
from regionspot.backbones.frozen import FrozenModels, load_frozen_models
from regionspot.backbones.position_tokens import position_tokens, token_dim
from regionspot.backbones.presets import PRESETS, ModelsConfig, ResolvedModels, TokenSite, resolve
from regionspot.backbones.sam import SAM_RESIZE, Localizer, MaskPrompt
from regionspot.backbones.sam_grid import GridProposals, GridProposer
from regionspot.backbones.sam_models import SamShape, build_sam, load_sam
from regionspot.backbones.tokenizer import WordTokenizer
from regionspot.backbones.weights import state_sha256

__all__ = [
    "CLIP_RESIZE",
    "PRESETS",
    "SAM_RESIZE",
    "TEMPLATE_SETS",
    "Encoder",
    "FrozenModels",
    "GridProposals",
    "GridProposer",
    "LoadedClip",
    "Localizer",
    "MaskPrompt",
    "ModelsConfig",
    "ResolvedModels",
    "SamShape",
    "TokenSite",
    "Tokenizer",
    "WordTokenizer",
    "build_sam",
    "describe_clip",
    "feature_map",
    "load_clip",
    "load_frozen_models",
    "load_sam",
    "position_tokens",
    "resolve",
    "resolve_device",
    "state_sha256",
    "template_texts",
    "text_bank",
    "token_dim",
]
