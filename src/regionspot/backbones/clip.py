"""CLIP as an encoder: any of open_clip's models, or the tiny one, and their weights.

Errors that are silent elsewhere are raised here: OpenAI's weights in a model with another
activation (0.7 % off), and weights whose position table would have to be resized.

Shape letters: B images, T tokens (the class token or its stand-in first), D CLIP's width, N texts,
L tokens of a text, E the joint text space.
"""

import difflib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from typing_extensions import override

from regionspot.backbones.clip_text import (
    LazyTokenizer,
    Tokenizer,
    WordTokenizer,
    copy_from_hub,
)
from regionspot.backbones.encoder import Encoder, EncoderInfo, Rgb
from regionspot.backbones.execution import FLOAT32, Execution, keep_norms_in_float32
from regionspot.backbones.image_towers import image_tower
from regionspot.backbones.text_towers import embed_texts
from regionspot.backbones.weights import (
    RANDOM,
    SHIPPED,
    as_typed,
    build_frozen,
    freeze,
    is_path,
    shipped_config,
    shipped_weights_path,
)
from regionspot.core.errors import ConfigError, WeightsError
from regionspot.core.text import needs_extra

if TYPE_CHECKING:
    from open_clip.model import CLIP

_logger = logging.getLogger(__name__)
_OPTION = "models.clip_weights"
_QUICK = "-quickgelu"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedClip(EncoderInfo):
    """A frozen CLIP with everything needed to feed it; its name is open_clip's, or "tiny"."""

    model: "CLIP"
    """open_clip's model, frozen, in eval mode."""
    tokenizer: Tokenizer
    """Texts to token ids."""


class OpenClipEncoder(Encoder):
    """Any of open_clip's models, or the tiny CLIP."""

    def __init__(self, loaded: LoadedClip, *, execution: Execution = FLOAT32) -> None:
        """Wrap a CLIP, as from `load_clip`; ``execution`` is that of its image tower."""
        self.clip = loaded
        self._tower = image_tower(loaded.model.visual, name=loaded.name)
        encode = self._tower.features
        super().__init__(loaded.model, loaded, encode=encode, execution=execution)
        if execution.precision != "float32":
            keep_norms_in_float32(loaded.model.visual)

    @classmethod
    @override
    def load(cls, model: str, weights: str, *, execution: Execution = FLOAT32) -> Self:
        return cls(load_clip(model, weights), execution=execution)

    @property
    @override
    def tokenizer(self) -> Tokenizer:
        return self.clip.tokenizer

    @override
    def reference(self) -> Self:
        return type(self)(self.clip)

    @override
    def check_projects_patches(self) -> None:
        self._tower.check_projects_patches()

    @override
    @torch.no_grad()
    def project(self, features_BTD: Tensor) -> Tensor:
        """Project every token of feature maps, (B, T, D), into the text space, (B, T, E).

        CLIP itself does this only to what it pools. Where that is the first token, its row is
        CLIP's image embedding before normalisation. Other tokens are pooled as if alone.
        """
        return self._tower.project(features_BTD)

    @override
    def _embed_images(self, pixels_BCHW: Tensor) -> Tensor:
        embedding_BE: Tensor = self.clip.model.encode_image(pixels_BCHW)
        return embedding_BE

    @override
    def _embed_texts(
        self, texts: list[str], *, batch_size: int, on_batch: Callable[[int], object]
    ) -> Tensor:
        ids_NL = self.tokenizer(texts).to(self.device)
        return embed_texts(self.clip.model, ids_NL, batch_size=batch_size, on_batch=on_batch)


def check_clip_name(model: str) -> None:
    """Raise a `ConfigError` with similar names if there is no such CLIP."""
    with needs_extra("extract"):
        import open_clip
    if model in ("tiny", *open_clip.list_models()):
        return
    near = difflib.get_close_matches(model, open_clip.list_models(), n=4, cutoff=0.5)
    names = near or ["ViT-B-16-quickgelu", "ViT-L-14-quickgelu"]
    raise ConfigError(
        f"open_clip has no model {model!r}. Did you mean {' or '.join(names)}?"
        " open_clip.list_models() lists them all (option models.clip)."
    )


def load_clip(model: str, weights: str) -> LoadedClip:
    """Build a CLIP and load its weights.

    Args:
        model: open_clip's name, for instance "ViT-L-14-quickgelu", or "tiny".
        weights: One of open_clip's pretrained tags, for instance "openai" (downloaded by
            open_clip), path of a file, "random" (the same every time, with a warning), or "shipped"
            (tiny only).

    Returns:
        The model on the CPU in float32, with its tokenizer and properties.

    Raises:
        ConfigError: open_clip has no such model, or its image tower gives no feature map.
        WeightsError: The weights are unknown or unavailable, or do not fit the model.
        MissingFileError: The weights are a path that does not exist.
        MissingExtraError: ``open_clip`` is not installed.
    """
    check_clip_name(model)
    if model == "tiny":
        return _load_tiny(weights)
    import open_clip

    quick = bool(open_clip.get_model_config(model).get("quick_gelu", False))
    if weights == RANDOM or is_path(weights):
        path = None if weights == RANDOM else Path(weights)
        if path is not None:
            _warn_of_activation(model, path, quick=quick)
        clip = build_frozen(partial(_build, model), path, what=f"CLIP {model}", option=_OPTION)
    else:
        clip = _build_pretrained(model, weights, quick=quick)
    return describe_clip(clip, tokenizer=LazyTokenizer(model), name=model, quick_gelu=quick)


def describe_clip(
    clip: "CLIP", *, tokenizer: Tokenizer, name: str, quick_gelu: bool = False
) -> LoadedClip:
    """Freeze an open_clip model in memory, and collect its properties.

    Args:
        clip: A CLIP with square input.
        tokenizer: Its tokenizer.
        name: Its name, for fingerprints and messages.
        quick_gelu: Whether it was built with QuickGELU.

    Raises:
        ConfigError: The image tower gives no feature map, or has no square input.
    """
    tower = image_tower(clip.visual, name=name)
    height, width = tower.image_size_hw
    if height != width:
        raise ConfigError(
            f"CLIP {name} takes images of {height} x {width} pixels; only square inputs are"
            " supported (option models.clip)."
        )
    mean, std = _normalisation(clip)
    freeze(clip)
    # A blank image gives the shapes, which the kinds of towers state in different places.
    blank_1CHW = torch.zeros(1, 3, height, width).to(next(clip.visual.parameters()))
    with torch.no_grad():
        _, num_tokens, feature_dim = tower.features(blank_1CHW).shape
        text_dim = clip.encode_image(blank_1CHW).shape[-1]
    return LoadedClip(
        model=clip,
        tokenizer=tokenizer,
        name=name,
        image_size=height,
        activation="quick_gelu" if quick_gelu else "gelu",
        mean=mean,
        std=std,
        width=feature_dim,
        text_dim=text_dim,
        num_tokens=num_tokens,
        first_token=tower.first_token,
        logit_scale=float(clip.logit_scale.exp()),
    )


def _normalisation(clip: "CLIP") -> tuple[Rgb, Rgb]:
    with needs_extra("extract"):
        from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    config = getattr(clip.visual, "preprocess_cfg", {})
    mean_r, mean_g, mean_b = map(float, config.get("mean", OPENAI_DATASET_MEAN))
    std_r, std_g, std_b = map(float, config.get("std", OPENAI_DATASET_STD))
    return (mean_r, mean_g, mean_b), (std_r, std_g, std_b)


def build_tiny_clip(config: Mapping[str, Any]) -> "CLIP":
    """Build a CLIP with fresh weights, in training mode.

    Args:
        config: As in ``tiny/clip.json``: ``embed_dim``, ``vision_cfg`` and ``text_cfg`` of
            open_clip's model configs, and ``preprocess`` with mean and std.
    """
    with needs_extra("extract"):
        from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, set_model_preprocess_cfg
    clip = CLIP(
        embed_dim=config["embed_dim"],
        vision_cfg=CLIPVisionCfg(**config["vision_cfg"]),
        text_cfg=CLIPTextCfg(**config["text_cfg"]),
    )
    set_model_preprocess_cfg(clip, config["preprocess"])
    return clip


def _load_tiny(weights: str) -> LoadedClip:
    config = shipped_config("clip")
    if weights == RANDOM:
        path = None
    elif weights == SHIPPED or is_path(weights):
        path = shipped_weights_path("clip") if weights == SHIPPED else Path(weights)
    else:
        raise WeightsError(
            f"there are no weights {weights!r} for CLIP tiny; give shipped, a path, or random"
            f" (option {_OPTION})."
        )
    build = partial(build_tiny_clip, config)
    clip = build_frozen(build, path, what="CLIP tiny", option=_OPTION)
    tokenizer = WordTokenizer(
        config["tokenizer"]["words"], context_length=config["text_cfg"]["context_length"]
    )
    return describe_clip(clip, tokenizer=tokenizer, name="tiny")


def _build(model: str) -> "CLIP":
    """Build a model with fresh weights and the normalisation of its released ones."""
    import open_clip
    from open_clip.model import set_model_preprocess_cfg

    root_level = logging.getLogger().level
    # open_clip warns of random weights on the root logger, but these are replaced or intended.
    logging.getLogger().setLevel(logging.ERROR)
    try:
        clip = open_clip.create_model(model, pretrained=None, pretrained_text=False)
    except OSError as error:  # the config of a text tower from transformers is on the hub
        hub_name = open_clip.get_model_config(model)["text_cfg"].get("hf_model_name")
        raise WeightsError(
            f"the text tower of CLIP {model} could not be built ({str(error)[:200]})."
            f" {copy_from_hub(hub_name)}"
        ) from error
    finally:
        logging.getLogger().setLevel(root_level)
    tags = open_clip.list_pretrained_tags_by_model(model)
    cards = [open_clip.get_pretrained_cfg(model, tag) for tag in tags]
    released = [{key: card[key] for key in ("mean", "std")} for card in cards if card.get("mean")]
    if released:
        set_model_preprocess_cfg(clip, released[0])
    if any(other != released[0] for other in released):
        _logger.warning(
            "the released weights of %s differ in how the input is normalised; it is normalised as"
            " for %s. If that is wrong for your weights, give a tag in place of a file.",
            model,
            tags[0],
        )
    return clip


def _build_pretrained(model: str, tag: str, *, quick: bool) -> "CLIP":
    import open_clip

    card = open_clip.get_pretrained_cfg(model, tag)
    if not card:
        tags = open_clip.list_pretrained_tags_by_model(model)
        raise WeightsError(
            f"open_clip has no pretrained tag {tag!r} for {model}; give one of {', '.join(tags)},"
            f" a path to a file, or random (option {_OPTION})."
        )
    if bool(card.get("quick_gelu", False)) != quick:
        other = model.removesuffix(_QUICK) if quick else model + _QUICK
        raise WeightsError(
            f"the weights {tag!r} were trained with {'GELU' if quick else 'QuickGELU'}, but {model}"
            f" uses {'QuickGELU' if quick else 'GELU'}: every feature would be slightly wrong."
            f" Give models.clip={other}."
        )
    try:
        return open_clip.create_model(model, pretrained=tag, require_pretrained=True)
    except (RuntimeError, OSError, ValueError) as error:
        # OpenAI's own files, which the cards also name, are TorchScript, which is refused as code.
        hub = card.get("hf_hub", "").rstrip("/")
        where = f"the .safetensors of https://huggingface.co/{hub}" if hub else card.get("url")
        raise WeightsError(
            f"open_clip could not load the weights {tag!r} of {model} ({error}). Without network"
            f" access, download them on another machine ({where}) and give the file:"
            f" {as_typed(_OPTION, 'open_clip_model.safetensors')}."
        ) from error


def _warn_of_activation(model: str, path: Path, *, quick: bool) -> None:
    """Warn that a file does not state its activation; refuse it if its name is OpenAI's."""
    import open_clip

    if quick or model + _QUICK not in open_clip.list_models():
        return
    if "openai" in path.name.lower():
        raise WeightsError(
            f"{path} is named like OpenAI's weights, which need QuickGELU, but {model} uses GELU:"
            f" every feature would be slightly wrong. Give models.clip={model}{_QUICK}."
        )
    _logger.warning(
        "%s does not state the activation it was trained with; %s uses GELU. If the weights are"
        " OpenAI's, give models.clip=%s%s.",
        path,
        model,
        model,
        _QUICK,
    )
