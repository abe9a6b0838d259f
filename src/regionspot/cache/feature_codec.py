"""How feature maps are stored: as float16, as bfloat16, or as int8 with the outliers kept apart.

Trained CLIPs have a few channels that are a hundred times as large as the others. One scale for a
whole token would spend all of int8 on them, so each token keeps its 8 largest channels as float16.
Stored rows are decoded where they are used: int8 travels to the device as int8. What a stored array
is follows from its dtype. Shape letters: T tokens, D channels, W bytes of a row of int8.
"""

import math
from dataclasses import dataclass
from typing import Final, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regionspot.core.errors import CacheMismatchError, ConfigError, ShapeError

FeatureCodec = Literal["float16", "bfloat16", "int8"]
"""Names of the ways in which feature maps are stored."""

NUM_OUTLIERS: Final = 8
"""Channels of a token that int8 keeps as float16."""

_ROW_ALIGNMENT: Final = 4
_SCALE_BYTES, _CHANNEL_BYTES, _VALUE_BYTES = 4, 2 * NUM_OUTLIERS, 2 * NUM_OUTLIERS
_BYTES_BESIDE: Final = _SCALE_BYTES + _CHANNEL_BYTES + _VALUE_BYTES
_NPY_DTYPES: Final = {"float16": "<f2", "bfloat16": "<u2", "int8": "|u1"}
STORED_DTYPES: Final = tuple(np.dtype(name) for name in _NPY_DTYPES.values())
"""NumPy's types of stored feature maps: float16, the bits of bfloat16, rows of int8."""

_TORCH_DTYPES: Final = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.uint8,
}


def check_codec(codec: str, *, feature_dim: int) -> FeatureCodec:
    """Return the codec's name, now known to be one that can store feature maps of a width.

    Raises:
        CacheMismatchError: There is no such codec.
        ConfigError: int8 cannot store this width.
    """
    for known in get_args(FeatureCodec):
        if codec == known:
            break
    else:
        raise CacheMismatchError(
            f"feature maps are stored as {codec!r}; this RegionSpot knows"
            f" {', '.join(get_args(FeatureCodec))}. Use the RegionSpot that wrote them."
        )
    if known == "int8" and (feature_dim % _ROW_ALIGNMENT or feature_dim <= NUM_OUTLIERS):
        raise ConfigError(
            f"--codec is int8, but feature maps are {feature_dim} wide; int8 wants a multiple of"
            f" {_ROW_ALIGNMENT} above {NUM_OUTLIERS}. Use --codec float16."
        )
    return known


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredForm:
    """How every feature map of a cache lies in a shard."""

    dtype: str
    """NumPy's name of the type, with the byte order: ``<f2``, ``<u2`` or ``|u1``."""
    shape: tuple[int, int]
    """Tokens, and numbers of a row: (T, D), or (T, W) for int8."""

    @property
    def num_bytes(self) -> int:
        """Bytes of a feature map."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @classmethod
    def of(cls, codec: FeatureCodec, *, num_tokens: int, feature_dim: int) -> Self:
        """Return the form in which a codec stores feature maps (T, D)."""
        width = feature_dim + _BYTES_BESIDE if codec == "int8" else feature_dim
        return cls(dtype=_NPY_DTYPES[codec], shape=(num_tokens, width))


def stored_dtype(codec: FeatureCodec) -> torch.dtype:
    """Return torch's dtype of stored feature maps: float16, bfloat16, or uint8 for int8's rows."""
    return _TORCH_DTYPES[codec]


def encode_features(features_TD: Tensor, codec: FeatureCodec) -> Tensor:
    """Return a feature map as it is stored, on the device that it is on.

    Args:
        features_TD: Any number of axes before the channels, any float dtype, finite.
        codec: How to store it.

    Returns:
        float16 or bfloat16 (..., D), rounded to nearest. Or uint8 (..., W) with W = D + 36, a row:
        D int8 codes (0 where there is an outlier); their scale, float32; the channels of the 8
        outliers ascending, int16; their values, float16. Numbers too large for float16 become
        infinite; the caller refuses them.
    """
    if codec != "int8":
        return features_TD.to(_TORCH_DTYPES[codec])
    values = features_TD.float()
    channels = values.abs().topk(NUM_OUTLIERS, dim=-1).indices.sort(dim=-1).values
    outliers = values.gather(-1, channels).to(torch.float16)
    rest = values.scatter(-1, channels, 0.0)
    scales = rest.abs().amax(dim=-1, keepdim=True) / 127
    codes = (rest / scales.where(scales > 0, 1.0)).round().to(torch.int8)
    parts = (codes, scales, channels.to(torch.int16), outliers)
    return torch.cat([part.contiguous().view(torch.uint8) for part in parts], dim=-1)


def decode_features(stored: Tensor) -> Tensor:
    """Return feature maps from what a cache stores, on the device that it is on.

    Args:
        stored: As `encode_features` returns it, any number of axes before the last.

    Returns:
        float16 or bfloat16 as they are, without a copy; float32 (..., D) from rows of int8.

    Raises:
        ShapeError: The dtype is none of the three, or rows are too short.
    """
    if stored.dtype in (torch.float16, torch.bfloat16):
        return stored
    width = stored.shape[-1] - _BYTES_BESIDE
    if stored.dtype != torch.uint8 or width <= NUM_OUTLIERS or width % _ROW_ALIGNMENT:
        raise ShapeError(
            f"stored feature maps are {stored.dtype} {tuple(stored.shape)}; wanted float16 or"
            f" bfloat16, or uint8 rows of {_BYTES_BESIDE} bytes more than a feature map is wide."
        )
    codes, scales, channels, outliers = stored.split(
        (width, _SCALE_BYTES, _CHANNEL_BYTES, _VALUE_BYTES), dim=-1
    )
    features = codes.view(torch.int8).float() * scales.view(torch.float32)
    return features.scatter_(
        -1, channels.view(torch.int16).long(), outliers.view(torch.float16).float()
    )


def stored_tensor(stored: NDArray[np.generic]) -> Tensor:
    """Return what a cached sample holds as a tensor for `decode_features`, in memory of its own."""
    owned = np.array(stored)  # the cache's is a read-only view, which torch does not take
    if owned.dtype == np.uint16:
        return torch.from_numpy(owned.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(owned)


def all_finite(stored: NDArray[np.generic]) -> bool:
    """Say whether a feature map as a cached sample holds it has only finite numbers."""
    if stored.dtype == np.uint8:
        scale_at = stored.shape[-1] - _BYTES_BESIDE
        scales = np.ascontiguousarray(stored[..., scale_at : scale_at + _SCALE_BYTES])
        values = np.ascontiguousarray(stored[..., -_VALUE_BYTES:])
        return bool(np.isfinite(scales.view("<f4")).all() and np.isfinite(values.view("<f2")).all())
    if stored.dtype == np.uint16:
        exponents = np.bitwise_and(stored.view(np.uint16), 0x7F80)
        return bool((exponents != 0x7F80).all())
    return bool(np.isfinite(stored).all())


def stored_array(stored: Tensor) -> NDArray[np.generic]:
    """Return what `encode_features` gave as the array that a cached sample holds."""
    on_cpu = stored.cpu().contiguous()
    if on_cpu.dtype == torch.bfloat16:
        return on_cpu.view(torch.int16).numpy().view(np.uint16)
    array: NDArray[np.generic] = on_cpu.numpy()
    return array
