"""One image as the cache stores it. R regions, S token width, T feature tokens, D feature width."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regionspot.cache.feature_codec import CODECS, StoredForm
from regionspot.cache.layout import MAX_KEY_LENGTH, is_key
from regionspot.core.errors import AnnotationError, ShapeError
from regionspot.core.files import is_below

_STORED_DTYPES = {np.dtype(codec.dtype) for codec in CODECS.values()}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDetails:
    """What version 4 of the format stores of an image beside what training reads.

    All are None in a cache of version 3.
    """

    file_name: str | None = None
    """The image's file, below the folder of the images."""
    predicted_iou: NDArray[np.float32] | None = None
    """The IoU that SAM predicts for its mask of each region, (R,), about 0..1 but not clamped."""
    masks_rle: tuple[bytes, ...] | None = None
    """SAM's mask of each region at the original image's size, R strings: ``counts`` of COCO's
    compressed RLE, which `decode_masks` decodes. None in a cache without masks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedSample:
    """Everything that training and evaluation need of one image, so that no backbone runs again.

    Row ``i`` of ``boxes_xyxy``, ``labels``, ``box_scores`` and ``position_tokens`` is region ``i``.
    An image may have no regions (R == 0). The arrays of a sample from a cache are read-only views
    into the mapped shard; copy them to change them.

    Raises:
        AnnotationError: The key cannot name an image in a shard, or the file name is not one below
            a folder.
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
    """Class of each region, (R,), an index into the manifest's vocabulary; -1 for proposals, whose
    class is unknown."""
    box_scores: NDArray[np.float32]
    """A detector's confidence in each box, (R,), 0..1; 1 for annotated boxes."""
    position_tokens: NDArray[np.float16]
    """The localizer's token of each region, (R, S)."""
    feature_map: NDArray[np.generic]
    """The encoder's tokens of the image, class token first, as stored by the codec: (T, D) for
    float16. `FeatureCache.features` decodes it."""
    predicted_iou: NDArray[np.float32] | None = None
    """See `ImageDetails`, as the next two."""
    masks_rle: tuple[bytes, ...] | None = None
    file_name: str | None = None
    num_clipped_regions: int = 0
    """Number of these regions whose box was clipped to the image."""
    num_dropped_regions: int = 0
    """Number of further regions that were dropped: outside the image, or equal once clipped."""

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
        if self.file_name is not None and not is_below(self.file_name):
            raise AnnotationError(
                f"image {self.key}: the file name {self.file_name!r} is not a path below the images"
                " folder."
            )
        num_regions = len(self.labels)
        self._check("labels", self.labels, np.int64, num_regions)
        self._check("box_scores", self.box_scores, np.float32, num_regions)
        self._check("boxes_xyxy", self.boxes_xyxy, np.float32, num_regions, 4)
        self._check("position_tokens", self.position_tokens, np.float16, num_regions, None)
        if self.predicted_iou is not None:
            self._check("predicted_iou", self.predicted_iou, np.float32, num_regions)
        if self.masks_rle is not None and len(self.masks_rle) != num_regions:
            raise ShapeError(
                f"image {self.key}: {len(self.masks_rle)} masks of {num_regions} regions; wanted"
                " one a region."
            )
        if self.feature_map.dtype not in _STORED_DTYPES or self.feature_map.ndim != 2:
            raise ShapeError(
                f"image {self.key}: feature_map is {self.feature_map.dtype}"
                f" {self.feature_map.shape}; wanted float16 (any, any), or the output"
                " of another codec."
            )

    @property
    def num_regions(self) -> int:
        """Number of regions, R."""
        return len(self.labels)

    @property
    def arrays(self) -> tuple[NDArray[np.generic], ...]:
        """The arrays that training reads, in the order of `layout.ARRAY_MEMBERS`."""
        return (
            self.feature_map,
            self.position_tokens,
            self.boxes_xyxy,
            self.labels,
            self.box_scores,
        )

    def _check(
        self, name: str, array: NDArray[np.generic], dtype: type[np.generic], *shape: int | None
    ) -> None:
        wanted = tuple(
            found if side is None else side for found, side in zip(array.shape, shape, strict=False)
        )
        if array.ndim != len(shape) or array.shape != wanted or array.dtype != dtype:
            sides = ", ".join("any" if side is None else str(side) for side in shape)
            raise ShapeError(
                f"image {self.key}: {name} is {array.dtype} {array.shape}; wanted"
                f" {np.dtype(dtype)} ({sides}). All arrays have one row a region, except the"
                " feature map."
            )


def data_bytes(
    form: StoredForm, token_dim: int, num_regions: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Return the bytes of the data of each member but ``json``, (N, 7), columns as `MEMBERS[1:]`.

    For arrays it is what follows the header. For masks it is the least: a letter and a line feed.

    Args:
        form: Dtype and shape of feature maps.
        token_dim: Width of position tokens, S.
        num_regions: Number of regions of each image, (N,).
    """
    # feature map, token, box, label, box score, predicted IoU, mask
    per_region = np.array([0, 2 * token_dim, 4 * 4, 8, 4, 4, 2])
    per_image = np.array([form.num_bytes, 0, 0, 0, 0, 0, 0])
    return per_region * num_regions.astype(np.int64)[:, None] + per_image
