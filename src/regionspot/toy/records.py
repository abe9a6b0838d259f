"""Turns scenes into the records of LVIS v1 annotation files.

All fields are as in LVIS: ids, ``coco_url``, lists of categories that are certainly absent or not
exhaustively labelled, run-length masks, synsets and frequencies. See https://www.lvisdataset.org.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from regionspot.core.rle_masks import rle_counts
from regionspot.toy.names import look_of, vocabulary
from regionspot.toy.scenes import Scene

_MIN_AREA = 25
_NUM_NEGATIVES = 40
_NOT_EXHAUSTIVE_SHARE = 0.05
_FEW, _MANY = 10, 100
"""LVIS's thresholds: rare up to 10 training images, common up to 100, frequent above."""


class RunLengths(TypedDict):
    """A mask as COCO stores it."""

    size: list[int]
    counts: str


class ImageEntry(TypedDict):
    """One entry of ``images``."""

    id: int
    coco_url: str
    height: int
    width: int
    neg_category_ids: list[int]
    not_exhaustive_category_ids: list[int]


class AnnotationEntry(TypedDict):
    """One entry of ``annotations``; ``bbox`` is ``[x, y, width, height]`` in pixels."""

    id: NotRequired[int]
    image_id: int
    category_id: int
    bbox: list[float]
    area: float
    segmentation: RunLengths


CategoryEntry = TypedDict(
    "CategoryEntry",
    {
        "id": int,
        "name": str,
        "synset": str,
        "synonyms": list[str],
        "def": str,
        "frequency": str,
        "image_count": int,
        "instance_count": int,
    },
)
"""One entry of ``categories``, with counts over all training sources. (Not a class, as ``def`` is
a keyword.)"""

_CATEGORY_IDS = {name: index for index, name in enumerate(vocabulary(), start=1)}


def category_id(name: str) -> int:
    """Return the category id of a class: its rank in the vocabulary, from 1."""
    return _CATEGORY_IDS[name]


def image_entry(scene: Scene, image_id: int, split: str) -> ImageEntry:
    """Return the entry of an exhaustively labelled image without negatives, as for training.

    The last two components of ``coco_url`` are the path below the world's folder.
    """
    height, width = scene.instances.shape
    return ImageEntry(
        id=image_id,
        coco_url=f"http://toy.invalid/{split}/{image_id:012d}.jpg",
        height=height,
        width=width,
        neg_category_ids=[],
        not_exhaustive_category_ids=[],
    )


def federate(entry: ImageEntry, scene: Scene, rng: np.random.Generator) -> None:
    """Add LVIS's federated lists: 40 absent classes, and 5 % of those present as not exhaustive."""
    present = sorted({category_id(name) for name in scene.names})
    absent = sorted(set(_CATEGORY_IDS.values()) - set(present))
    negatives = rng.choice(absent, _NUM_NEGATIVES, replace=False)
    entry["neg_category_ids"] = sorted(int(one) for one in negatives)
    entry["not_exhaustive_category_ids"] = [
        one for one in present if rng.random() < _NOT_EXHAUSTIVE_SHARE
    ]


def annotation_entries(scene: Scene, entry: ImageEntry) -> list[AnnotationEntry]:
    """Return entries of the visible objects of an image, in drawing order, without ids.

    Slivers under 25 pixels are left out. If a class that is not exhaustively labelled has several
    objects, one is left out, so that the list is true.
    """
    entries = []
    to_skip = {one for one in entry["not_exhaustive_category_ids"] if _count(scene, one) > 1}
    for index, name in enumerate(scene.names):
        mask: NDArray[np.bool_] = scene.instances == index + 1
        area = int(mask.sum())
        if area < _MIN_AREA:
            continue
        if category_id(name) in to_skip:
            to_skip.remove(category_id(name))
            continue
        x1, y1, x2, y2 = (float(v) for v in scene.boxes_xyxy[index])
        entries.append(
            AnnotationEntry(
                image_id=entry["id"],
                category_id=category_id(name),
                bbox=[x1, y1, x2 - x1, y2 - y1],
                area=float(area),
                segmentation=_run_lengths(mask),
            )
        )
    return entries


def _count(scene: Scene, category: int) -> int:
    return sum(category_id(name) == category for name in scene.names)


def _run_lengths(mask: NDArray[np.bool_]) -> RunLengths:
    return RunLengths(size=list(mask.shape), counts=rle_counts(mask).decode("ascii"))


def category_entries(
    labelled: Collection[str],
    image_counts: Mapping[int, int],
    instance_counts: Mapping[int, int],
) -> list[CategoryEntry]:
    """Return entries of the labelled classes, by ascending id.

    Args:
        labelled: Names of the classes.
        image_counts: Training images by category id; missing means none.
        instance_counts: Training objects by category id; missing means none.
    """
    entries = []
    for name in sorted(labelled, key=category_id):
        identity = category_id(name)
        num_images = image_counts.get(identity, 0)
        entries.append(
            CategoryEntry(
                {
                    "id": identity,
                    "name": name,
                    "synset": f"{name.replace(' ', '_')}.n.01",
                    "synonyms": [name],
                    "def": _definition(name),
                    "frequency": "r" if num_images <= _FEW else "c" if num_images <= _MANY else "f",
                    "image_count": num_images,
                    "instance_count": instance_counts.get(identity, 0),
                }
            )
        )
    return entries


def _definition(name: str) -> str:
    look = look_of(name)
    if look.setting is not None:
        return f"a glossy {look.outline} of any colour in a {look.setting} scene"
    return f"a {look.outline} in {look.texture} {look.colour}"


def number_annotations(annotations: Sequence[AnnotationEntry]) -> None:
    """Set the ids of annotations to 1, 2, ... in place."""
    for identity, annotation in enumerate(annotations, start=1):
        annotation["id"] = identity
