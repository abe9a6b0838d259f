"""Kinds of open_clip image towers: where each keeps its tokens, and what stands first among them.

The fusion head takes one token for the whole image and one for each patch. A ViT with a class token
has just that. Other towers only have patches, and pool them: there the pooled embedding, which is
as wide as a patch, comes first. A new kind is one more class here and one more line in
`image_tower`.

Shape letters: B images, P patches, T = 1 + P tokens, D the tower's width, E the joint text space.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from regionspot.backbones.extras import needs_extra
from regionspot.core.errors import ConfigError

if TYPE_CHECKING:
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

FirstToken = Literal["class token", "pooled embedding"]
"""What the first token of a feature map is."""

_CLASS: FirstToken = "class token"
_POOLED: FirstToken = "pooled embedding"


class ImageTower(ABC):
    """The image tower of an open_clip model, asked for all its tokens."""

    first_token: FirstToken
    """What the first token is."""
    _kind: str

    @abstractmethod
    def tokens(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the first token and then the patches, row by row, (B, T, D).

        Patches are as they leave the last block, before the tower's final norm.
        """

    def check_can_project(self) -> None:
        """Check that `project` works for this tower, before there is anything to project.

        Raises:
            ConfigError: Single patches of this tower have no place in the joint text space.
        """
        raise self._cannot_project()

    @abstractmethod
    def project(self, features_BTD: Tensor) -> Tensor:
        """Take each token through the tower's own pooling and projection, as if it were alone.

        Args:
            features_BTD: What `tokens` returned, (B, T, D).

        Returns:
            (B, T, E), not normalised. Where the first token is all that the tower itself projects,
            its row is the image's embedding.

        Raises:
            ConfigError: As `check_can_project`.
        """

    def _cannot_project(self) -> ConfigError:
        return ConfigError(
            f"the patches of the image tower {self._kind} cannot be taken into CLIP's text space"
            " one by one, which the method pooled_patches needs. Leave it out of --methods, or use"
            " a CLIP with a plain ViT."
        )


class OpenClipVit(ImageTower):
    """open_clip's own ViT: its class token is there even where the patches are averaged."""

    first_token = _CLASS

    def __init__(self, visual: "VisionTransformer") -> None:
        self._visual, self._kind = visual, type(visual).__name__

    @override
    def tokens(self, pixels_BCHW: Tensor) -> Tensor:
        output = self._visual.forward_intermediates(
            pixels_BCHW,
            indices=1,
            intermediates_only=True,
            output_fmt="NLC",
            output_extra_tokens=True,
        )
        class_B1D, patches_BPD = output["image_intermediates_prefix"], output["image_intermediates"]
        return torch.cat([class_B1D[0], patches_BPD[0]], dim=1)

    @override
    def check_can_project(self) -> None:
        if self._visual.attn_pool is not None:  # CoCa
            raise self._cannot_project()

    @override
    def project(self, features_BTD: Tensor) -> Tensor:
        self.check_can_project()
        projected: Tensor = self._visual.ln_post(features_BTD) @ self._visual.proj
        return projected


class TimmTower(ImageTower):
    """timm's networks in open_clip: SigLIP, PE, EVA-02, ViTamin, ConvNeXt and others."""

    def __init__(self, visual: "TimmModel") -> None:
        self._trunk, self._head = visual.trunk, visual.head
        self._kind = type(visual.trunk).__name__
        self._has_class_token = getattr(visual.trunk, "cls_token", None) is not None
        self.first_token = _CLASS if self._has_class_token else _POOLED

    @override
    def tokens(self, pixels_BCHW: Tensor) -> Tensor:
        if self._has_class_token:
            ((map_BDHW, prefix_BND),) = self._trunk.forward_intermediates(
                pixels_BCHW, indices=1, intermediates_only=True, return_prefix_tokens=True
            )
            first_BD = prefix_BND[:, 0]  # register tokens may follow
        else:
            final, (map_BDHW,) = self._trunk.forward_intermediates(pixels_BCHW, indices=1)
            first_BD = self._trunk.forward_head(final, pre_logits=True)
        patches_BPD = map_BDHW.flatten(2).mT
        if first_BD.shape[1:] != patches_BPD.shape[2:]:
            raise ConfigError(
                f"the image tower {self._kind} pools patches of the width"
                f" {patches_BPD.shape[2]} to a token of the shape {tuple(first_BD.shape[1:])}; the"
                " fusion head takes tokens of one width. Give another CLIP, for instance"
                " ViT-B-16-SigLIP2 (option models.clip)."
            )
        return torch.cat([first_BD[:, None], patches_BPD], dim=1)

    @override
    def check_can_project(self) -> None:
        with needs_extra("extract"):
            from timm.models.eva import Eva
            from timm.models.vision_transformer import VisionTransformer
        trunk = self._trunk
        if not isinstance(trunk, (Eva, VisionTransformer)):
            raise self._cannot_project()
        # Pooling that passes over the class token finds nothing where a token is alone.
        pools_all = trunk.attn_pool is not None and getattr(trunk, "pool_include_prefix", True)
        if trunk.num_prefix_tokens and trunk.global_pool != "token" and not pools_all:
            raise self._cannot_project()

    @override
    def project(self, features_BTD: Tensor) -> Tensor:
        self.check_can_project()
        tokens_BTD = features_BTD if self._has_class_token else features_BTD[:, 1:]
        alone_N1D = self._trunk.norm(tokens_BTD.flatten(0, 1)[:, None])
        projected_NE = self._head(self._trunk.forward_head(alone_N1D))
        projected_BTE: Tensor = projected_NE.unflatten(0, tokens_BTD.shape[:2])
        if self._has_class_token:
            return projected_BTE
        first_BE = self._head(self._trunk.get_classifier()(features_BTD[:, 0]))  # pooled already
        return torch.cat([first_BE[:, None], projected_BTE], dim=1)


class OpenClipResNet(ImageTower):
    """open_clip's ResNets, which pool the last feature map by attention."""

    first_token = _POOLED

    def __init__(self, visual: "ModifiedResNet") -> None:
        self._visual, self._kind = visual, type(visual).__name__

    @override
    def tokens(self, pixels_BCHW: Tensor) -> Tensor:
        output = self._visual.forward_intermediates(pixels_BCHW, indices=1, intermediates_only=True)
        (map_BDHW,) = output["image_intermediates"]
        pooling = self._visual.attnpool
        # Pooling and projection are one module: with the identity for a projection it only pools.
        weight_ED = pooling.c_proj.weight
        identity_DD = torch.eye(weight_ED.shape[1], dtype=weight_ED.dtype, device=weight_ED.device)
        bias_D = torch.zeros_like(identity_DD[0])
        no_projection = {"c_proj.weight": identity_DD, "c_proj.bias": bias_D}
        first_BD = torch.func.functional_call(pooling, no_projection, (map_BDHW,))
        return torch.cat([first_BD[:, None], map_BDHW.flatten(2).mT], dim=1)

    @override
    def project(self, features_BTD: Tensor) -> Tensor:
        raise self._cannot_project()


def image_tower(visual: nn.Module) -> ImageTower:
    """Return the image tower of an open_clip model by its kind.

    Args:
        visual: The model's ``visual``.

    Raises:
        ConfigError: It is of no known kind.
        MissingExtraError: ``open_clip`` is not installed.
    """
    with needs_extra("extract"):
        from open_clip.modified_resnet import ModifiedResNet
        from open_clip.timm_model import TimmModel
        from open_clip.transformer import VisionTransformer
    if isinstance(visual, VisionTransformer):
        return OpenClipVit(visual)
    if isinstance(visual, TimmModel):
        return TimmTower(visual)
    if isinstance(visual, ModifiedResNet):
        return OpenClipResNet(visual)
    raise ConfigError(
        f"the image tower is a {type(visual).__name__}; wanted open_clip's VisionTransformer,"
        " TimmModel or ModifiedResNet (option models.clip)."
    )
