"""Where a method goes wrong: which classes it confuses, how sure it is, in which images.

All of it follows from `NamedRegions`, so that it costs nothing beyond the evaluation itself.

Shape letters: N regions, C classes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regionspot.scoring.named import NamedRegions

NUM_BINS = 15
"""Bins of equal width over probability, as in the expected calibration error."""

_CROWDS = ((1, 2), (3, 5), (6, 10), (11, 20), (21, None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Regions of one class that were called another."""

    true_name: str
    """The annotated class, or a word of its name."""
    predicted_name: str
    """What they were called."""
    count: int
    """How many."""
    share: float
    """Their share of all regions of the annotated class (or word), 0..1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WordAccuracy:
    """How often one word of a name is right, in vocabularies whose names have equal lengths."""

    position: int
    """Which word, counted from 1."""
    accuracy: float
    """Share of regions whose predicted name has the right word there, 0..1."""
    confusions: tuple[Confusion, ...]
    """The words that are confused most often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """Regions whose predicted class has a probability in one bin."""

    confidence: float
    """Mean probability, 0..1."""
    accuracy: float
    """Share that is right, 0..1."""
    count: int
    """Number of regions, more than 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrowdAccuracy:
    """Top-1 accuracy in images with a similar number of regions."""

    label: str
    """The numbers of regions, e.g. ``3 to 5``."""
    num_regions: int
    """Regions in such images."""
    accuracy: float
    """Share that is right, 0..1."""


def confusions(
    regions: NamedRegions, names: Sequence[str], *, most: int = 12
) -> tuple[Confusion, ...]:
    """Return the pairs of classes that are confused most often.

    Args:
        regions: What a method called each region.
        names: Class names, C.
        most: How many pairs.
    """
    known = regions.known
    pairs = zip(known.labels.tolist(), known.predicted.tolist(), strict=True)
    named = [(names[true], names[predicted]) for true, predicted in pairs]
    return _most_frequent(named, most)


def word_accuracies(
    regions: NamedRegions, names: Sequence[str], *, most: int = 4
) -> tuple[WordAccuracy, ...]:
    """Return which word of a name is wrong, e.g. colour and shape of ``dotted red star``.

    Args:
        regions: What a method called each region.
        names: Class names, C. Only names of the most frequent number of words are compared.
        most: How many confusions of each word.

    Returns:
        One value a word; () if most names are single words, or no two are comparable.
    """
    words = [name.split() for name in names]
    length = Counter(map(len, words)).most_common(1)[0][0] if words else 0
    known = regions.known
    pairs = [
        (words[true], words[predicted])
        for true, predicted in zip(known.labels.tolist(), known.predicted.tolist(), strict=True)
        if len(words[true]) == len(words[predicted]) == length
    ]
    # Words at one place are of one kind only where they recur: "tennis ball", "sea egg" are not.
    if length < 2 or not pairs or any(_vary(words, length, place) for place in range(length)):
        return ()
    return tuple(
        WordAccuracy(
            position=place + 1,
            accuracy=sum(true[place] == found[place] for true, found in pairs) / len(pairs),
            confusions=_most_frequent([(t[place], f[place]) for t, f in pairs], most),
        )
        for place in range(length)
    )


def reliability(regions: NamedRegions) -> tuple[ReliabilityBin, ...]:
    """Return confidence and accuracy by probability of the predicted class; no empty bins."""
    known = regions.known
    edges = np.linspace(0.0, 1.0, NUM_BINS + 1)[1:-1]
    bins = np.digitize(known.probabilities, edges, right=True)
    found = []
    for number in np.unique(bins):
        rows = bins == number
        found.append(
            ReliabilityBin(
                confidence=float(known.probabilities[rows].mean(dtype=np.float64)),
                accuracy=float((known.ranks[rows] == 0).mean()),
                count=int(rows.sum()),
            )
        )
    return tuple(found)


def accuracy_by_crowd(images: Sequence[NamedRegions]) -> tuple[CrowdAccuracy, ...]:
    """Return top-1 accuracy by the number of regions in the image.

    Args:
        images: The regions of each image.
    """
    found = []
    for low, high in _CROWDS:
        own = [one for one in images if low <= len(one) and (high is None or len(one) <= high)]
        ranks: NDArray[np.int64] = NamedRegions.concatenate(own).known.ranks
        if len(ranks):
            label = f"{low} or more" if high is None else f"{low} to {high}"
            accuracy = float((ranks == 0).mean())
            found.append(CrowdAccuracy(label=label, num_regions=len(ranks), accuracy=accuracy))
    return tuple(found)


def _most_frequent(pairs: Sequence[tuple[str, str]], most: int) -> tuple[Confusion, ...]:
    totals = Counter(true for true, _ in pairs)
    wrong = Counter(pair for pair in pairs if pair[0] != pair[1])
    ranked = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))[:most]
    return tuple(
        Confusion(true_name=true, predicted_name=found, count=count, share=count / totals[true])
        for (true, found), count in ranked
    )


def _vary(words: Sequence[Sequence[str]], length: int, place: int) -> bool:
    """Say whether the words at a place hardly ever recur."""
    found = [one[place] for one in words if len(one) == length]
    return len(set(found)) > len(found) / 2
