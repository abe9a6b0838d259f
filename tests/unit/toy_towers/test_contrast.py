"""The losses of the CLIP tower against plain Python, and which text is said to be true of what."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regionspot.toy import vocabulary
from toy_towers.captions import VisibleObject
from toy_towers.contrast import (
    Phrases,
    caption_loss,
    draw_captions,
    draw_phrases,
    phrase_loss,
)
from toy_towers.views import View

Rows = Sequence[Sequence[float]]
TRUE, DOUBTFUL, FALSE = 1, 2, 0


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def cross_entropy(row: Sequence[float], target: int) -> float:
    return math.log(sum(math.exp(value) for value in row)) - row[target]


def contrast_by_hand(rows: Rows, marks: Sequence[Sequence[int]]) -> float:
    """Each true entry against the false ones of its row; a mean in the row, a mean over rows."""
    losses = []
    for row, row_marks in zip(rows, marks, strict=True):
        rivals = [value for value, mark in zip(row, row_marks, strict=True) if mark == FALSE]
        of_row = [
            cross_entropy([value, *rivals], 0)
            for value, mark in zip(row, row_marks, strict=True)
            if mark == TRUE
        ]
        if of_row:
            losses.append(mean(of_row))
    return mean(losses)


def transposed(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    return [list(column) for column in zip(*rows, strict=True)]


@st.composite
def contests(draw: st.DrawFn) -> tuple[list[list[float]], list[list[int]]]:
    num_pictures, num_texts = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    logit, mark = st.floats(-20, 20, width=32), st.sampled_from([TRUE, DOUBTFUL, FALSE])
    logits = [[draw(logit) for _ in range(num_texts)] for _ in range(num_pictures)]
    marks = [[draw(mark) for _ in range(num_texts)] for _ in range(num_pictures)]
    marks[0][0] = TRUE  # there is something to learn
    return logits, marks


def phrases_of(marks: Sequence[Sequence[int]]) -> Phrases:
    table = torch.tensor(marks)
    return Phrases(
        texts=("",) * table.shape[1], is_true=table == TRUE, is_doubtful=table == DOUBTFUL
    )


@settings(deadline=None)  # the machine may be busy
@given(contest=contests())
def test_phrases_are_contrasted_both_ways_without_the_doubtful(
    contest: tuple[list[list[float]], list[list[int]]],
) -> None:
    logits, marks = contest
    by_picture = contrast_by_hand(logits, marks)
    by_text = contrast_by_hand(
        transposed(logits), [[int(mark) for mark in row] for row in transposed(marks)]
    )
    ours = phrase_loss(torch.tensor(logits, dtype=torch.float64), phrases_of(marks))
    assert ours.item() == pytest.approx(by_picture + 0.5 * by_text, abs=1e-6)


def test_a_phrase_loss_in_figures() -> None:
    logits = torch.tensor([[math.log(2), 0.0, 5.0], [0.0, 0.0, 0.0]])
    marks = [[TRUE, FALSE, DOUBTFUL], [FALSE, FALSE, FALSE]]
    by_picture = math.log(3 / 2)  # 2 against 1; the second picture has no phrase
    by_text = math.log(3 / 2)  # the first phrase: 2 against 1; the others have no picture
    assert phrase_loss(logits, phrases_of(marks)).item() == pytest.approx(
        by_picture + 0.5 * by_text
    )


def test_what_is_doubtful_gets_no_gradient() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.5, -1.0, 4.0]], requires_grad=True)
    marks = [[TRUE, DOUBTFUL, FALSE], [FALSE, TRUE, DOUBTFUL]]
    phrase_loss(logits, phrases_of(marks)).backward()
    assert logits.grad is not None
    assert logits.grad[0, 1] == logits.grad[1, 2] == 0
    assert logits.grad[0, 0] < 0 < logits.grad[0, 2]


@settings(deadline=None)  # the machine may be busy
@given(
    rows=st.integers(1, 5).flatmap(
        lambda num: st.lists(
            st.lists(st.floats(-20, 20, width=32), min_size=2 * num, max_size=2 * num),
            min_size=num,
            max_size=num,
        )
    )
)
def test_captions_are_matched_with_pictures_and_told_from_their_twins(
    rows: list[list[float]],
) -> None:
    num = len(rows)
    by_picture = mean([cross_entropy(row, index) for index, row in enumerate(rows)])
    columns = transposed(rows)[:num]
    by_text = mean([cross_entropy(column, index) for index, column in enumerate(columns)])
    twins = [cross_entropy([row[index], row[index + num]], 0) for index, row in enumerate(rows)]
    wanted = 0.25 * (by_picture + by_text) + 0.25 * mean(twins)
    ours = caption_loss(torch.tensor(rows, dtype=torch.float64))
    assert ours.item() == pytest.approx(wanted, abs=1e-6)


def view_of(
    *names: str, doubtful: tuple[str, ...] = (), setting: str = "sea", centres: Sequence[float] = ()
) -> View:
    shares = centres or [0.1 + 0.2 * index for index in range(len(names))]
    return View(
        pixels=np.zeros((8, 8, 3), np.uint8),
        corner_yx=(0, 0),
        objects=tuple(
            VisibleObject(name=name, centre_xy=(share, 0.5))
            for name, share in zip(names, shares, strict=True)
        ),
        doubtful=doubtful,
        setting=setting,
    )


VIEWS = [
    view_of("striped red heart", "sea egg", doubtful=("plain blue star", "dotted red heart")),
    view_of("plain blue star", "plain blue star", "night lamp", setting="night"),
    view_of(doubtful=("night egg",), setting="night"),
]


def test_outlines_are_true_of_the_pictures_that_show_them() -> None:
    _names, outlines, _settings = draw_phrases(VIEWS, np.random.default_rng(0))
    order = (
        *("circle", "square", "triangle", "star", "cross", "heart", "ring", "arrow"),
        *("egg", "gem", "shell", "flag", "lamp"),
    )
    assert all(name in text for name, text in zip(order, outlines.texts, strict=True))
    shown = [[order[i] for i in row.nonzero().flatten()] for row in outlines.is_true]
    doubted = [[order[i] for i in row.nonzero().flatten()] for row in outlines.is_doubtful]
    assert shown == [["heart", "egg"], ["star", "lamp"], []]
    assert doubted == [["star"], [], ["egg"]]  # a heart is there anyhow


def test_one_setting_is_true_of_each_picture() -> None:
    _names, _outlines, settings = draw_phrases(VIEWS, np.random.default_rng(0))
    order = ("sea", "desert", "forest", "night")
    assert all(name in text for name, text in zip(order, settings.texts, strict=True))
    assert settings.is_true.tolist() == [
        [True, False, False, False],
        [False, False, False, True],
        [False, False, False, True],
    ]
    assert not settings.is_doubtful.any()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_names_and_pairs_are_true_where_all_their_words_belong_to_one_object(seed: int) -> None:
    phrases, _outlines, _settings = draw_phrases(VIEWS, np.random.default_rng(seed))
    assert len(phrases.texts) == 112 + 24
    pairs = {
        f"{first} {name.split()[2]}"
        for name in vocabulary()
        if len(name.split()) == 3
        for first in name.split()[:2]
    }
    for column, text in enumerate(phrases.texts):
        candidates = vocabulary() if column < 112 else sorted(pairs)
        (phrase,) = (one for one in candidates if f" {one} " in f" {text} ".replace(".", " "))
        words = set(phrase.split())
        for row, view in enumerate(VIEWS):
            is_true = any(words <= set(one.name.split()) for one in view.objects)
            is_doubtful = any(words <= set(name.split()) for name in view.doubtful)
            assert phrases.is_true[row, column] == is_true, text
            assert phrases.is_doubtful[row, column] == (is_doubtful and not is_true), text


def test_captions_are_written_for_the_first_24_pictures_that_allow_one() -> None:
    views = [view_of(), view_of("sea egg", "sea egg"), *[view_of("sea egg")] * 30]
    captions = draw_captions(views, np.random.default_rng(0))
    assert captions.pictures == tuple(range(2, 26))
    assert len(captions.true) == len(captions.false) == 24
    assert all("a sea egg on the left" in text for text in captions.true)
    assert not any("a sea egg on the left" in text for text in captions.false)
