"""COCO average precision of the regions of a cache, by hotcoco.

For data without federated labels: every class counts in every image. Precision and recall are equal
to those of ``pycocotools`` in every bit (tests/parity/test_coco_ap.py).

Shape letters: A annotations, C categories.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations import AnnotatedImages
from regionspot.cache import FeatureCache, read_quarantine
from regionspot.core.errors import AnnotationError, CacheMismatchError
from regionspot.core.geometry import xyxy_to_xywh
from regionspot.scoring.ap_scores import (
    SIZES,
    ApScores,
    CategoryScore,
    Scorer,
    check_scorer,
    curves,
    import_hotcoco,
    match,
    mean_curve,
    mean_percent,
)
from regionspot.scoring.coco_reference import reference_coco_curves
from regionspot.scoring.predictions import Predictions

COCO_MAX_DETECTIONS = 100
"""COCO scores this many predictions of a class in an image."""

_AP50, _AP75 = 0, 5  # positions among the IoU thresholds 0.50, 0.55, ..., 0.95


@dataclass(frozen=True, kw_only=True, eq=False)
class CocoGroundTruth:
    """Annotated boxes in columns; every class is annotated in every image."""

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
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Detections:
    """Predictions with ranks in place of ids: positions among images and classes."""

    images: NDArray[np.int64]
    """Position of the image of each among those of the ground truth, (N,)."""
    labels: NDArray[np.int64]
    """Class of each, counted from 0, (N,)."""
    boxes_xywh: NDArray[np.float64]
    """Boxes, (N, 4)."""
    scores: NDArray[np.float64]
    """Confidences, (N,)."""


class CocoScorer:
    """Scores many sets of predictions against one ground truth, which is indexed once."""

    def __init__(self, truth: CocoGroundTruth, *, scorer: Scorer = "hotcoco") -> None:
        """Index the ground truth.

        Raises:
            ConfigError: There is no such scorer.
            MissingExtraError: hotcoco is not installed.
        """
        check_scorer(scorer)
        self._truth = truth
        self._scorer = scorer
        self._image_ids = np.array(truth.image_ids, np.int64)
        self._region_images = np.searchsorted(self._image_ids, truth.region_images)
        self._hotcoco = import_hotcoco()
        self._indexed = self._index()

    def score(self, predictions: Predictions) -> ApScores:
        """Score predictions.

        Raises:
            AnnotationError: Predictions name images or categories that the ground truth lacks.
        """
        found = self._ranked(predictions)
        theirs = None
        if self._scorer == "reference":
            theirs = reference_coco_curves(
                num_images=len(self._image_ids),
                num_classes=len(self._truth.category_ids),
                truth=(self._region_images, self._truth.region_labels, self._truth.boxes_xywh),
                detections=(found.images, found.labels, found.boxes_xywh, found.scores),
            )
        return self._summarize(*(theirs or curves(self._matched(found))))

    def match(self, predictions: Predictions, *, by_size: bool = True) -> Any:
        """Return hotcoco's evaluator after it has matched predictions with the ground truth.

        Args:
            predictions: What to match.
            by_size: Whether to match within small, medium and large regions, too.
        """
        return self._matched(self._ranked(predictions), by_size=by_size)

    def _matched(self, found: Detections, *, by_size: bool = True) -> Any:
        table = np.column_stack(
            [found.images, found.boxes_xywh, found.scores, found.labels]
        ).astype(np.float64)
        detections = self._indexed.load_res(table)
        evaluation = self._hotcoco.COCOeval(self._indexed, detections, "bbox")
        return match(evaluation, by_size=by_size)

    def _index(self) -> Any:
        return self._hotcoco.COCO.from_arrays(
            [{"id": rank} for rank in range(len(self._image_ids))],
            [{"id": rank, "name": name} for rank, name in enumerate(self._truth.class_names)],
            self._region_images,
            self._truth.region_labels,
            self._truth.boxes_xywh,
        )

    def _ranked(self, predictions: Predictions) -> Detections:
        category_ids = np.array(self._truth.category_ids, np.int64)
        order = np.argsort(category_ids, kind="stable")
        for what, found, known in (
            ("images", predictions.image_ids, self._image_ids),
            ("categories", predictions.category_ids, category_ids),
        ):
            strange = np.setdiff1d(found, known)
            if len(strange):
                raise AnnotationError(
                    f"predictions name {len(strange)} {what} that {self._truth.name} does not"
                    f" hold, e.g. id {strange[0]}. They were made for other data."
                )
        return Detections(
            images=np.searchsorted(self._image_ids, predictions.image_ids),
            labels=order[np.searchsorted(category_ids[order], predictions.category_ids)],
            boxes_xywh=predictions.boxes_xywh,
            scores=predictions.scores,
        )

    def _summarize(self, precision: NDArray[np.float64], recall: NDArray[np.float64]) -> ApScores:
        """Average precision (IoU, recall, C, size) and recall (IoU, C, size)."""
        everywhere = precision[..., 0]
        sizes = {f"AP{size[0]}": mean_percent(precision[..., i]) for i, size in enumerate(SIZES)}
        recalls = {f"AR{size[0]}": mean_percent(recall[..., i]) for i, size in enumerate(SIZES)}
        counts = np.bincount(self._truth.region_labels, minlength=len(self._truth.category_ids))
        return ApScores(
            AP=sizes.pop("APa"),
            AP50=mean_percent(everywhere[_AP50]),
            AP75=mean_percent(everywhere[_AP75]),
            **sizes,
            AR=recalls.pop("ARa"),
            **recalls,
            precision50=mean_curve(everywhere[_AP50]),
            per_category=tuple(
                CategoryScore(
                    category_id=number,
                    name=name,
                    frequency=None,
                    num_annotations=int(counts[label]),
                    AP=mean_percent(everywhere[..., label]),
                )
                for label, (number, name) in enumerate(
                    zip(self._truth.category_ids, self._truth.class_names, strict=True)
                )
            ),
        )
