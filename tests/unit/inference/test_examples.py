"""Names given by example: what regions are compared with, alone and beside words."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from helpers.heads import SCALE
from regionspot.cache import FeatureCache
from regionspot.core.errors import CacheMismatchError, ConfigError, ShapeError, VocabularyError
from regionspot.inference import Calibration, CosineLevels, RegionSpot
from regionspot.inference.calibration import measure_levels
from regionspot.inference.prototypes import cache_prototypes, embed_labelled
from regionspot.model import FusionHead, HeadCard, HeadSpec, RegionClassifier, TrainedHead

Pixels = NDArray[np.uint8]
DISC, SQUARE = [16, 20, 57, 61], [84, 30, 124, 74]
BIAS = -8.0  # of the head of these tests
LEVELS = CosineLevels(text_right=0.5, text_wrong=0.1, region_right=0.9, region_wrong=0.3)
CPU = torch.device("cpu")


def unit(rows: NDArray[Any]) -> NDArray[Any]:
    wide: NDArray[Any] = rows.astype(np.float64)
    return wide / np.linalg.norm(wide, axis=-1, keepdims=True)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers: NDArray[np.float64] = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def by_class(regions: Any, values: NDArray[np.float32]) -> NDArray[np.float32]:
    sorted_back = np.zeros_like(values)
    np.put_along_axis(sorted_back, regions.top_class_ids, values, axis=1)
    return sorted_back


def test_a_prototype_is_the_mean_of_its_examples_each_of_unit_norm(
    model: RegionSpot, pixels: Pixels
) -> None:
    flipped = pixels[:, ::-1].copy()
    prototypes = model.prototypes(
        {"disc": [(pixels, DISC), (flipped, [83, 20, 124, 61])], "square": [(pixels, [SQUARE])]}
    )
    disc = model.recognize(pixels, [DISC]).embeddings
    other = model.recognize(flipped, [[83, 20, 124, 61]]).embeddings
    square = model.recognize(pixels, [SQUARE]).embeddings
    wanted = np.concatenate([(unit(disc) + unit(other)) / 2, unit(square)])
    np.testing.assert_allclose(prototypes.means, wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(prototypes.bank, unit(wanted), rtol=0, atol=1e-5)
    assert prototypes.vocabulary.names == ("disc", "square")
    assert prototypes.num_examples.tolist() == [2, 1]


def test_boxes_given_together_are_regions_of_one_image(model: RegionSpot, pixels: Pixels) -> None:
    encoded = model.encode_image(pixels)
    prototypes = model.prototypes(
        {"thing": [(encoded, [[16, 20, 41, 41], [84, 30, 40, 44]])]}, box_format="xywh"
    )
    together = model.recognize(pixels, [DISC, SQUARE]).embeddings
    np.testing.assert_allclose(prototypes.means[0], unit(together).mean(axis=0), atol=1e-5)
    assert prototypes.num_examples.tolist() == [2]


def test_regions_are_compared_with_examples_as_with_texts(
    model: RegionSpot, pixels: Pixels, boxes: NDArray[np.float32]
) -> None:
    examples = {"disc": [(pixels, DISC)], "square": [(pixels, SQUARE), (pixels[:90], SQUARE)]}
    regions = model.recognize(pixels, boxes, examples=examples, top_k=9)
    prototypes = model.prototypes(examples)
    logits = SCALE * unit(regions.embeddings) @ unit(prototypes.means).T + BIAS
    np.testing.assert_allclose(
        by_class(regions, regions.top_scores), softmax(logits), rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(
        by_class(regions, regions.top_confidences), 1 / (1 + np.exp(-logits)), rtol=0, atol=1e-5
    )
    again = model.recognize(pixels, boxes, examples=prototypes, top_k=9)
    np.testing.assert_array_equal(again.top_scores, regions.top_scores)
    assert tuple(regions.vocabulary) == ("disc", "square")


def test_the_example_itself_gets_its_name(model: RegionSpot, pixels: Pixels) -> None:
    examples = {"disc": [(pixels, DISC)], "square": [(pixels, SQUARE)]}
    assert model.recognize(pixels, [SQUARE], examples=examples).labels == ("square",)
    assert model.recognize(pixels, [DISC], examples=examples).labels == ("disc",)


def test_beside_words_examples_are_moved_to_the_level_of_texts(
    model: RegionSpot, pixels: Pixels, boxes: NDArray[np.float32]
) -> None:
    words = ["sea egg", "red plain circle"]
    examples = {"disc": [(pixels, DISC), (pixels, SQUARE)]}
    regions = model.recognize(
        pixels,
        boxes,
        vocabulary=words,
        examples=examples,
        calibration=Calibration(levels=LEVELS),
        top_k=9,
    )
    assert tuple(regions.vocabulary) == (*words, "disc")
    by_word = model.recognize(pixels, boxes, vocabulary=words, top_k=9)
    confidences = by_class(by_word, by_word.top_confidences).astype(np.float64)
    products = unit(regions.embeddings) @ model.prototypes(examples).means.T
    moved = 0.1 + (products - 0.3) * (0.5 - 0.1) / (0.9 - 0.3)
    logits = np.concatenate([np.log(confidences / (1 - confidences)), SCALE * moved + BIAS], axis=1)
    np.testing.assert_allclose(
        by_class(regions, regions.top_scores), softmax(logits), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"vocabulary": ["sea egg"]}, ConfigError, "words.*need calibration=model.calibrate"),
        ({"unknown": "background"}, ConfigError, "unknown regions.*need calibration=model.calibr"),
        (
            {"vocabulary": ["sea egg"], "calibration": Calibration(threshold=0.3)},
            ConfigError,
            "need calibration=model.calibrate",
        ),
        (
            {"vocabulary": ["sea egg", "circle"], "calibration": Calibration(levels=LEVELS)},
            VocabularyError,
            "'circle' is in vocabulary= and in examples=",
        ),
        ({"examples": ["disc"]}, ConfigError, "examples are of type list; wanted a dict"),
        ({"examples": {}}, VocabularyError, "holds no name"),
        ({"examples": {"disc": []}}, VocabularyError, "'disc' has no examples"),
        ({"examples": {"disc": ["image.png"]}}, ConfigError, "not a pair .*found str"),
        ({"examples": {"disc": [(np.ones((9, 9), np.uint8), [0, 0, 99, 99])]}}, ShapeError, "outs"),
    ],
)
def test_a_mistake_in_the_examples_is_explained(
    model: RegionSpot,
    pixels: Pixels,
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    question = {"examples": {"circle": [(pixels, DISC)]}, **options}
    with pytest.raises(error, match=message):
        model.recognize(pixels, [DISC], **question)


# --- From a cache ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(make_module_cache: Any) -> FeatureCache:
    return FeatureCache.open(make_module_cache(num_images=20, empty=[3]))


@pytest.fixture(scope="module")
def cache_head(cache: FeatureCache) -> TrainedHead:
    spec = HeadSpec(token_dim=8, feature_dim=16, text_dim=6, num_blocks=1, num_heads=2, ffn_dim=16)
    card = HeadCard(
        head=spec, scale=SCALE, bias=BIAS, fingerprint=cache.manifest.fingerprint.to_dict()
    )
    return TrainedHead(head=FusionHead(spec), classifier=RegionClassifier(SCALE, BIAS), card=card)


def embeddings_by_hand(head: TrainedHead, cache: FeatureCache) -> dict[str, NDArray[np.float64]]:
    """Return unit embeddings by name, one image at a time."""
    rows: dict[str, list[NDArray[np.float64]]] = {}
    for position in range(len(cache)):
        sample = cache.sample(position)
        if not sample.num_regions:
            continue
        tokens = torch.from_numpy(sample.position_tokens.copy()).float()
        with torch.inference_mode():
            z = head.head.eval()(tokens[None], cache.features(sample)[None].float())[0]
        for label, row in zip(sample.labels.tolist(), unit(z.numpy()), strict=True):
            rows.setdefault(cache.manifest.vocabulary[label], []).append(row)
    return {name: np.array(own) for name, own in rows.items()}


@pytest.mark.parametrize("max_examples", [None, 2])
def test_labelled_regions_of_a_cache_are_examples(
    cache: FeatureCache, cache_head: TrainedHead, max_examples: int | None
) -> None:
    names = ["sea egg", "lemon"]
    found = cache_prototypes(cache_head, cache, names=names, max_examples=max_examples, device=CPU)
    by_hand = embeddings_by_hand(cache_head, cache)
    wanted = [by_hand[name][:max_examples].mean(axis=0) for name in names]
    np.testing.assert_allclose(found.means, wanted, rtol=0, atol=1e-5)
    assert found.vocabulary.names == ("sea egg", "lemon")
    assert found.num_examples.tolist() == [len(by_hand[name][:max_examples]) for name in names]


def test_all_names_with_regions_are_taken_and_unknown_ones_refused(
    cache: FeatureCache, cache_head: TrainedHead, make_module_cache: Any
) -> None:
    path = make_module_cache(
        "one more", num_images=1, names=("lemon", "tennis ball", "sea egg", "unseen")
    )
    with FeatureCache.open(path) as other:
        labels = embed_labelled(cache_head, other, range(len(other)), device=CPU)[1]
        rest = sorted({other.manifest.vocabulary[label] for label in labels.tolist()})
        found = cache_prototypes(cache_head, other, names=None, max_examples=None, device=CPU)
        assert sorted(found.vocabulary) == rest
        absent = sorted(set(other.manifest.vocabulary) - set(rest))
        assert len(absent) == 3
        for name in absent:
            with pytest.raises(VocabularyError, match=f"'{name}' has no regions in the cache"):
                cache_prototypes(cache_head, other, names=[name], max_examples=None, device=CPU)
    with pytest.raises(VocabularyError, match="'gem' is not among the 3 names"):
        cache_prototypes(cache_head, cache, names=["gem"], max_examples=None, device=CPU)


def test_proposals_and_caches_of_other_models_give_no_examples(
    cache: FeatureCache, cache_head: TrainedHead, make_module_cache: Any
) -> None:
    proposed = FeatureCache.open(make_module_cache("proposed", proposals="boxes.json"))
    with pytest.raises(ConfigError, match="of them without a label; wanted a cache of annotated"):
        embed_labelled(cache_head, proposed, [0, 1], device=CPU)
    with pytest.raises(ConfigError, match="wanted a cache of annotated boxes"):
        cache_prototypes(cache_head, proposed, names=None, max_examples=1, device=CPU)
    card = replace(
        cache_head.card,
        fingerprint=replace(cache.manifest.fingerprint, clip_image_size=64).to_dict(),
    )
    with pytest.raises(CacheMismatchError, match="clip_image_size"):
        embed_labelled(replace(cache_head, card=card), cache, [0], device=CPU)


def test_levels_are_the_mean_cosines_of_all_pairs() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 40)
    centres = rng.normal(size=(5, 12))
    rows = unit(centres[labels] + rng.normal(size=(40, 12)))
    bank = unit(centres + rng.normal(size=(5, 12)))
    found = measure_levels(rows.astype(np.float32), labels, bank.astype(np.float32))
    texts, regions = rows @ bank.T, rows @ rows.T
    own = labels[:, None] == np.arange(5)
    others = ~np.eye(40, dtype=bool)
    of_name = [regions[(labels[:, None] == c) & (labels == c) & others] for c in range(4)]
    assert found.text_right == pytest.approx(texts[own].mean(), abs=1e-5)
    assert found.text_wrong == pytest.approx(texts[~own].mean(), abs=1e-5)
    assert found.region_right == pytest.approx(np.mean([np.mean(c) for c in of_name]), abs=1e-5)
    assert found.region_wrong == pytest.approx(regions[labels[:, None] != labels].mean(), abs=1e-5)


def test_levels_need_a_head_that_tells_names_apart() -> None:
    rows = unit(np.random.default_rng(0).normal(size=(6, 8))).astype(np.float32)
    bank = rows[:2]
    with pytest.raises(ConfigError, match="wanted two or more of one name and one of another"):
        measure_levels(rows, np.zeros(6, np.int64), bank)
    with pytest.raises(ConfigError, match="does not tell the names of the cache apart"):
        measure_levels(np.concatenate([rows[:2]] * 2), np.array([1, 0, 0, 1]), bank)
