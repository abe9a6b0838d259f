"""The frozen models, composed from ``segment_anything`` and ``open_clip`` without a fork.

SAM 2 comes from ``transformers``. Importing this package needs none of them; building a model does.
(`decode_images`, which needs Pillow, is therefore not imported here.)
"""

from regionspot.backbones.clip import LoadedClip, OpenClipEncoder, describe_clip, load_clip
from regionspot.backbones.clip_text import (
    TEMPLATE_SETS,
    LazyTokenizer,
    Tokenizer,
    WordTokenizer,
    check_templates,
    template_texts,
)
from regionspot.backbones.decoded_masks import DecodedMasks
from regionspot.backbones.encoder import Encoder, EncoderInfo
from regionspot.backbones.execution import FLOAT32, Execution, resolve_device
from regionspot.backbones.frozen import (
    FrozenModels,
    load_frozen_models,
    load_localizer,
)
from regionspot.backbones.image_towers import image_tower
from regionspot.backbones.localizer import Localizer
from regionspot.backbones.name_tokens import SameTokens, examine_names
from regionspot.backbones.pixels import resize_bilinear
from regionspot.backbones.presets import (
    PRESETS,
    ExifPolicy,
    ModelsConfig,
    Precision,
    TokenSite,
    resolve,
)
from regionspot.backbones.regions import (
    BoxPrompts,
    LocatedRegions,
    MaskPrompts,
    PointPrompts,
    Prompts,
    RegionPrompts,
    locate_regions,
    rated_tokens,
    region_masks,
    region_tokens,
)
from regionspot.backbones.sam import SamLocalizer, SamShape, build_sam, load_sam
from regionspot.backbones.sam2 import Sam2Localizer, load_sam2
from regionspot.backbones.sam_decoder import decode_tokens
from regionspot.backbones.sam_encoder import encode_image
from regionspot.backbones.sam_grid import GridProposals, GridProposer
from regionspot.backbones.to_frame import Frame, MaskForm, SamPrompts, mask_logits
from regionspot.backbones.weights import SAM_RELEASES, ReleasedFile, state_sha256

__all__ = [
    "FLOAT32",
    "PRESETS",
    "SAM_RELEASES",
    "TEMPLATE_SETS",
    "BoxPrompts",
    "DecodedMasks",
    "Encoder",
    "EncoderInfo",
    "Execution",
    "ExifPolicy",
    "Frame",
    "FrozenModels",
    "GridProposals",
    "GridProposer",
    "LazyTokenizer",
    "LoadedClip",
    "Localizer",
    "LocatedRegions",
    "MaskForm",
    "MaskPrompts",
    "ModelsConfig",
    "OpenClipEncoder",
    "PointPrompts",
    "Precision",
    "Prompts",
    "RegionPrompts",
    "ReleasedFile",
    "Sam2Localizer",
    "SamLocalizer",
    "SamPrompts",
    "SamShape",
    "SameTokens",
    "TokenSite",
    "Tokenizer",
    "WordTokenizer",
    "build_sam",
    "check_templates",
    "decode_tokens",
    "describe_clip",
    "encode_image",
    "examine_names",
    "image_tower",
    "load_clip",
    "load_frozen_models",
    "load_localizer",
    "load_sam",
    "load_sam2",
    "locate_regions",
    "mask_logits",
    "rated_tokens",
    "region_masks",
    "region_tokens",
    "resize_bilinear",
    "resolve",
    "resolve_device",
    "state_sha256",
    "template_texts",
]
