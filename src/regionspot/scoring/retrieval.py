"""Text-to-region retrieval: each class name is a query that ranks all regions of a cache.

Shape letters: N regions, C classes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CUTS = (1, 5, 10)
"""How many of the best regions recall looks at."""


def retrieval_figures(
    scores: Sequence[NDArray[np.float32]], labels: Sequence[NDArray[np.int64]]
) -> dict[str, float | None]:
    """Rank all annotated regions for each class name by their probability of that class.

    Args:
        scores: Class probabilities of the regions of each image, (n, C).
        labels: Their annotated classes, (n,); regions of unknown class (-1) are left out.

    Returns:
        ``retrieval_mAP``, the mean over class names of average precision, and
        ``retrieval_recall_at_k``, the share of class names for which a region of that class is
        among the k best, both in percent; None without any annotated region. Class names without a
        region are no queries.
    """
    of_classes: list[float] = []
    best_ranks: list[int] = []
    if scores:
        of_regions = np.concatenate(labels)
        of_pairs = np.concatenate(scores)[of_regions >= 0]
        of_regions = of_regions[of_regions >= 0]
        for label in np.unique(of_regions):
            order = np.argsort(-of_pairs[:, label], kind="stable")
            ranks = np.flatnonzero(of_regions[order] == label)  # of the relevant regions, from 0
            of_classes.append(float(np.mean(np.arange(1, len(ranks) + 1) / (ranks + 1))))
            best_ranks.append(int(ranks[0]))
    if not of_classes:
        return dict.fromkeys(("retrieval_mAP", *(f"retrieval_recall_at_{k}" for k in CUTS)))
    found: dict[str, float | None] = {"retrieval_mAP": 100 * float(np.mean(of_classes))}
    for k in CUTS:
        found[f"retrieval_recall_at_{k}"] = 100 * float(np.mean(np.array(best_ranks) < k))
    return found
