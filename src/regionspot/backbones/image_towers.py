"""Feature maps of all kinds of CLIP image towers: a first token, then the patches.

For a ViT with a class token that token is first. For all others (SigLIP, ConvNeXt, ResNet) it is
the tower's own pooled embedding before the projection into the text space: like a class token it
describes the whole image at the width of the patches.

Shape letters: B images, T tokens, P patches, D width of the tower, E the joint text space.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from regionspot.core.errors import ConfigError
from regionspot.core.text import needs_extra

if TYPE_CHECKING:
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

FirstToken = Literal["class token", "pooled embedding"]
"""What the first token of a feature map is."""


class ImageTower(ABC):
    """The image side of a CLIP."""

    first_token: FirstToken
    """What the first token of its feature maps is."""

    @property
    @abstractmethod
    def image_size_hw(self) -> tuple[int, int]:
        """Height and width of the input in pixels."""

    @abstractmethod
    def features(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the feature maps of preprocessed images, (B, T, D)."""

    def check_projects_patches(self) -> None:
        """Raise a `ConfigError` if the tower projects nothing but its pooled embedding."""
        raise _no_place_for_patches(self)

    def project(self, features_BTD: Tensor) -> Tensor:  # noqa: ARG002 - for those that can
        """Project every token of feature maps into the joint text space, (B, T, E)."""
        raise _no_place_for_patches(self)


class ClassTokenVit(ImageTower):
    """open_clip's own ViT: the tokens after the last block, before the final norm."""

    first_token = "class token"  # noqa: S105 - not that kind of token

    def __init__(self, visual: "VisionTransformer") -> None:
        self._visual = visual

    @property
    @override
    def image_size_hw(self) -> tuple[int, int]:
        height, width = self._visual.image_size
        return height, width

    @override
    def features(self, pixels_BCHW: Tensor) -> Tensor:
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
    def check_projects_patches(self) -> None:
        visual = self._visual
        if visual.attn_pool is not None or visual.pool_type != "tok" or visual.proj is None:
            super().check_projects_patches()

    @override
    def project(self, features_BTD: Tensor) -> Tensor:
        self.check_projects_patches()
        projected: Tensor = self._visual.ln_post(features_BTD) @ self._visual.proj
        return projected


class TimmTower(ImageTower):
    """A tower from timm: the last stage before its norm, if it has any; register tokens left out.

    Raises:
        ConfigError: The trunk has no class token, and what it pools has another width.
    """

    def __init__(self, visual: "TimmModel", *, name: str) -> None:
        self._visual, self._name = visual, name
        has_class_token = getattr(visual.trunk, "cls_token", None) is not None
        self.first_token = "class token" if has_class_token else "pooled embedding"
        # Convolutional trunks know of no prefix tokens, and SigLIP's have none.
        self._num_prefix_tokens: int | None = getattr(visual.trunk, "num_prefix_tokens", None)

    @property
    @override
    def image_size_hw(self) -> tuple[int, int]:
        height, width = self._visual.image_size
        return height, width

    @override
    def features(self, pixels_BCHW: Tensor) -> Tensor:
        trunk = self._visual.trunk
        if self._num_prefix_tokens:
            final, (last,) = trunk.forward_intermediates(
                pixels_BCHW, indices=1, output_fmt="NLC", return_prefix_tokens=True
            )
            patches_BPD, prefix_BTD = last
            if self.first_token == "class token":  # noqa: S105
                return torch.cat([prefix_BTD[:, :1], patches_BPD], dim=1)
        else:
            final, (last_BDHW,) = trunk.forward_intermediates(
                pixels_BCHW, indices=1, output_fmt="NCHW"
            )
            patches_BPD = last_BDHW.flatten(2).transpose(1, 2)
        pooled_BD: Tensor = trunk.forward_head(final, pre_logits=True)
        if pooled_BD.shape != (len(patches_BPD), patches_BPD.shape[-1]):
            raise ConfigError(
                f"the image tower of CLIP {self._name} has no class token, and what its trunk pools"
                f" has the shape {tuple(pooled_BD.shape)} where its patches are"
                f" {patches_BPD.shape[-1]} wide: nothing can stand for the class token. Choose"
                " another models.clip, for instance ViT-L-14-quickgelu or ViT-B-16-SigLIP2."
            )
        return torch.cat([pooled_BD[:, None], patches_BPD], dim=1)

    @override
    def check_projects_patches(self) -> None:
        with needs_extra("extract"):
            from timm.models.eva import Eva
            from timm.models.vision_transformer import VisionTransformer
        trunk = self._visual.trunk
        if not isinstance(trunk, (Eva, VisionTransformer)):
            super().check_projects_patches()
        # Pooling that passes over prefix tokens finds nothing where one token is alone.
        pools_all = trunk.attn_pool is not None and getattr(trunk, "pool_include_prefix", True)
        if self._num_prefix_tokens and trunk.global_pool != "token" and not pools_all:
            super().check_projects_patches()

    @override
    def project(self, features_BTD: Tensor) -> Tensor:
        """Take each token through pooling and projection as if the image held nothing else."""
        self.check_projects_patches()
        trunk, head = self._visual.trunk, self._visual.head
        is_pooled = self.first_token == "pooled embedding"  # noqa: S105 - not that kind of token
        tokens_BND = features_BTD[:, 1:] if is_pooled else features_BTD
        alone_M1D = trunk.norm(tokens_BND.flatten(0, 1)[:, None])
        projected_ME: Tensor = head(trunk.forward_head(alone_M1D))
        projected_BNE = projected_ME.unflatten(0, tokens_BND.shape[:2])
        if not is_pooled:
            return projected_BNE
        first_BE = head(trunk.get_classifier()(features_BTD[:, 0]))
        return torch.cat([first_BE[:, None], projected_BNE], dim=1)


class AttentionPooledResNet(ImageTower):
    """OpenAI's ResNet: its last stage, after its attention-pooled embedding, not projected."""

    first_token = "pooled embedding"  # noqa: S105 - not that kind of token

    def __init__(self, visual: "ModifiedResNet") -> None:
        self._visual = visual

    @property
    @override
    def image_size_hw(self) -> tuple[int, int]:
        size = self._visual.image_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    @override
    def features(self, pixels_BCHW: Tensor) -> Tensor:
        output = self._visual.forward_intermediates(pixels_BCHW, indices=1, intermediates_only=True)
        (last_BDHW,) = output["image_intermediates"]
        # Pooling and projection are one module; with the identity in place of the projection it
        # only pools.
        pool = self._visual.attnpool
        identity_DD = torch.eye(last_BDHW.shape[1]).to(last_BDHW)
        no_bias_D = torch.zeros_like(identity_DD[0])
        unprojected = {"c_proj.weight": identity_DD, "c_proj.bias": no_bias_D}
        pooled_BD = torch.func.functional_call(pool, unprojected, (last_BDHW,))
        patches_BPD = last_BDHW.flatten(2).transpose(1, 2)
        return torch.cat([pooled_BD[:, None], patches_BPD], dim=1)


def image_tower(visual: nn.Module, *, name: str = "") -> ImageTower:
    """Wrap the ``visual`` of an open_clip model.

    Args:
        visual: The image side of an open_clip model.
        name: The model's name, for messages.

    Raises:
        ConfigError: It is of an unsupported kind.
    """
    with needs_extra("extract"):
        from open_clip.modified_resnet import ModifiedResNet
        from open_clip.timm_model import TimmModel
        from open_clip.transformer import VisionTransformer
    if isinstance(visual, VisionTransformer):
        return ClassTokenVit(visual)
    if isinstance(visual, TimmModel):
        return TimmTower(visual, name=name)
    if isinstance(visual, ModifiedResNet):
        return AttentionPooledResNet(visual)
    raise ConfigError(
        f"the image tower of CLIP {name} is a {type(visual).__name__}; wanted one of open_clip's"
        " ViTs, ResNets or towers from timm (option models.clip)."
    )


def _no_place_for_patches(tower: ImageTower) -> ConfigError:
    return ConfigError(
        f"this CLIP's image tower ({type(tower).__name__}) cannot project single patches into"
        " its text space, as the method pooled_patches needs. Leave that method out (--methods)."
    )
