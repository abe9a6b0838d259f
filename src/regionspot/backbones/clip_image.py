"""The encoder: the frozen CLIP's image side, from pixels to feature maps.

Shape letters: B images, T tokens (the class token or what stands for it first), D CLIP's width, E
the joint text space.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from regionspot.backbones.clip_models import LoadedClip, Rgb, describe_clip, load_clip
from regionspot.backbones.decode_images import ImageArray, check_image, resize_bilinear
from regionspot.backbones.execution import FLOAT32, Execution, keep_norms_in_float32, to_device
from regionspot.backbones.image_towers import ImageTower, image_tower

if TYPE_CHECKING:
    from open_clip.model import CLIP

__all__ = ["CLIP_RESIZE", "Encoder", "LoadedClip", "describe_clip", "feature_map", "load_clip"]

CLIP_RESIZE = "squash without crop, bilinear antialias uint8 (PIL)"
"""How images become CLIP's input; part of a cache's fingerprint. open_clip's own way crops the
image's ends away, where regions may lie."""


@torch.no_grad()
def feature_map(clip: "CLIP", pixels_BCHW: Tensor) -> Tensor:
    """Return CLIP's tokens after the last block, before its final norm and projection.

    Args:
        clip: An open_clip model.
        pixels_BCHW: Preprocessed images, (B, 3, H, W).

    Returns:
        (B, T, D): the class token, then the patches row by row. Where the image tower has no class
        token, its pooled embedding stands in its place; see `image_towers`.

    Raises:
        ConfigError: The image tower gives no such map.
    """
    return image_tower(clip.visual).features(pixels_BCHW)


class Encoder:
    """The frozen CLIP's image side, with its preprocessing."""

    def __init__(self, loaded: LoadedClip, *, execution: Execution = FLOAT32) -> None:
        """Wrap a CLIP.

        Args:
            loaded: A CLIP, for instance from `load_clip`.
            execution: How the forward passes of its image tower are run.
        """
        self.clip = loaded
        self.execution = execution
        self._encode = execution.compiled(self.tower.features)
        if execution.precision != "float32":
            keep_norms_in_float32(loaded.model.visual)

    @property
    def tower(self) -> ImageTower:
        """The image side, of whatever make."""
        return image_tower(self.clip.model.visual, name=self.clip.name)

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        return self.clip.image_size

    @property
    def width(self) -> int:
        """Width D of the feature map."""
        return self.clip.width

    @property
    def text_dim(self) -> int:
        """Width E of the joint text space."""
        return self.clip.text_dim

    @property
    def num_tokens(self) -> int:
        """Tokens T of a feature map, the class token included."""
        return self.clip.num_tokens

    @property
    def mean(self) -> Rgb:
        """Mean of red, green and blue in 0..1 that the input is normalised with."""
        return self.clip.mean

    @property
    def std(self) -> Rgb:
        """Standard deviation of red, green and blue in 0..1."""
        return self.clip.std

    @property
    def logit_scale(self) -> float:
        """What cosines of image and text embeddings are multiplied with."""
        return self.clip.logit_scale

    @property
    def device(self) -> torch.device:
        """Where CLIP is."""
        return torch.device(self.clip.model.logit_scale.device)

    def to(self, device: torch.device) -> "Encoder":
        """Move CLIP to a device, and return this encoder."""
        self.clip.model.to(device)
        return self

    def resize(self, image: ImageArray) -> Tensor:
        """Squash an image, (H, W, 3) uint8 RGB, to (3, `image_size`, `image_size`) uint8.

        Raises:
            ShapeError: The image is not (H, W, 3) uint8.
        """
        check_image(image)
        squashed = resize_bilinear(image, (self.image_size, self.image_size))
        return torch.from_numpy(squashed).permute(2, 0, 1)

    def normalise(self, resized: Tensor) -> Tensor:
        """Normalise the output of `resize`, (..., 3, H, W) uint8, on CLIP's device."""
        levels = to_device(resized, self.device).float()
        mean = to_device(torch.tensor(self.mean), levels.device)[:, None, None]
        std = to_device(torch.tensor(self.std), levels.device)[:, None, None]
        return (levels / 255 - mean) / std

    def preprocess(self, image: ImageArray) -> Tensor:
        """Turn an image, or a crop of one, into CLIP's input.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            (3, `image_size`, `image_size`) float32, on CLIP's device.

        Raises:
            ShapeError: The image is not (H, W, 3) uint8.
        """
        return self.normalise(self.resize(image))

    @torch.no_grad()
    def features(self, pixels_BCHW: Tensor) -> Tensor:
        """Return the feature maps, (B, T, D) float32, of preprocessed images; see `feature_map`."""
        pixels_BCHW = pixels_BCHW.to(self.device)
        with self.execution.autocast(self.device):
            return self.execution.encode_in_batches(self._encode, pixels_BCHW).float()

    @torch.no_grad()
    def embed_images(self, pixels_BCHW: Tensor) -> Tensor:
        """Return CLIP's ordinary image embeddings, (B, E), unit norm, of preprocessed images."""
        with self.execution.autocast(self.device):
            embedding: Tensor = self.clip.model.encode_image(pixels_BCHW.to(self.device))
        return F.normalize(embedding.float(), dim=-1)

    def reference(self) -> "Encoder":
        """Return an encoder of the same CLIP that runs in float32, not compiled."""
        return Encoder(self.clip)

    @torch.no_grad()
    def project(self, features_BTD: Tensor) -> Tensor:
        """Carry every token of feature maps into the joint text space.

        CLIP itself does this only to what it pools. Where that is the first token, its row is
        CLIP's image embedding before normalisation. Other tokens are pooled as if alone.

        Args:
            features_BTD: Feature maps, (B, T, D).

        Returns:
            (B, T, E), not normalised.

        Raises:
            ConfigError: The image tower cannot take single patches there.
        """
        return self.tower.project(features_BTD)
