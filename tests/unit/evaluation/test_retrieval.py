"""Text-to-region retrieval against torchmetrics' retrieval metrics."""

import numpy as np
import pytest
import torch
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMAP

from regionspot.scoring import retrieval_figures


def test_figures_are_those_of_torchmetrics() -> None:
    generator = np.random.default_rng(0)
    counts = [0, 3, 20, 17]
    scores = [generator.random((count, 6)).astype(np.float32) for count in counts]
    labels = [generator.integers(-1, 5, count) for count in counts]  # class 5 never occurs
    all_labels = np.concatenate(labels)
    known = all_labels >= 0
    preds = torch.from_numpy(np.concatenate(scores)[known].T)
    target = torch.from_numpy(all_labels[known] == np.arange(6)[:, None])
    queries = torch.arange(6)[:, None].expand_as(target)
    kept = target.any(dim=1)
    found = retrieval_figures(scores, labels)
    for name, metric in {
        "retrieval_mAP": RetrievalMAP(),
        "retrieval_recall_at_1": RetrievalHitRate(top_k=1),
        "retrieval_recall_at_5": RetrievalHitRate(top_k=5),
        "retrieval_recall_at_10": RetrievalHitRate(top_k=10),
    }.items():
        wanted = metric(preds[kept].flatten(), target[kept].flatten(), queries[kept].flatten())
        assert found[name] == pytest.approx(100 * float(wanted), abs=1e-4), name


def test_without_annotated_regions_there_is_no_figure() -> None:
    none = dict.fromkeys(retrieval_figures([], []))
    assert retrieval_figures([np.ones((2, 3), np.float32)], [np.full(2, -1)]) == none
