"""Regions that no name fits: confidences, thresholds, and what is answered."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchmetrics.functional.classification import binary_recall_at_fixed_precision

from regionspot.backbones import FrozenModels
from regionspot.cache import FeatureCache, TextBankStore, text_banks_path
from regionspot.core.errors import ConfigError, VocabularyError
from regionspot.core.vocabulary import Vocabulary
from regionspot.inference import Calibration, RegionSpot
from regionspot.inference.calibration import (
    calibrate_on_cache,
    lowest_threshold,
    measure_thresholds,
)
from regionspot.inference.prototypes import embed_labelled, unit_rows
from regionspot.inference.text_banks import ChosenNames, StoredBanks
from regionspot.model import FusionHead, HeadCard, HeadSpec, RegionClassifier, TrainedHead

Pixels = NDArray[np.uint8]
NAMES = ["red striped circle", "blue plain square", "sea egg", "green dotted star"]


def test_one_name_is_not_certain_but_has_its_confidence(
    model: RegionSpot, pixels: Pixels, boxes: NDArray[np.float32]
) -> None:
    alone = model.recognize(pixels, boxes, vocabulary=["sea egg"])
    among = model.recognize(pixels, boxes, vocabulary=NAMES, top_k=4)
    row, column = np.nonzero(among.top_class_ids == 2)
    np.testing.assert_allclose(alone.scores, among.top_confidences[row, column], rtol=1e-5)
    np.testing.assert_array_equal(alone.confidences, alone.scores)
    assert (alone.scores < 0.9).all()


def test_regions_below_the_threshold_of_their_best_name_are_unknown(
    model: RegionSpot, pixels: Pixels, boxes: NDArray[np.float32]
) -> None:
    known = model.recognize(pixels, boxes, vocabulary=NAMES, top_k=4)
    middle = float(np.sort(known.confidences)[1])
    regions = model.recognize(
        pixels,
        boxes,
        vocabulary=NAMES,
        unknown="background",
        calibration=Calibration(threshold=middle),
        top_k=9,
    )
    below = known.confidences < middle
    assert below.sum() == 1
    assert regions.is_unknown is not None
    assert regions.is_unknown.tolist() == below.tolist()
    assert tuple(regions.vocabulary) == (*NAMES, "background")
    wanted = ["background" if no else label for no, label in zip(below, known.labels, strict=True)]
    assert list(regions.labels) == wanted
    assert [regions.vocabulary[index] for index in regions.class_ids] == wanted
    np.testing.assert_array_equal(regions.top_scores, known.top_scores)
    assert regions.top_labels == known.top_labels
    np.testing.assert_allclose(regions.scores[below], 1 - known.confidences[below], rtol=1e-6)
    np.testing.assert_array_equal(regions.scores[~below], known.scores[~below])
    assert [region.label for region in regions[below]] == ["background"]


def test_a_name_may_have_a_threshold_of_its_own(
    model: RegionSpot, pixels: Pixels, boxes: NDArray[np.float32]
) -> None:
    known = model.recognize(pixels, boxes, vocabulary=NAMES)
    name = known.labels[0]
    strict = Calibration(threshold=0.0, thresholds={name: float("inf")})
    regions = model.recognize(
        pixels, boxes, vocabulary=NAMES, unknown="nothing", calibration=strict
    )
    assert regions.labels == tuple("nothing" if label == name else label for label in known.labels)


def test_the_name_of_unknown_regions_is_none_of_the_names(
    model: RegionSpot, pixels: Pixels
) -> None:
    with pytest.raises(VocabularyError, match="unknown='sea egg' is also among the names"):
        model.recognize(pixels, [[16, 20, 57, 61]], vocabulary=NAMES, unknown="sea egg")


@given(
    st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=40),
    st.sampled_from([0.3, 0.5, 0.75, 1.0]),
)
def test_a_threshold_keeps_as_many_right_names_as_the_precision_allows(
    rows: list[tuple[int, bool]], target: float
) -> None:
    confidences = np.array([value / 10 for value, _ in rows], np.float32)
    is_right = np.array([right for _, right in rows])
    threshold = lowest_threshold(confidences, is_right, target)
    kept = confidences >= threshold
    if not is_right.any():  # recall is undefined
        assert not kept.any()
        return
    best_recall, _ = binary_recall_at_fixed_precision(
        torch.from_numpy(confidences), torch.from_numpy(is_right).long(), min_precision=target
    )
    recall = (kept & is_right).sum() / max(1, is_right.sum())
    assert recall == pytest.approx(float(best_recall))
    assert not kept.any() or is_right[kept].mean() >= target


def test_only_names_given_often_have_a_threshold_of_their_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logits = torch.tensor([[2.0, 0.0]] * 25 + [[0.0, 1.0]] * 5)
    true_names = ["egg"] * 24 + ["gem"] * 6
    overall, by_name = measure_thresholds(
        logits, true_names, Vocabulary(("egg", "gem")), target_precision=0.9
    )
    assert overall == pytest.approx(1 / (1 + np.exp(-1.0)))  # 29 of 30 are right
    assert by_name == {"egg": pytest.approx(1 / (1 + np.exp(-2.0)))}
    assert not caplog.records
    overall, by_name = measure_thresholds(
        logits, ["sea"] * 30, Vocabulary(("egg", "gem")), target_precision=0.9
    )
    assert overall == by_name["egg"] == float("inf")
    assert "no threshold gives a precision of 0.9" in caplog.text


def test_a_precision_that_is_none_is_refused(model: RegionSpot, make_cache: Any) -> None:
    cache = FeatureCache.open(make_cache(names=("egg", "gem")))
    with pytest.raises(ConfigError, match="target_precision is 90; wanted above 0 and up to 1"):
        model.calibrate(cache, templates="ensemble81", target_precision=90)


def test_thresholds_are_measured_on_the_regions_of_a_cache(
    make_module_cache: Any, models: FrozenModels
) -> None:
    # A cache of random numbers, and a classifier that reads its class off the tokens.
    names = ("lemon", "tennis ball", "sea egg")
    cache = FeatureCache.open(make_module_cache(num_images=40, names=names))
    spec = HeadSpec(token_dim=8, feature_dim=16, text_dim=6, num_blocks=1, num_heads=2, ffn_dim=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = TrainedHead(
            head=FusionHead(spec),
            classifier=RegionClassifier(20.0, -8.0),
            card=HeadCard(head=spec, scale=20.0, bias=-8.0),
        )
    z_RE, labels = embed_labelled(head, cache, range(40), device=torch.device("cpu"))
    means = np.stack([unit_rows(z_RE)[labels == label].mean(axis=0) for label in range(3)])
    TextBankStore(text_banks_path(cache.path)).put(
        cache.manifest.vocabulary, unit_rows(means), templates="single", clip_sha256="1" * 64
    )
    words = ChosenNames(
        vocabulary=Vocabulary(names[:2]),
        templates="single",
        encoder=models.encoder,
        stored=StoredBanks(models.fingerprint(), None),
    )
    words.__dict__["bank_CE"] = torch.from_numpy(unit_rows(means[:2]))
    found = calibrate_on_cache(
        head,
        cache,
        words,
        templates="single",
        target_precision=0.9,
        max_images=100,
        device=torch.device("cpu"),
    )
    logits = 20.0 * unit_rows(z_RE) @ unit_rows(means[:2]).T - 8.0
    given = 1 / (1 + np.exp(-logits.max(axis=1))) >= found.threshold
    right = logits.argmax(axis=1) == labels  # regions of the third name are wrong in any case
    assert given.any()
    assert right[given].mean() >= 0.9
    assert found.levels is not None
    assert found.levels.region_right > found.levels.region_wrong
    few = calibrate_on_cache(
        head,
        cache,
        words,
        templates="single",
        target_precision=0.9,
        max_images=5,
        device=torch.device("cpu"),
    )
    assert few.levels != found.levels
