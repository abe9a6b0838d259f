"""The configuration of the frozen models: presets and their weights.

Nothing is loaded here, so that a configuration can be parsed on any machine.
"""

from dataclasses import dataclass
from typing import Literal, cast, get_args

from regionspot.core.errors import ConfigError

TokenSite = Literal["prompt_encoder", "transformer", "mlp"]
"""Where in SAM the position token is read; the paper's choice is "transformer" (Table 5)."""

Precision = Literal["float32", "bfloat16", "float16"]
"""What the frozen models compute matrix products and convolutions in."""

ExifPolicy = Literal["ignore", "apply"]
"""Whether to rotate an image as its EXIF orientation says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModels:
    """A `ModelsConfig` with all defaults filled in."""

    sam: str
    """SAM architecture: "vit_b", "vit_l", "vit_h" or "tiny"; or a SAM 2."""
    sam_weights: str
    """Released file's or repository's name, path, "random" or "shipped"."""
    clip: str
    """open_clip model name, or "tiny"."""
    clip_weights: str
    """open_clip pretrained tag, path, "random" or "shipped"."""
    token_site: TokenSite
    """Where in SAM the position token is read."""


@dataclass(frozen=True, kw_only=True)  # no slots: jsonargparse reads a default's vars()
class ModelsConfig:
    """The frozen SAM and CLIP: a preset, and what to change in it."""

    preset: str = "bl"
    """Preset of both models: bb (SAM ViT-B, CLIP ViT-B/16), bl (SAM ViT-B, CLIP ViT-L/14), bl336
    (the same at 336 pixels) or toy (two tiny models that come with the package)."""
    sam: str | None = None
    """SAM architecture: vit_b, vit_l, vit_h or tiny; or SAM 2: sam2.1_hiera_tiny, _small,
    _base_plus or _large, and sam2_hiera_...; by default the preset's."""
    sam_weights: str | None = None
    """SAM weights: a released file's name (sam_vit_b_01ec64, sam_vit_l_0b3195, sam_vit_h_4b8939), a
    path to a .pth or .safetensors file, random, or shipped (tiny only); for SAM 2 the released
    repository (facebook/sam2.1-hiera-tiny), a path to a file or to a folder that transformers
    saved, or random; by default those released for the architecture."""
    clip: str | None = None
    """open_clip model name, for instance ViT-L-14-quickgelu, or tiny; by default the preset's."""
    clip_weights: str | None = None
    """CLIP weights: one of open_clip's pretrained tags (openai), a path to a .pt, .bin or
    .safetensors file, random, or shipped (tiny only); by default the preset's."""
    token_site: TokenSite = "transformer"  # noqa: S105 - no password
    """Where in SAM the position token is read: prompt_encoder (the two embedded corners),
    transformer (the mask token after the decoder's transformer) or mlp (that token after its
    hypernetwork)."""
    precision: Precision = "float32"
    """Precision of matrix products and convolutions in SAM and CLIP: float32, or for speed bfloat16
    or float16 (autocast; float16 is more precise, but overflows at large numbers). Outputs, norms,
    softmax and the embedding of class names stay in float32."""
    compile: bool = False
    """Compile the image encoders with torch.compile. This takes minutes once, then saves time on a
    GPU. On a CPU it needs a C++ compiler."""


PRESETS: dict[str, tuple[str, str]] = {
    "bb": ("vit_b", "ViT-B-16-quickgelu"),
    "bl": ("vit_b", "ViT-L-14-quickgelu"),
    "bl336": ("vit_b", "ViT-L-14-336-quickgelu"),
    "toy": ("tiny", "tiny"),
}
"""SAM and CLIP of each preset."""

SAM_DEFAULT_WEIGHTS: dict[str, str] = {
    "vit_b": "sam_vit_b_01ec64",
    "vit_l": "sam_vit_l_0b3195",
    "vit_h": "sam_vit_h_4b8939",
    "tiny": "shipped",
}
"""The default weights of each SAM architecture."""

SAM2_DEFAULT_WEIGHTS: dict[str, str] = {
    f"{version}_hiera_{size}": f"facebook/{version}-hiera-{size.replace('_', '-')}"
    for version in ("sam2", "sam2.1")
    for size in ("tiny", "small", "base_plus", "large")
}
"""The repository of each SAM 2 on the Hugging Face hub."""

_CLIP_DEFAULT_WEIGHTS = {
    "ViT-B-16-quickgelu": "openai",
    "ViT-L-14-quickgelu": "openai",
    "ViT-L-14-336-quickgelu": "openai",
    "tiny": "shipped",
}


def resolve(config: ModelsConfig) -> ResolvedModels:
    """Fill in the defaults of a configuration.

    Raises:
        ConfigError: The preset or the SAM is unknown, or a CLIP without default weights was chosen
            without weights.
    """
    if config.preset not in PRESETS:
        raise ConfigError(
            f"there is no preset {config.preset!r}; give one of {', '.join(PRESETS)}"
            " (option models.preset)."
        )
    preset_sam, preset_clip = PRESETS[config.preset]
    sam, clip = config.sam or preset_sam, config.clip or preset_clip
    default_weights = SAM_DEFAULT_WEIGHTS | SAM2_DEFAULT_WEIGHTS
    if sam not in default_weights:
        raise ConfigError(
            f"there is no SAM {sam!r}; give one of {', '.join(default_weights)}"
            " (option models.sam)."
        )
    clip_weights = config.clip_weights or _CLIP_DEFAULT_WEIGHTS.get(clip)
    if clip_weights is None:
        raise ConfigError(
            f"CLIP {clip!r} has no default weights: choose some with the option models.clip_weights"
            " (one of open_clip's pretrained tags for it, a path, or random), and check the name:"
            " open_clip.list_pretrained() lists models and tags."
        )
    return ResolvedModels(
        sam=sam,
        sam_weights=config.sam_weights or default_weights[sam],
        clip=clip,
        clip_weights=clip_weights,
        token_site=config.token_site,
    )


def as_exif_policy(text: str) -> ExifPolicy:
    """Return a policy read from a fingerprint; raise a `ConfigError` if it is unknown."""
    if text not in get_args(ExifPolicy):
        raise ConfigError(
            f"the EXIF policy {text!r} is unknown; wanted {' or '.join(get_args(ExifPolicy))}. Use"
            " the RegionSpot that made the cache or head."
        )
    return cast("ExifPolicy", text)
