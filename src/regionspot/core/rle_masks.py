"""A column of masks in COCO's compressed run-length encoding (RLE).

The counts must have been checked (`core.run_lengths`) before they come here: pycocotools and
hotcoco believe them.

Shape letter: N masks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from regionspot.core.errors import ShapeError
from regionspot.core.text import needs_extra

_CHUNK = 255  # pycocotools 2.0.11 keeps the number of masks to measure in 8 bits


def rle_counts(mask: NDArray[np.bool_]) -> bytes:
    """Return the counts of a mask, (H, W), in COCO's compressed RLE.

    Raises:
        MissingExtraError: pycocotools is not installed.
    """
    with needs_extra("extract"):
        from pycocotools import mask as coco_mask
    return coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RleMasks:
    """N masks; row ``i`` of both columns is mask ``i``.

    Raises:
        ShapeError: The columns differ in length.
    """

    counts: NDArray[np.object_]
    """Compressed counts of each, `bytes`, (N,). Equal masks may share them."""
    sizes_hw: NDArray[np.int64]
    """Height and width of the image of each in pixels, (N, 2)."""

    def __post_init__(self) -> None:
        if self.counts.ndim != 1 or self.sizes_hw.shape != (len(self.counts), 2):
            raise ShapeError(
                f"masks have counts {self.counts.shape} and sizes {self.sizes_hw.shape}; wanted"
                " (N,) and (N, 2)."
            )

    @classmethod
    def of_lists(cls, counts: Sequence[bytes], sizes_hw: Sequence[tuple[int, int]]) -> Self:
        """Make a column of counts and sizes."""
        column = np.empty(len(counts), np.object_)
        column[:] = counts
        return cls(counts=column, sizes_hw=np.array(sizes_hw, np.int64).reshape(-1, 2))

    @classmethod
    def concatenate(cls, parts: Iterable["RleMasks"]) -> Self:
        """Join columns in the order given."""
        found: list[RleMasks] = [cls.of_lists([], []), *parts]
        return cls(
            counts=np.concatenate([part.counts for part in found]),
            sizes_hw=np.concatenate([part.sizes_hw for part in found]),
        )

    @classmethod
    def of_pixels(cls, masks: Iterable[NDArray[np.bool_]], size_hw: tuple[int, int]) -> Self:
        """Encode the masks of one image, (H, W) bool each.

        Raises:
            MissingExtraError: pycocotools is not installed.
        """
        counts = [rle_counts(mask) for mask in masks]
        return cls.of_lists(counts, [size_hw] * len(counts))

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> "RleMasks":
        """Return the masks chosen by a mask (N,) or by indices, in that order."""
        return RleMasks(counts=self.counts[rows], sizes_hw=self.sizes_hw[rows])

    def to_coco(self) -> list[dict[str, Any]]:
        """Return each mask as pycocotools takes it: ``{"size": [height, width], "counts": b}``.

        Equal masks are one object, so do not change any.
        """
        masks, numbers = self._distinct()
        return [masks[number] for number in numbers]

    def areas(self) -> NDArray[np.float64]:
        """Return the number of pixels of each mask, (N,)."""
        return self._measured("area", np.zeros(0))

    def boxes_xywh(self) -> NDArray[np.float64]:
        """Return the box around each mask, (N, 4); zeros for an empty mask."""
        return self._measured("toBbox", np.zeros((0, 4)))

    def _measured(self, name: str, empty: NDArray[np.float64]) -> NDArray[np.float64]:
        with needs_extra("eval"):
            from pycocotools import mask as coco_mask
        masks, numbers = self._distinct()
        measure = getattr(coco_mask, name)
        chunks = [measure(masks[i : i + _CHUNK]) for i in range(0, len(masks), _CHUNK)]
        return np.concatenate([empty, *chunks])[numbers]

    def _distinct(self) -> tuple[list[dict[str, Any]], list[int]]:
        """Return the different masks, and the number of each mask among them, (N,).

        A region is predicted as many classes, always with its one mask.
        """
        number_of: dict[tuple[bytes, int, int], int] = {}
        rows = zip(self.counts, *self.sizes_hw.T.tolist(), strict=True)
        numbers = [number_of.setdefault(row, len(number_of)) for row in rows]
        masks = [{"size": [height, width], "counts": one} for one, height, width in number_of]
        return masks, numbers
