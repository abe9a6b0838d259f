"""From region embeddings to names: words, examples or both, and regions that are neither.

Shape letters: R regions, E text width, C names, K the best names of a region.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regionspot.core.errors import ConfigError, NotFiniteError, VocabularyError
from regionspot.core.geometry import FloatArray
from regionspot.core.region_scores import top_k
from regionspot.core.vocabulary import Vocabulary
from regionspot.inference.calibration import Calibration, confidence
from regionspot.inference.from_cache import class_probabilities
from regionspot.inference.prototypes import Prototypes
from regionspot.inference.text_banks import ChosenNames
from regionspot.model import RegionClassifier, classification_logits

_LOGITS_AT_ONCE = 1 << 24
"""Logits that are computed at once, those of 167 regions with 100,000 names: 64 MiB. The C library
returns memory to the system when it is freed only in blocks of more than 32 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BestNames:
    """The best names of the regions of an image; rows are regions."""

    class_ids: NDArray[np.int64]
    """Indices of the K best names, best first, (R, K)."""
    scores: FloatArray
    """Their probabilities over all names, (R, K); with a single name, its confidence."""
    confidences: FloatArray
    """Sigmoid of their logits, (R, K)."""
    is_unknown: NDArray[np.bool_]
    """Whether the best name is below its threshold, (R,)."""


@dataclass(frozen=True, kw_only=True)
class Naming:
    """The names of one call, and how to choose among them.

    Raises:
        ConfigError: Neither words nor examples are given; or a calibration with levels is missing
            which examples need beside words or with unknown regions.
        VocabularyError: A name occurs twice among words, examples and the one for unknown regions.
    """

    words: ChosenNames | None
    """Names given as text."""
    prototypes: Prototypes | None
    """Names given by example."""
    unknown: str | None
    """Name of regions below the threshold; None if all regions are named."""
    calibration: Calibration | None
    """Thresholds and levels; None for the defaults."""
    top_k: int
    """Number of names per region, at most; 1 or more."""

    def __post_init__(self) -> None:
        needs_levels = self.prototypes is not None and (self.words or self.unknown is not None)
        if needs_levels and (self.calibration is None or self.calibration.levels is None):
            other = "words (vocabulary=)" if self.words else "unknown regions (unknown=)"
            raise ConfigError(
                f"examples= and {other} need calibration=model.calibrate(cache), with a labelled"
                " cache such as one of the training: regions are closer to each other than to"
                " texts, so that without it nearly every region would get the name of an example."
            )
        _ = self.vocabulary  # checks the names

    @cached_property
    def names(self) -> Vocabulary:
        """Words, then examples."""
        if self.words is not None and self.prototypes is None:
            return self.words.vocabulary  # already checked, which takes long for 100,000 names
        words = () if self.words is None else self.words.vocabulary.names
        examples = () if self.prototypes is None else self.prototypes.vocabulary.names
        if both := sorted(set(words) & set(examples)):
            raise VocabularyError(
                f"{both[0]!r} is in vocabulary= and in examples=: leave one of them out."
            )
        return Vocabulary((*words, *examples))

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Words, then examples, then the name of unknown regions."""
        if self.unknown is None:
            return self.names
        if self.unknown in self.names.names:
            raise VocabularyError(
                f"unknown={self.unknown!r} is also among the names to choose from: rename one."
            )
        return Vocabulary((*self.names, self.unknown))

    def choose(self, z_RE: Tensor, classifier: RegionClassifier) -> BestNames:
        """Choose the best names of regions with embeddings (R, E).

        Raises:
            NotFiniteError: An embedding is NaN or infinite.
        """
        is_finite_R = z_RE.isfinite().all(dim=1)
        if not is_finite_R.all():
            raise NotFiniteError(
                f"the head's embedding of region {int(is_finite_R.int().argmin())} is not finite:"
                " the head or the weights of SAM or CLIP are damaged. Check the head with"
                " `regionspot verify`."
            )
        rows_at_once = max(1, _LOGITS_AT_ONCE // len(self.names))
        parts = [self._best(part_RE, classifier) for part_RE in z_RE.split(rows_at_once)]
        class_ids, scores, confidences = map(np.concatenate, zip(*parts, strict=True))
        is_unknown_R = np.zeros(len(z_RE), np.bool_)
        if self.unknown is not None:
            thresholds_C = (self.calibration or Calibration()).of_names(self.names)
            is_unknown_R = confidences[:, 0] < thresholds_C[class_ids[:, 0]]
        return BestNames(
            class_ids=class_ids, scores=scores, confidences=confidences, is_unknown=is_unknown_R
        )

    def _best(
        self, z_RE: Tensor, classifier: RegionClassifier
    ) -> tuple[NDArray[np.int64], FloatArray, FloatArray]:
        """Return indices, scores and confidences of the best names, (R, K) each."""
        logits_RC = self._logits(z_RE, classifier)
        several = logits_RC.shape[1] > 1
        scores_RC = class_probabilities(logits_RC) if several else confidence(logits_RC)
        best_RK = np.empty((len(scores_RC), min(self.top_k, len(self.names))), np.int64)
        for best_K, scores_C in zip(best_RK, scores_RC, strict=True):
            best_K[:] = top_k(scores_C, self.top_k)
        logits_RK = logits_RC.gather(1, torch.from_numpy(best_RK).to(logits_RC.device))
        return best_RK, np.take_along_axis(scores_RC, best_RK, axis=1), confidence(logits_RK)

    def _logits(self, z_RE: Tensor, classifier: RegionClassifier) -> Tensor:
        parts = []
        if self.words is not None:
            parts.append(classifier(z_RE, self.words.bank_CE))
        if self.prototypes is not None:
            parts.append(self._logits_of_examples(self.prototypes, z_RE, classifier))
        return torch.cat(parts, dim=1)

    def _logits_of_examples(
        self, prototypes: Prototypes, z_RE: Tensor, classifier: RegionClassifier
    ) -> Tensor:
        levels = None if self.calibration is None else self.calibration.levels
        rows_CE = torch.from_numpy(prototypes.bank if levels is None else prototypes.means)
        cosines_RC = classification_logits(z_RE, rows_CE.to(z_RE.device), scale=1.0)
        if levels is not None:
            cosines_RC = levels.as_text(cosines_RC)
        return classifier.scale * cosines_RC + classifier.bias
