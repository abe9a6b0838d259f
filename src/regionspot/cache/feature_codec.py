"""Codecs of feature maps: float16, bfloat16, and int8 with separate outliers.

A codec is a subclass of `FeatureCodec` and a row of `CODECS`; the manifest of a cache names it.
Feature maps are decoded where they are used, so int8 is copied to a GPU as int8.

Shape letters: T tokens, D channels, W numbers in a stored row.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from regionspot.core.errors import CacheMismatchError, ConfigError, ShapeError

CodecName = Literal["float16", "bfloat16", "int8"]
"""Names of the codecs in `CODECS`, the choices of ``--codec``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredForm:
    """Dtype and shape of every feature map in a shard."""

    dtype: str
    """NumPy's name of the type with the byte order, such as ``<f2``."""
    shape: tuple[int, int]
    """Number of tokens and width of a stored row, (T, W)."""

    @property
    def num_bytes(self) -> int:
        """Size of a feature map in bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class FeatureCodec(ABC):
    """One way to store feature maps."""

    name: ClassVar[CodecName]
    """Name in manifests and options."""
    dtype: ClassVar[str]
    """NumPy's name of the stored type with the byte order, such as ``<f2``."""
    torch_dtype: ClassVar[torch.dtype]
    """Dtype of stored feature maps as tensors, of the same item size as `dtype`."""

    def row_width(self, feature_dim: int) -> int:
        """Return W, the numbers in a stored row of ``feature_dim`` channels."""
        return feature_dim

    @abstractmethod
    def encode(self, features_TD: Tensor) -> Tensor:
        """Return a feature map as it is stored, on its device.

        Args:
            features_TD: (..., D) in any float dtype, finite.

        Returns:
            (..., W) in `torch_dtype`. Overflow becomes infinite; see `all_finite`.
        """

    @abstractmethod
    def decode(self, stored: Tensor) -> Tensor:
        """Return the feature map, (..., D) in a float dtype, on the device of ``stored``.

        Args:
            stored: (..., W), as `encode` returns it.
        """

    @abstractmethod
    def all_finite(self, stored: NDArray[np.generic]) -> bool:
        """Return whether all numbers of a stored feature map are finite."""

    def form(self, *, num_tokens: int, feature_dim: int) -> StoredForm:
        """Return the stored dtype and shape of feature maps (T, D)."""
        return StoredForm(dtype=self.dtype, shape=(num_tokens, self.row_width(feature_dim)))

    def to_array(self, stored: Tensor) -> NDArray[np.generic]:
        """Return the result of `encode` as the array of a `CachedSample`."""
        return stored.cpu().contiguous().view(torch.uint8).numpy().view(self.dtype)

    def to_tensor(self, stored: NDArray[np.generic]) -> Tensor:
        """Return the array of a `CachedSample` as a tensor for `decode`; a copy."""
        owned = np.array(stored)  # torch does not accept the cache's read-only views
        return torch.from_numpy(owned.view(np.uint8)).view(self.torch_dtype)


class _Rounded(FeatureCodec):
    """A 16-bit float dtype: encoding rounds to nearest, decoding makes no copy."""

    @override
    def encode(self, features_TD: Tensor) -> Tensor:
        return features_TD.to(self.torch_dtype)

    @override
    def decode(self, stored: Tensor) -> Tensor:
        if stored.dtype != self.torch_dtype:
            raise ShapeError(
                f"stored feature maps are {stored.dtype} {tuple(stored.shape)}; wanted"
                f" {self.torch_dtype} for the codec {self.name}."
            )
        return stored


class Float16(_Rounded):
    """Half precision: relative error up to 0.05 %, largest number 65504."""

    name = "float16"
    dtype = "<f2"
    torch_dtype = torch.float16

    @override
    def all_finite(self, stored: NDArray[np.generic]) -> bool:
        return bool(np.isfinite(stored).all())


class BFloat16(_Rounded):
    """The upper half of float32: relative error up to 0.4 %. Its bits are ``<u2`` in NumPy."""

    name = "bfloat16"
    dtype = "<u2"
    torch_dtype = torch.bfloat16

    @override
    def all_finite(self, stored: NDArray[np.generic]) -> bool:
        exponents = np.bitwise_and(stored.view(np.uint16), 0x7F80)
        return bool((exponents != 0x7F80).all())


class Int8(FeatureCodec):
    """int8 with one scale per token, and the 8 largest channels of each token as float16.

    Trained CLIPs have a few channels a hundred times as large as the others; one scale for all
    channels would leave almost no codes for the others.

    A row has W = D + 36 bytes: D codes (0 at outliers); their scale, float32; the channels of the 8
    outliers, ascending, int16; their values, float16. It is decoded to float32.
    """

    name = "int8"
    dtype = "|u1"
    torch_dtype = torch.uint8

    NUM_OUTLIERS: Final = 8
    _ROW_ALIGNMENT: Final = 4
    _SCALE_BYTES, _CHANNEL_BYTES, _VALUE_BYTES = 4, 2 * NUM_OUTLIERS, 2 * NUM_OUTLIERS
    _BYTES_BESIDE: Final = _SCALE_BYTES + _CHANNEL_BYTES + _VALUE_BYTES

    @override
    def row_width(self, feature_dim: int) -> int:
        if not self._can_store(feature_dim):
            raise ConfigError(
                f"--codec is int8, but feature maps are {feature_dim} wide; int8 wants a multiple"
                f" of {self._ROW_ALIGNMENT} above {self.NUM_OUTLIERS}. Use --codec float16."
            )
        return feature_dim + self._BYTES_BESIDE

    @override
    def encode(self, features_TD: Tensor) -> Tensor:
        values = features_TD.float()
        channels = values.abs().topk(self.NUM_OUTLIERS, dim=-1).indices.sort(dim=-1).values
        outliers = values.gather(-1, channels).to(torch.float16)
        rest = values.scatter(-1, channels, 0.0)
        scales = rest.abs().amax(dim=-1, keepdim=True) / 127
        codes = (rest / scales.where(scales > 0, 1.0)).round().to(torch.int8)
        parts = (codes, scales, channels.to(torch.int16), outliers)
        return torch.cat([part.contiguous().view(torch.uint8) for part in parts], dim=-1)

    @override
    def decode(self, stored: Tensor) -> Tensor:
        feature_dim = stored.shape[-1] - self._BYTES_BESIDE
        if stored.dtype != torch.uint8 or not self._can_store(feature_dim):
            raise ShapeError(
                f"stored feature maps are {stored.dtype} {tuple(stored.shape)}; wanted uint8 rows"
                f" of {self._BYTES_BESIDE} bytes more than a feature map is wide for the codec"
                f" {self.name}."
            )
        codes, scales, channels, outliers = stored.split(
            (feature_dim, self._SCALE_BYTES, self._CHANNEL_BYTES, self._VALUE_BYTES), dim=-1
        )
        features = codes.view(torch.int8).float() * scales.view(torch.float32)
        return features.scatter_(
            -1, channels.view(torch.int16).long(), outliers.view(torch.float16).float()
        )

    @override
    def all_finite(self, stored: NDArray[np.generic]) -> bool:
        scale_at = stored.shape[-1] - self._BYTES_BESIDE
        scales = np.ascontiguousarray(stored[..., scale_at : scale_at + self._SCALE_BYTES])
        values = np.ascontiguousarray(stored[..., -self._VALUE_BYTES :])
        return bool(np.isfinite(scales.view("<f4")).all() and np.isfinite(values.view("<f2")).all())

    def _can_store(self, feature_dim: int) -> bool:
        return feature_dim % self._ROW_ALIGNMENT == 0 and feature_dim > self.NUM_OUTLIERS


CODECS: Final[dict[str, FeatureCodec]] = {
    codec.name: codec for codec in (Float16(), BFloat16(), Int8())
}
"""All codecs by name."""


def find_codec(name: str) -> FeatureCodec:
    """Return the codec of a name."""
    codec = CODECS.get(name)
    if codec is None:
        raise CacheMismatchError(
            f"feature maps are stored as {name!r}; this RegionSpot supports"
            f" {', '.join(CODECS)}. Use the RegionSpot that wrote them."
        )
    return codec
