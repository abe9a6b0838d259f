"""One image as the cache stores it. R regions, S token width, T feature tokens, D feature width."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regionspot.cache.feature_codec import CODECS
from regionspot.cache.layout import MAX_KEY_LENGTH, is_key
from regionspot.core.errors import AnnotationError, ShapeError

_STORED_DTYPES = {np.dtype(codec.dtype) for codec in CODECS.values()}


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedSample:
    """Everything that training and evaluation need of one image, so that no backbone runs again.

    Rows of ``boxes_xyxy``, ``labels``, ``box_scores`` and ``position_tokens`` correspond: row ``i``
    is region ``i``. An image may have no region at all (R == 0). A sample that was read from a
    cache holds read-only views into the mapped shard: copy what has to be changed.

    Raises:
        AnnotationError: The key cannot name an image in a shard.
        ShapeError: An array has another dtype or number of rows than stated here, or the size is
            not positive.
    """

    key: str
    """Name of the image in its shard, unique in the cache: 1 to 80 of ``A-Z a-z 0-9 _ -``."""
    image_id: int
    """The data set's own image id."""
    size_hw: tuple[int, int]
    """Height and width of the original image, in pixels."""
    boxes_xyxy: NDArray[np.float32]
    """Boxes of the regions, (R, 4), pixels of the original image."""
    labels: NDArray[np.int64]
    """Class of each region, (R,), counted from 0 in the manifest's vocabulary; -1 for proposals,
    whose class nobody knows."""
    box_scores: NDArray[np.float32]
    """A detector's confidence in each box, (R,), 0..1; 1 for annotated boxes."""
    position_tokens: NDArray[np.float16]
    """The localizer's token of each region, (R, S)."""
    feature_map: NDArray[np.generic]
    """The encoder's tokens of the image, class token first, as they are stored: float16 (T, D), or
    as another codec stores it; `FeatureCache.features` decodes it."""
    num_clipped_regions: int = 0
    """Regions among them whose box was clipped when the image's size became known."""
    num_dropped_regions: int = 0
    """Further regions that were dropped then: outside the image, or equal once clipped."""

    def __post_init__(self) -> None:
        if not is_key(self.key):
            raise AnnotationError(
                f"the image key {self.key!r} cannot name an image in a shard; wanted 1 to"
                f" {MAX_KEY_LENGTH} letters, digits, underscores or hyphens."
            )
        if len(self.size_hw) != 2 or min(self.size_hw) < 1:
            raise ShapeError(
                f"image {self.key}: size_hw is {self.size_hw}; wanted a height and a width of 1 or"
                " more pixels."
            )
        num_regions = len(self.labels)
        self._check("labels", self.labels, np.int64, (num_regions,))
        self._check("box_scores", self.box_scores, np.float32, (num_regions,))
        self._check("boxes_xyxy", self.boxes_xyxy, np.float32, (num_regions, 4))
        self._check("position_tokens", self.position_tokens, np.float16, (num_regions, None))
        if self.feature_map.dtype not in _STORED_DTYPES or self.feature_map.ndim != 2:
            raise ShapeError(
                f"image {self.key}: feature_map is {self.feature_map.dtype}"
                f" {self.feature_map.shape}; wanted float16 (any, any), or what the encode"
                " of another codec gives."
            )

    @property
    def num_regions(self) -> int:
        """Number of regions, R."""
        return len(self.labels)

    @property
    def arrays(self) -> tuple[NDArray[np.generic], ...]:
        """The arrays, in the order in which a shard stores them (`layout.ARRAY_MEMBERS`)."""
        return (
            self.feature_map,
            self.position_tokens,
            self.boxes_xyxy,
            self.labels,
            self.box_scores,
        )

    def _check(
        self,
        name: str,
        array: NDArray[np.generic],
        dtype: type[np.generic],
        shape: tuple[int | None, ...],
    ) -> None:
        fits = len(array.shape) == len(shape) and all(
            wanted is None or found == wanted
            for found, wanted in zip(array.shape, shape, strict=True)
        )
        if not fits or array.dtype != dtype:
            raise ShapeError(
                f"image {self.key}: {name} is {array.dtype} {array.shape}; wanted"
                f" {np.dtype(dtype)}"
                f" ({', '.join('any' if side is None else str(side) for side in shape)}). All"
                " arrays have one row a region, except the feature map."
            )
