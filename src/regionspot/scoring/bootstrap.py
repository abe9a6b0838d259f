"""How far figures would move with other images: bootstrap intervals over images (Efron 1979).

As many images as there are get drawn with replacement, figures are computed on each draw, and the
interval covers the middle 95 % of draws. Differences of two methods are taken on the same draws,
where what both find hard cancels out: their intervals are often far narrower than those of the
methods.

Predictions are matched with regions once; a draw then only weights images by how often they were
drawn. hotcoco's own ``compare`` is not used: in the one case tried its intervals were a quarter
narrower than those of a plain bootstrap, in which each draw is a data set of its own.

Shape letters: I images, D draws, C classes, N predictions of a class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations import FREQUENCIES, LvisGroundTruth
from regionspot.core.errors import ConfigError
from regionspot.scoring.ap_scores import IouType
from regionspot.scoring.class_groups import ClassGroup
from regionspot.scoring.coco_truth import CocoGroundTruth
from regionspot.scoring.figures import region_figures
from regionspot.scoring.named import NamedRegions
from regionspot.scoring.predictions import Predictions
from regionspot.scoring.protocols import Protocol
from regionspot.scoring.scorers import scorer_of

CONFIDENCE = 0.95
"""Share of draws that an interval covers."""

_SEED = 2026
_MIN_DRAWS = 20
_CHUNK = 256  # images matched at once: hotcoco lists every pair of class and image, used or not
_THRESHOLDS = 10
_RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Where the middle 95 % of draws lie, in percent."""

    low: float
    high: float

    def text(self) -> str:
        """Return it as it is shown."""
        return f"{self.low:.1f} to {self.high:.1f}"


Intervals = Mapping[str, Interval]
"""Intervals by the name of the figure: AP, AP50, AP75, for LVIS APr, APc, APf, those of
`region_figures`, and of groups of classes by `ClassGroup.figure`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Intervals of several methods on the same draws."""

    of_methods: tuple[Intervals, ...]
    """Of each method."""
    of_differences: tuple[Intervals, ...]
    """Of the first method minus each method."""


def bootstrap_spread(
    truth: LvisGroundTruth | CocoGroundTruth,
    methods: Sequence[Predictions],
    *,
    named: Sequence[Mapping[int, NamedRegions]] = (),
    class_groups: Sequence[ClassGroup] = (),
    num_draws: int,
    protocol: Protocol = "flattened_top300",
    iou_type: IouType = "bbox",
) -> Spread:
    """Compute intervals over draws of images.

    Args:
        truth: The ground truth.
        methods: Predictions of at least one method.
        named: What each method called the regions, by image id, for intervals of `region_figures`;
            {} for a method without these figures, () for none.
        class_groups: Groups of classes, for intervals of their AP.
        num_draws: How often images are drawn.
        protocol: How the predictions were chosen.
        iou_type: Whether boxes or masks are compared.

    Raises:
        ConfigError: There are too few draws for an interval.
        MissingExtraError: hotcoco is not installed.
    """
    check_num_draws(num_draws)
    num_images = len(truth.image_ids)
    generator = np.random.default_rng(_SEED)
    drawn = generator.integers(0, num_images, (num_draws, num_images))
    counts = np.stack([np.bincount(row, minlength=num_images) for row in drawn])
    figures = [
        draw_figures(
            truth, found, counts, class_groups=class_groups, protocol=protocol, iou_type=iou_type
        )
        for found in methods
    ]
    for found, regions in zip(figures, named, strict=False):
        found.update(_draw_region_figures(sorted(truth.image_ids), regions, counts))
    return Spread(
        of_methods=tuple(_intervals(found) for found in figures),
        of_differences=tuple(
            _intervals({name: figures[0][name] - found[name] for name in figures[0].keys() & found})
            for found in figures
        ),
    )


def check_num_draws(num_draws: int) -> None:
    """Check a number of draws; 0 stands for no intervals.

    Raises:
        ConfigError: There are too few draws for an interval.
    """
    if num_draws and num_draws < _MIN_DRAWS:
        raise ConfigError(
            f"--bootstrap is {num_draws}; wanted 0 for no intervals, or {_MIN_DRAWS} or more draws."
        )


def draw_figures(
    truth: LvisGroundTruth | CocoGroundTruth,
    predictions: Predictions,
    counts: NDArray[np.int64],
    *,
    class_groups: Sequence[ClassGroup] = (),
    protocol: Protocol = "flattened_top300",
    iou_type: IouType = "bbox",
) -> dict[str, NDArray[np.float64]]:
    """Compute AP and its kin of a method on draws of images.

    Args:
        truth: The ground truth; its images in ascending order of ids.
        predictions: Predictions of the method.
        counts: How often each image occurs in each draw, (D, I).
        class_groups: Groups of classes with an AP of their own.
        protocol: How the predictions were chosen.
        iou_type: Whether boxes or masks are compared.

    Returns:
        Figures by name, in percent, (D,); NaN in draws without the ground truth that they need.
    """
    precision = _draw_precision(_match(truth, predictions, protocol, iou_type), counts)
    groups = {"AP": np.ones(precision.shape[1], bool)}
    if isinstance(truth, LvisGroundTruth):
        groups |= {
            f"AP{group}": np.array([item.frequency == group for item in truth.categories])
            for group in FREQUENCIES
        }
        names = [item.name for item in truth.categories]
    else:
        names = list(truth.class_names)
    groups |= {group.figure: np.isin(names, group.classes) for group in class_groups}
    found = {name: _mean(precision[:, rows]) for name, rows in groups.items()}
    return found | {"AP50": _mean(precision[:, :, :1]), "AP75": _mean(precision[:, :, 5:6])}


def _draw_region_figures(
    image_ids: Sequence[int], named: Mapping[int, NamedRegions], counts: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Compute `region_figures` on draws of images, (D,) each; NaN where undefined.

    Args:
        image_ids: The images of the draws, in order.
        named: What the method called the regions, by image id.
        counts: How often each image occurs in each draw, (D, I).
    """
    known = [named[image].known if image in named else None for image in image_ids]
    regions = NamedRegions.concatenate(part for part in known if part is not None)
    if len(regions) == 0:
        return {}
    images = np.repeat(np.arange(len(known)), [0 if part is None else len(part) for part in known])
    rows = np.arange(len(regions))
    draws = [region_figures(regions.select(np.repeat(rows, count[images]))) for count in counts]
    return {
        name: np.array([np.nan if draw[name] is None else draw[name] for draw in draws], np.float64)
        for name in draws[0]
    }


@dataclass(slots=True)
class _Matches:
    """What became of the predictions of a class, and its regions."""

    images: list[int] = field(default_factory=list)
    """Image of each prediction, N."""
    scores: list[float] = field(default_factory=list)
    """Its score."""
    is_right: list[NDArray[np.bool_]] = field(default_factory=list)
    """Whether it counts as right, (thresholds, n) each."""
    is_wrong: list[NDArray[np.bool_]] = field(default_factory=list)
    """Whether it counts as wrong; an ignored one counts neither way."""
    region_images: list[int] = field(default_factory=list)
    """Image of each region that counts."""

    def add(self, entry: Mapping[str, Any], *, image: int) -> None:
        """Take over what hotcoco says of the class in an image."""
        ignored = np.array(entry["dtIgnore"], bool).reshape(_THRESHOLDS, -1)
        matched = np.array(entry["dtMatched"], bool).reshape(_THRESHOLDS, -1)
        self.images += [image] * len(entry["dtScores"])
        self.scores += entry["dtScores"]
        self.is_right.append(matched & ~ignored)
        self.is_wrong.append(~matched & ~ignored)
        self.region_images += [image] * int(np.sum(entry["gtInDenominator"]))


def _match(
    truth: LvisGroundTruth | CocoGroundTruth,
    predictions: Predictions,
    protocol: Protocol,
    iou_type: IouType,
) -> list[_Matches]:
    """Match predictions with regions, chunk by chunk of images; return the matches by class."""
    image_ids = sorted(truth.image_ids)
    matches: list[_Matches] = []
    for start in range(0, len(image_ids), _CHUNK):
        chunk = image_ids[start : start + _CHUNK]
        own = predictions.select(np.isin(predictions.image_ids, chunk))
        scorer = scorer_of(truth.subset(chunk), iou_type=iou_type, protocol=protocol)
        evaluation = scorer.match(own, by_size=False)
        matches = matches or [_Matches() for _ in evaluation.params.cat_ids]
        for entry in evaluation.eval_imgs:
            if entry is not None:
                # Ids there are positions among classes and among the images of the chunk.
                matches[entry["category_id"]].add(entry, image=start + entry["image_id"])
    return matches


def _draw_precision(matches: Sequence[_Matches], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the average precision of every draw, class and threshold, (D, C, 10); NaN for none."""
    precision = np.full((len(counts), len(matches), _THRESHOLDS), np.nan)
    for label, found in enumerate(matches):
        num_regions = counts[:, found.region_images].sum(axis=1)
        if not found.region_images:
            continue
        order = np.argsort(-np.array(found.scores), kind="stable")
        images = np.array(found.images, np.int64)[order]
        empty = np.zeros((_THRESHOLDS, 0), bool)
        is_right = np.concatenate([empty, *found.is_right], axis=1)[:, order]
        is_wrong = np.concatenate([empty, *found.is_wrong], axis=1)[:, order]
        for draw in np.flatnonzero(num_regions):
            weights = counts[draw, images]
            precision[draw, label] = _average_precision(
                (is_right * weights).cumsum(axis=1),
                (is_wrong * weights).cumsum(axis=1),
                num_regions[draw],
            )
    return precision


def _average_precision(
    right: NDArray[np.int64], wrong: NDArray[np.int64], num_regions: int
) -> NDArray[np.float64]:
    """Return the mean precision at 101 recall levels, (10,), as COCO and LVIS define it.

    Args:
        right: Number of right predictions among the first n, (10, N).
        wrong: Number of wrong ones.
        num_regions: Regions to find, at least one.
    """
    precision = right / np.maximum(right + wrong, 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    padded = np.concatenate([envelope, np.zeros((_THRESHOLDS, 1))], axis=1)
    return np.array(
        [
            row[np.searchsorted(recall, _RECALLS, side="left")].mean()
            for row, recall in zip(padded, right / num_regions, strict=True)
        ]
    )


def _mean(precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average (D, classes, thresholds) over what is defined, in percent."""
    flat = precision.reshape(len(precision), -1)
    is_defined = ~np.isnan(flat)
    count = is_defined.sum(axis=1)
    total = np.where(is_defined, flat, 0.0).sum(axis=1)
    return np.where(count > 0, 100.0 * total / np.maximum(count, 1), np.nan)


def _intervals(figures: Mapping[str, NDArray[np.float64]]) -> Intervals:
    share = 50 * (1 - CONFIDENCE)
    found = {}
    for name, values in figures.items():
        defined = values[~np.isnan(values)]
        if len(defined):
            low, high = np.percentile(defined, [share, 100 - share])
            found[name] = Interval(low=float(low), high=float(high))
    return found
