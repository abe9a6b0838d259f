"""An image as SAM and CLIP encode it, for any number of questions about it, now or later.

Shape letters: B images, S SAM width, H W SAM's grid, T tokens, D CLIP width.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from regionspot.backbones import FrozenModels
from regionspot.cache import Fingerprint, refuse_differences
from regionspot.core.errors import MissingFileError, RegionSpotError, WeightsError
from regionspot.core.files import canonical_json, is_file, sha256_bytes, write_bytes_atomic

_VERSION = 1
_TENSORS = ("feature_map", "pixels", "sam_embedding")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedImage:
    """One image with the outputs of both frozen image encoders, which take nearly all the time.

    Create one with `RegionSpot.encode_image`, and pass it wherever an image is accepted.
    """

    pixels: NDArray[np.uint8] = field(repr=False)
    """RGB, (H, W, 3)."""
    sam_embedding: Tensor = field(repr=False)
    """SAM's embedding, (S, H, W) float32."""
    feature_map: Tensor = field(repr=False)
    """CLIP's tokens, (T, D) float32."""
    fingerprint: Fingerprint
    """The SAM, CLIP and preprocessing that encoded it."""

    def save(self, path: Path | str) -> None:
        """Write a safetensors file, which appears only when complete.

        It holds the pixels, 3 bytes each, and both encodings as float32.
        """
        tensors = {
            "pixels": torch.from_numpy(np.array(self.pixels)),
            "sam_embedding": self.sam_embedding.cpu().contiguous(),
            "feature_map": self.feature_map.cpu().contiguous(),
        }
        metadata = {
            "encoded_image_version": str(_VERSION),
            "fingerprint": canonical_json(self.fingerprint.to_dict()),
            "sha256": _sha256(tensors),
        }
        write_bytes_atomic(Path(path), safetensors.torch.save(tensors, metadata))

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read the file of `save`, onto the CPU.

        Raises:
            MissingFileError: There is no such file.
            WeightsError: It is not an encoded image, is of another version, or is damaged.
        """
        if not is_file(path):
            raise MissingFileError(
                f"no encoded image at {path}: write one with model.encode_image(image).save(path)."
            )
        try:
            with safetensors.safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return cls._from_file(tensors, metadata)
        except RegionSpotError:
            raise
        except Exception as error:  # a forged header raises more than SafetensorError
            raise WeightsError(
                f"{path} is not a whole encoded image ({type(error).__name__}: {error}). Write it"
                " again with model.encode_image(image).save(path)."
            ) from error

    @classmethod
    def _from_file(cls, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Self:
        version = metadata.get("encoded_image_version")
        if version != str(_VERSION) or sorted(tensors) != sorted(_TENSORS):
            raise ValueError(f"version {version!r} with the tensors {sorted(tensors)}")
        if metadata["sha256"] != _sha256(tensors):
            raise ValueError("its bytes do not match their sha256")
        fingerprint = Fingerprint.from_dict(json.loads(metadata["fingerprint"]))
        pixels, embedding, features = (
            tensors[name] for name in ("pixels", "sam_embedding", "feature_map")
        )
        wanted = (fingerprint.num_feature_tokens, fingerprint.feature_dim)
        is_rgb = pixels.dtype == torch.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
        are_floats = embedding.dtype == features.dtype == torch.float32
        if not (is_rgb and are_floats and embedding.ndim == 3 and features.shape == wanted):
            shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            raise ValueError(f"wrong shapes or dtypes: {shapes}")
        return cls(
            pixels=pixels.numpy(),
            sam_embedding=embedding,
            feature_map=features,
            fingerprint=fingerprint,
        )

    def check_models(self, wanted: Fingerprint) -> None:
        """Raise `CacheMismatchError` if other models encoded the image."""
        refuse_differences(
            self.fingerprint.differences(wanted),
            found="the encoded image",
            wanted="those of this RegionSpot",
            advice="Encode the image again: model.encode_image(image).",
        )


def encode_pixels(
    models: FrozenModels, images: Sequence[NDArray[np.uint8]], fingerprint: Fingerprint
) -> list[EncodedImage]:
    """Encode images of any sizes, (H, W, 3) each, in one batch.

    Args:
        models: The frozen models.
        images: The images' pixels.
        fingerprint: The models' fingerprint, with the EXIF policy that the images were read with.
    """
    if not images:
        return []
    localizer, encoder = models.localizer, models.encoder
    frames_BCHW = torch.stack([localizer.preprocess(pixels) for pixels in images])
    embedded_BSHW = localizer.embed(frames_BCHW)
    squares_BCHW = torch.stack([encoder.preprocess(pixels) for pixels in images])
    features_BTD = encoder.features(squares_BCHW)
    return [
        EncodedImage(
            pixels=pixels, sam_embedding=embedded, feature_map=features, fingerprint=fingerprint
        )
        for pixels, embedded, features in zip(images, embedded_BSHW, features_BTD, strict=True)
    ]


def _sha256(tensors: dict[str, Tensor]) -> str:
    """Hash dtypes, shapes and bytes, in the order of names."""
    parts = [
        f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode()
        + tensors[name].numpy().tobytes()
        for name in sorted(tensors)
    ]
    return sha256_bytes(b"".join(parts))
