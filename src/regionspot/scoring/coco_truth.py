"""Ground truth of COCO AP: the regions of a cache, or those of an annotation file.

Shape letters: A annotations, C categories.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations import AnnotatedImages, CocoMasks
from regionspot.cache import FeatureCache, read_quarantine
from regionspot.core.errors import CacheMismatchError
from regionspot.core.geometry import xyxy_to_xywh
from regionspot.core.rle_masks import RleMasks


@dataclass(frozen=True, kw_only=True, eq=False)
class CocoGroundTruth:
    """Annotated regions in columns; every class is annotated in every image."""

    name: str
    """What messages call it."""
    image_ids: tuple[int, ...]
    """The images that count, ascending, also those without regions."""
    category_ids: tuple[int, ...]
    """The data set's own id of each class, (C,)."""
    class_names: tuple[str, ...]
    """The name of each class, (C,)."""
    region_images: NDArray[np.int64]
    """The image id of each annotation, (A,)."""
    region_labels: NDArray[np.int64]
    """The class of each annotation, counted from 0, (A,)."""
    boxes_xywh: NDArray[np.float64]
    """Boxes as (x, y, width, height), (A, 4), pixels of the original image."""
    notes: tuple[str, ...] = ()
    """What readers of the figures should know, one sentence each."""
    areas: NDArray[np.float64] | None = None
    """Area of each annotation in square pixels, (A,); None for those of the boxes."""
    is_crowd: NDArray[np.bool_] | None = None
    """Whether it stands for many objects, and predictions in it count neither way, (A,); None if
    none does."""
    masks: RleMasks | None = None
    """Its mask, A in all; None without masks."""
    sizes_hw: Mapping[int, tuple[int, int]] = field(default_factory=dict, repr=False)
    """Height and width of each image in pixels, by id; {} without masks."""

    @classmethod
    def of_cache(cls, cache: FeatureCache) -> Self:
        """Take the annotated regions of a cache as ground truth.

        Images that could not be read when the cache was made count without their regions, which a
        cache does not know.

        Raises:
            CacheMismatchError: The regions of the cache are proposals, whose classes are unknown;
                or two images have one id, as in a cache merged from CSV files.
        """
        if cache.manifest.proposals is not None:
            raise CacheMismatchError(
                f"the regions of {cache.location} are proposals ({cache.manifest.proposals}), whose"
                " classes are unknown. Score them by an annotation file (--annotations), or"
                " evaluate a cache of annotated regions."
            )
        samples = [cache.sample(position) for position in range(len(cache))]
        quarantined = [image.image_id for image in read_quarantine(cache.path)]
        image_ids = sorted([*(sample.image_id for sample in samples), *quarantined])
        repeated = sorted({a for a, b in pairwise(image_ids) if a == b})
        if repeated:
            raise CacheMismatchError(
                f"{cache.location} holds {len(repeated):,} image ids twice, e.g. {repeated[0]}, so"
                " that predictions cannot be told apart. Evaluate its sources one by one."
            )
        return cls(
            name=cache.location,
            image_ids=tuple(image_ids),
            category_ids=tuple(cache.manifest.category_ids),
            class_names=tuple(cache.manifest.vocabulary),
            region_images=np.repeat(
                np.array([sample.image_id for sample in samples], np.int64),
                [sample.num_regions for sample in samples],
            ),
            region_labels=np.concatenate([np.zeros(0, np.int64), *(s.labels for s in samples)]),
            boxes_xywh=np.concatenate(
                [np.zeros((0, 4)), *(xyxy_to_xywh(s.boxes_xyxy) for s in samples)]
            ).astype(np.float64),
        )

    @classmethod
    def of_annotations(cls, annotated: AnnotatedImages, image_ids: Collection[int]) -> Self:
        """Take the regions of an annotation file as ground truth.

        Args:
            annotated: The file, as caching reads it.
            image_ids: The images that count.
        """
        wanted = set(image_ids)
        records = [record for record in annotated.records if record.image_id in wanted]
        return cls(
            name=annotated.name,
            image_ids=tuple(sorted(record.image_id for record in records)),
            category_ids=annotated.category_ids,
            class_names=tuple(annotated.vocabulary),
            region_images=np.repeat(
                np.array([record.image_id for record in records], np.int64),
                [len(record.labels) for record in records],
            ),
            region_labels=np.concatenate([np.zeros(0, np.int64), *(r.labels for r in records)]),
            boxes_xywh=np.concatenate(
                [np.zeros((0, 4)), *(xyxy_to_xywh(r.boxes_xyxy) for r in records)]
            ).astype(np.float64),
        )

    @classmethod
    def of_masks(cls, found: CocoMasks, image_ids: Collection[int]) -> Self:
        """Take the masks of an annotation file as ground truth.

        Args:
            found: The file.
            image_ids: The images that count.
        """
        order = np.argsort(found.category_ids)
        sorted_ids = np.array(found.category_ids, np.int64)[order]
        whole = cls(
            name=str(found.path),
            image_ids=tuple(sorted(found.sizes_hw)),
            category_ids=found.category_ids,
            class_names=found.class_names,
            region_images=found.image_ids,
            region_labels=order[np.searchsorted(sorted_ids, found.region_category_ids)],
            boxes_xywh=found.boxes_xywh,
            notes=found.notes,
            areas=found.areas,
            is_crowd=found.is_crowd,
            masks=found.masks,
            sizes_hw=found.sizes_hw,
        )
        return whole.subset(image_ids)

    @property
    def num_annotations(self) -> int:
        """Annotations that count."""
        return len(self.region_labels)

    def subset(self, image_ids: Collection[int]) -> Self:
        """Keep only some images and their annotations; every class stays."""
        kept = sorted(set(image_ids) & set(self.image_ids))
        rows = np.isin(self.region_images, kept)
        return replace(
            self,
            image_ids=tuple(kept),
            region_images=self.region_images[rows],
            region_labels=self.region_labels[rows],
            boxes_xywh=self.boxes_xywh[rows],
            areas=None if self.areas is None else self.areas[rows],
            is_crowd=None if self.is_crowd is None else self.is_crowd[rows],
            masks=None if self.masks is None else self.masks[rows],
        )
