"""Names given by example: the mean embedding of a few regions in place of the text of a name.

Shape letters: R regions, N examples of a name, C names, E text width.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from regionspot.cache import CachedSample, FeatureCache, read_labels
from regionspot.core.errors import ConfigError, ShapeError, VocabularyError
from regionspot.core.geometry import FloatArray
from regionspot.core.vocabulary import Vocabulary
from regionspot.inference.from_cache import check_fits, map_embedded
from regionspot.inference.inputs import ImageLike
from regionspot.model import TrainedHead

_BATCH_SIZE = 16

Examples = Mapping[str, Iterable[tuple[ImageLike, ArrayLike]]]
"""Regions by the name that they are examples of: pairs of an image and one box or several."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prototypes:
    """Names with the regions that are examples of them; row ``i`` of every array is name ``i``.

    Create them with `RegionSpot.prototypes` from images, or `RegionSpot.prototypes_from_cache`.
    """

    vocabulary: Vocabulary
    """The names."""
    means: FloatArray
    """Mean of the examples' embeddings, (C, E) float32, each of unit norm before averaging."""
    num_examples: NDArray[np.int64]
    """Number of examples of each name, (C,), 1 or more."""

    @property
    def bank(self) -> FloatArray:
        """The means scaled to unit norm, (C, E): what regions are compared with."""
        lengths: FloatArray = np.linalg.norm(self.means, axis=1, keepdims=True)
        return self.means / lengths


def listed_examples(examples: Examples) -> Iterator[tuple[str, ImageLike, ArrayLike]]:
    """Yield (name, image, box) for each example; every name has at least one.

    Raises:
        ConfigError: The examples are not lists of pairs by name.
        VocabularyError: There is no name, or one without examples.
    """
    if not isinstance(examples, Mapping):
        raise ConfigError(
            f"examples are of type {type(examples).__name__}; wanted a dict of lists, such as"
            ' {"my valve": [(image, box), (other_image, other_box)]}.'
        )
    Vocabulary.from_names(examples)
    for name, pairs in examples.items():
        listed = list(pairs)
        if not listed:
            raise VocabularyError(f"{name!r} has no examples; wanted at least one (image, box).")
        for pair in listed:
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise ConfigError(
                    f"an example of {name!r} is not a pair (image, box): found"
                    f" {type(pair).__name__}. Wanted a list of pairs for each name."
                )
            yield name, pair[0], pair[1]


def average_examples(embeddings: Mapping[str, FloatArray]) -> Prototypes:
    """Average the region embeddings of every name.

    Args:
        embeddings: Region embeddings by name, (N, E) each, not normalised.

    Raises:
        VocabularyError: There is no name, or one without examples.
        ShapeError: The examples of a name cancel each other out.
    """
    vocabulary = Vocabulary.from_names(embeddings)
    for name, z_NE in embeddings.items():
        if len(z_NE) == 0:
            raise VocabularyError(f"{name!r} has no examples; wanted at least one region.")
    means = np.stack([unit_rows(z_NE).mean(axis=0) for z_NE in embeddings.values()])
    for name, length in zip(vocabulary, np.linalg.norm(means, axis=1), strict=True):
        if not length > 1e-6:  # also refuses NaN
            raise ShapeError(f"the examples of {name!r} have no mean direction: give others.")
    counts = np.array([len(z_NE) for z_NE in embeddings.values()], np.int64)
    return Prototypes(vocabulary=vocabulary, means=means, num_examples=counts)


def cache_prototypes(
    trained_head: TrainedHead,
    cache: FeatureCache,
    *,
    names: Iterable[str] | None,
    max_examples: int | None,
    device: torch.device,
) -> Prototypes:
    """Average the labelled regions of a cache; see `RegionSpot.prototypes_from_cache`."""
    labelled = cache.manifest.vocabulary
    all_labels = read_labels(cache)
    _check_labels(cache, all_labels)
    rows = {
        name: np.flatnonzero(all_labels == labelled.index_of(name))[:max_examples]
        for name in (labelled if names is None else names)
    }
    if names is None:
        rows = {name: own for name, own in rows.items() if len(own)}
    if missing := [name for name, own in rows.items() if len(own) == 0]:
        raise VocabularyError(f"{missing[0]!r} has no regions in the cache {cache.location}.")
    # Only images with examples are read; in these, the first of each name are still the first.
    image_of_region = np.repeat(np.arange(len(cache)), cache.index.num_regions)
    chosen = np.concatenate([np.zeros(0, np.int64), *rows.values()])
    positions = np.unique(image_of_region[chosen]).tolist()
    embeddings, labels = embed_labelled(trained_head, cache, positions, device=device)
    return average_examples(
        {
            name: embeddings[np.flatnonzero(labels == labelled.index_of(name))[: len(own)]]
            for name, own in rows.items()
        }
    )


def embed_labelled(
    trained_head: TrainedHead,
    cache: FeatureCache,
    positions: Iterable[int],
    *,
    device: torch.device,
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Return the embeddings, (R, E), and labels, (R,), of the regions of some images, in order.

    Raises:
        ConfigError: There are no regions, or some without a label (proposals).
        CacheMismatchError: The cache was made by other frozen models than the head was trained on.
    """

    def labelled(sample: CachedSample, z_RE: Tensor) -> tuple[FloatArray, NDArray[np.int64]]:
        return z_RE.cpu().numpy(), np.array(sample.labels)

    chosen = [int(position) for position in positions]
    check_fits(trained_head, cache, _BATCH_SIZE)
    parts = list(
        map_embedded(
            trained_head,
            cache,
            labelled,
            positions=chosen,
            batch_size=_BATCH_SIZE,
            device=device,
        )
    )
    labels = np.concatenate([np.zeros(0, np.int64), *(own for _, own in parts)])
    _check_labels(cache, labels)
    return np.concatenate([z_RE for z_RE, _ in parts]), labels


def _check_labels(cache: FeatureCache, labels: NDArray[np.integer]) -> None:
    if len(labels) == 0 or (labels < 0).any():
        raise ConfigError(
            f"the cache {cache.location} has {len(labels)} regions,"
            f" {int((labels < 0).sum())} of them without a label; wanted a cache of annotated boxes"
            " (made without --proposals)."
        )


def unit_rows(z_RE: FloatArray) -> FloatArray:
    """Scale embeddings, (R, E), to unit norm."""
    lengths: FloatArray = np.linalg.norm(z_RE, axis=1, keepdims=True)
    return z_RE / (lengths + np.float32(1e-7))
