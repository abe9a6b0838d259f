"""Reads ids, checks that they stand for one thing each, and turns them into rows of columns."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations.raw import ImageColumns
from regionspot.core.errors import AnnotationError, VocabularyError
from regionspot.core.vocabulary import Vocabulary

_BLOCK = 1 << 16
_WHOLE_NUMBER = re.compile(r"(-?[0-9]{1,20})(\.0*)?")


def whole_number(value: object, *, at_least: int = 0) -> int | None:
    """Return the whole number that a JSON value stands for; None if it stands for none.

    JSON writers that go through float tables turn 480 into 480.0, and those that go through tables
    of text turn it into "480": all are the same number, so that ids meet however each list of a
    file spells them.

    Args:
        value: A value from a JSON file.
        at_least: The smallest number taken; the largest is that of 64 bits with a sign.
    """
    if isinstance(value, str):
        spelled = _WHOLE_NUMBER.fullmatch(value.strip())
        value = None if spelled is None else int(spelled[1])
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if at_least <= value < 2**63 else None


def rows_of(ids: NDArray[np.int64], known_ids: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the position of each id in ``known_ids``, of which there are some; -1 if not there."""
    order = np.argsort(known_ids, kind="stable").astype(np.int32)
    ascending = known_ids[order]
    rows = np.empty(len(ids), np.int32)
    for start in range(0, len(ids), _BLOCK):  # bounds the memory, not the result
        block = ids[start : start + _BLOCK]
        places = np.minimum(np.searchsorted(ascending, block), len(ascending) - 1)
        rows[start : start + _BLOCK] = np.where(ascending[places] == block, order[places], -1)
    return rows


def distinct_images(images: ImageColumns, path: Path) -> tuple[ImageColumns, int]:
    """Leave out images that are listed again, identically; return how many.

    Raises:
        AnnotationError: There is no image, or two different ones have the same id.
    """
    if not len(images):
        raise AnnotationError(f"{path} lists no image. Give a file with at least one image.")
    _, first_rows, groups = np.unique(images.ids, return_index=True, return_inverse=True)
    num_repeated = len(images) - len(first_rows)
    if not num_repeated:
        return images, 0
    first_of = first_rows[groups]
    for row in np.flatnonzero(first_of != np.arange(len(images))).tolist():
        known, again = _described(images, int(first_of[row])), _described(images, row)
        if known != again:
            raise AnnotationError(
                f"{path}: two images have the id {images.ids[row]}: {known} and {again}. Give each"
                " image its own id."
            )
    rows = np.sort(first_rows)
    return ImageColumns(
        ids=images.ids[rows],
        keys=images.keys.take(rows),
        file_names=images.file_names.take(rows),
        sizes_hw=None if images.sizes_hw is None else images.sizes_hw[rows],
    ), num_repeated


def _described(images: ImageColumns, row: int) -> str:
    size_hw = "" if images.sizes_hw is None else f" {tuple(images.sizes_hw[row].tolist())}"
    return f"{images.file_names[row]}{size_hw}"


def vocabulary_of(
    ids: Sequence[int], names: Sequence[str], path: Path
) -> tuple[Vocabulary, tuple[int, ...]]:
    """Return the class names in the order of their category ids, and these ids.

    Raises:
        AnnotationError: An id stands for two names.
        VocabularyError: A class name is empty, occurs twice, or is no text that can be stored.
    """
    by_id: dict[int, str] = {}
    for number, name in zip(ids, names, strict=True):
        known = by_id.setdefault(number, name)
        if known != name:
            raise AnnotationError(
                f"{path}: the category id {number} stands for {known!r} and for {name!r}. Give each"
                " category its own id."
            )
    category_ids = tuple(sorted(by_id))
    try:
        vocabulary = Vocabulary.from_names(by_id[number] for number in category_ids)
        vocabulary.sha256  # noqa: B018 - names that have no UTF-8 form fail here, not in an hour
    except VocabularyError as error:
        raise VocabularyError(
            f"{path}: categories in the order of their ids: {error}{_namesakes(by_id)}"
        ) from error
    except UnicodeEncodeError as error:
        raise VocabularyError(
            f"{path}: the class name {error.object[:40]!r} is no text: it has half of a character"
            " pair (surrogate). Spell it out in the file."
        ) from error
    return vocabulary, category_ids


def synonyms_of(
    vocabulary: Vocabulary, names: Sequence[str], synonyms: Sequence[Sequence[str] | None]
) -> tuple[tuple[str, ...], ...] | None:
    """Return all names of each class, its own first and none twice; None if no file lists any.

    Args:
        vocabulary: The class names, in label order.
        names: The names as the file lists them.
        synonyms: What else the file calls each; blank ones do not count.
    """
    if all(others is None for others in synonyms):
        return None
    by_name = dict(zip(names, synonyms, strict=True))
    return tuple(
        tuple(dict.fromkeys([name, *(other for other in by_name[name] or () if other.strip())]))
        for name in vocabulary
    )


def _namesakes(by_id: dict[int, str]) -> str:
    repeated = [name for name, count in Counter(by_id.values()).items() if count > 1]
    if not repeated:
        return ""
    ids = [str(number) for number in sorted(by_id) if by_id[number] == repeated[0]]
    return f" The categories {' and '.join(ids)} are named {repeated[0]!r}."
