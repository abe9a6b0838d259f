"""The steps of recognition as programs with plain tensors as inputs, for torch.export and ONNX.

Four programs lead from pixels and boxes to names: SAM's image encoder, its decoder of position
tokens, CLIP's image tower, and the head, which takes the embeddings of names as an input.

Shape letters: B images, R regions, S width of position tokens, T feature tokens, D width of the
feature map, C classes, E text width, H W a grid or an image.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from typing_extensions import override

from regionspot.backbones import (
    FrozenModels,
    OpenClipEncoder,
    SamLocalizer,
    SamPrompts,
    TokenSite,
    decode_tokens,
    encode_image,
    image_tower,
)
from regionspot.core.errors import ConfigError
from regionspot.model import TrainedHead

if TYPE_CHECKING:
    from open_clip.model import CLIP
    from segment_anything.modeling import Sam

CARD_KEY: Final = "regionspot_head_card"
"""Key of the head's card in the metadata of its file."""

# Sizes of the example inputs of dynamic axes: all different, so that torch.export relates none.
_IMAGES, _REGIONS, _CLASSES = 2, 3, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A step of recognition, ready to be exported."""

    name: str
    """Name of the step, and of its file."""
    module: nn.Module
    """Computes the step, on the CPU in eval mode."""
    inputs: Mapping[str, Tensor]
    """An example of each input, in the order of the arguments of ``module``."""
    outputs: tuple[str, ...]
    """Names of the outputs, in order."""
    axes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """Names of the axes of any length, by input; all other axes have the length of the example."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Texts to store in the step's file, by key."""

    @property
    def dynamic_shapes(self) -> tuple[dict[int, Dim], ...]:
        """The axes of any length of each input, as `torch.export.export` takes them."""
        return tuple(
            {axis: Dim(axis_name) for axis, axis_name in self.axes.get(name, {}).items()}
            for name in self.inputs
        )

    def exported(self) -> ExportedProgram:
        """Return the step as a program of `torch.export`, which can be saved and loaded."""
        with torch.no_grad():
            return torch.export.export(
                self.module, tuple(self.inputs.values()), dynamic_shapes=self.dynamic_shapes
            )


def head_program(trained_head: TrainedHead, num_tokens: int) -> Program:
    """Return the fusion head with its classifier, for any numbers of images, regions and classes.

    Inputs are ``position_tokens`` (B, R, S), ``feature_map`` (B, T, D), ``region_mask`` (B, R)
    bool, ``text`` (C, E), and for a head with guidance ``boxes`` (B, R, 4) relative to the image.
    Outputs are ``logits`` and ``probabilities``, (B, R, C), and ``embeddings``, (B, R, E), not
    normalised. All numbers are float32.

    Args:
        trained_head: The head, on the CPU.
        num_tokens: Tokens of a feature map (T).

    Raises:
        ConfigError: The head is guided by masks.
    """
    spec = trained_head.head.spec
    if spec.needs_masks:
        raise ConfigError(
            "the head is guided by masks (guidance_region 'mask'), which cannot be exported. Export"
            " one that is guided by boxes."
        )
    regions = {0: "images", 1: "regions"}
    inputs = {
        "position_tokens": torch.zeros(_IMAGES, _REGIONS, spec.token_dim),
        "feature_map": torch.zeros(_IMAGES, num_tokens, spec.feature_dim),
        "region_mask": torch.ones(_IMAGES, _REGIONS, dtype=torch.bool),
        "text": torch.zeros(_CLASSES, spec.text_dim),
    }
    axes = {
        "position_tokens": regions,
        "feature_map": {0: "images"},
        "region_mask": regions,
        "text": {0: "classes"},
    }
    if spec.guidance != "none":
        inputs["boxes"] = torch.zeros(_IMAGES, _REGIONS, 4)
        axes["boxes"] = regions
    return Program(
        name="head",
        module=_Head(trained_head).eval(),
        inputs=inputs,
        outputs=("logits", "probabilities", "embeddings"),
        axes=axes,
        metadata={CARD_KEY: trained_head.card.to_json()},
    )


def chain_programs(trained_head: TrainedHead, models: FrozenModels) -> list[Program]:
    """Return SAM's image encoder, the token decoder, CLIP's image tower and the head, in order.

    The first three take one image. ``sam_encoder`` turns ``pixels`` (1, 3, H, W) into
    ``image_embedding``; ``token_decoder`` turns that and ``boxes`` (R, 4), in pixels of SAM's
    frame, into ``position_tokens`` (R, S); ``clip_encoder`` turns ``pixels`` (1, 3, H, W) into
    ``feature_map`` (1, T, D). For the head, see `head_program`.

    Args:
        trained_head: The head, on the CPU.
        models: The frozen models that it was trained on, on the CPU in float32.

    Raises:
        ConfigError: As `exportable_models`.
    """
    localizer, encoder = exportable_models(models)
    frame = torch.zeros(1, 3, localizer.image_size, localizer.image_size)
    square = torch.zeros(1, 3, encoder.info.image_size, encoder.info.image_size)
    prompts = localizer.sam.prompt_encoder
    embedding = torch.zeros(1, prompts.embed_dim, *prompts.image_embedding_size)
    return [
        Program(
            name="sam_encoder",
            module=_SamEncoder(localizer.sam).eval(),
            inputs={"pixels": frame},
            outputs=("image_embedding",),
        ),
        Program(
            name="token_decoder",
            module=_TokenDecoder(localizer.sam, localizer.token_site).eval(),
            inputs={"image_embedding": embedding, "boxes": torch.zeros(_REGIONS, 4)},
            outputs=("position_tokens",),
            axes={"boxes": {0: "regions"}},
        ),
        Program(
            name="clip_encoder",
            module=_ClipEncoder(encoder.clip.model, encoder.info.name).eval(),
            inputs={"pixels": square},
            outputs=("feature_map",),
        ),
        head_program(trained_head, encoder.info.num_tokens),
    ]


def exportable_models(models: FrozenModels) -> tuple[SamLocalizer, OpenClipEncoder]:
    """Return the frozen models.

    Raises:
        ConfigError: They are not a SAM of the first generation and a CLIP of open_clip.
    """
    localizer, encoder = models.localizer, models.encoder
    if not isinstance(localizer, SamLocalizer) or not isinstance(encoder, OpenClipEncoder):
        raise ConfigError(
            f"the head was trained on {localizer.model_name} and {encoder.info.name}; only a SAM of"
            " the first generation (vit_b, vit_l, vit_h, tiny) and a CLIP of open_clip can be"
            " exported. Export the head alone: leave out --chain."
        )
    return localizer, encoder


class _Head(nn.Module):
    def __init__(self, trained_head: TrainedHead) -> None:
        super().__init__()
        self.head = trained_head.head
        self.classifier = trained_head.classifier

    @override
    def forward(
        self,
        position_tokens_BRS: Tensor,
        feature_map_BTD: Tensor,
        region_mask_BR: Tensor,
        text_CE: Tensor,
        boxes_BR4: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        z_BRE = self.head(position_tokens_BRS, feature_map_BTD, region_mask_BR, boxes_BR4)
        logits_BRC = self.classifier(z_BRE, text_CE)
        return logits_BRC, logits_BRC.softmax(dim=-1), z_BRE


class _SamEncoder(nn.Module):
    def __init__(self, sam: "Sam") -> None:
        super().__init__()
        self.encoder = sam.image_encoder

    @override
    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        return encode_image(self.encoder, pixels_BCHW)


class _TokenDecoder(nn.Module):
    def __init__(self, sam: "Sam", token_site: TokenSite) -> None:
        super().__init__()
        self.sam = sam
        self._token_site = token_site

    @override
    def forward(self, image_embedding_1SHW: Tensor, boxes_R4: Tensor) -> Tensor:
        prompts = SamPrompts(boxes_xyxy_sam=boxes_R4)
        tokens_RS, _ = decode_tokens(self.sam, image_embedding_1SHW, prompts, site=self._token_site)
        return tokens_RS


class _ClipEncoder(nn.Module):
    def __init__(self, clip: "CLIP", name: str) -> None:
        super().__init__()
        self.visual = clip.visual
        self._tower = image_tower(clip.visual, name=name)

    @override
    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        return self._tower.features(pixels_BCHW)
