"""LVIS ground truth for a feature cache: the two have to be of the same images and classes."""

from collections.abc import Mapping

from regionspot.annotations import LvisGroundTruth, identities_of_file
from regionspot.cache import MERGED, FeatureCache
from regionspot.core.errors import AnnotationError

_NUM_EXAMPLES = 3


def check_same_data(cache: FeatureCache, truth: LvisGroundTruth, *, option: str) -> tuple[str, ...]:
    """Check that a file lists the images and the classes of a cache.

    Predictions name classes by id, so the ids have to stand for the same names. The file may list
    more than the cache: further images, and classes that are never predicted.

    Args:
        cache: A finished cache.
        truth: The whole file.
        option: What names the file on the command line, for messages.

    Returns:
        What to tell about the file: that the cache was made from another one, and which of its
        annotations are not scored.

    Raises:
        AnnotationError: An image or a class of the cache is not in the file, or a class has another
            name there; shows the first differences.
    """
    images = sorted(set(cache.index.image_ids.tolist()) - set(truth.image_ids))
    ours = dict(zip(cache.manifest.category_ids, cache.manifest.vocabulary, strict=True))
    classes = class_differences(
        ours, {category.id: category.name for category in truth.categories}, where="the cache"
    )
    if images or classes:
        examples = [f"image {number}" for number in images[:_NUM_EXAMPLES]]
        examples += classes[:_NUM_EXAMPLES]
        raise AnnotationError(
            f"{cache.location} holds {len(images):,} images and {len(classes):,} categories that"
            f" {truth.name} does not list by the same id and name ({'; '.join(examples)}). Set"
            f" {option} to the file that {cache.manifest.name!r} was cached from."
        )
    remarks = [f"{truth.name}: {note}" for note in truth.notes]
    if _is_other_file(cache, truth):
        remarks.append(
            f"{truth.name} is not the very file that {cache.location} was cached from (sha256"
            f" {truth.sha256[:12]}, wanted {cache.manifest.annotation_sha256[:12]}); images and"
            " class names fit, so it is scored by this one"
        )
    return tuple(remarks)


def class_differences(
    ours: Mapping[int, str], listed: Mapping[int, str], *, where: str, truth: str = "the file"
) -> list[str]:
    """Say of each class that is another in the ground truth what its id stands for there.

    Args:
        ours: Names by id that predictions are made with.
        listed: Names by id of the ground truth.
        where: What has the former, for messages.
        truth: What has the latter.
    """
    id_of = {name: number for number, name in listed.items()}
    told = []
    for number, name in ours.items():
        if listed.get(number) == name:
            continue
        there = repr(listed[number]) if number in listed else "not listed"
        moved = f", where {name!r} is {id_of[name]}" if name in id_of else ""
        told.append(f"category {number} is {name!r} in {where} and {there} in {truth}{moved}")
    return told


def _is_other_file(cache: FeatureCache, truth: LvisGroundTruth) -> bool:
    """Say whether a cache was certainly made from another file; a merged one does not tell."""
    if cache.manifest.annotation_format == MERGED:
        return False
    return cache.manifest.annotation_sha256 not in identities_of_file(truth.sha256)
