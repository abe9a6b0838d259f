"""The word tokenizer, against ids counted by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regionspot.backbones import WordTokenizer

WORDS = ("a", "red", "heart", ".", ",", "close-up")
# pad 0, unknown 1, a 2, red 3, heart 4, . 5, "," 6, close-up 7, start 8, end 9
CASES = [
    ("a red heart", [8, 2, 3, 4, 9, 0, 0, 0]),
    ("A Red HEART.", [8, 2, 3, 4, 5, 9, 0, 0]),
    ("a heart , red", [8, 2, 4, 6, 3, 9, 0, 0]),
    ("heart,red", [8, 4, 6, 3, 9, 0, 0, 0]),
    ("a close-up", [8, 2, 7, 9, 0, 0, 0, 0]),
    ("a blue heart", [8, 2, 1, 4, 9, 0, 0, 0]),
    ("  \t\n", [8, 9, 0, 0, 0, 0, 0, 0]),
    ("a a a a a a a a", [8, 2, 2, 2, 2, 2, 2, 9]),
]


@pytest.fixture
def tokenizer() -> WordTokenizer:
    return WordTokenizer(WORDS, 8)


@pytest.mark.parametrize(("text", "ids"), CASES)
def test_texts_become_the_ids_counted_by_hand(
    tokenizer: WordTokenizer, text: str, ids: list[int]
) -> None:
    found = tokenizer(text)
    assert found.dtype == torch.int64
    assert found.tolist() == [ids]


def test_several_texts_become_one_row_each_in_order(tokenizer: WordTokenizer) -> None:
    assert tokenizer([text for text, _ in CASES]).tolist() == [ids for _, ids in CASES]


def test_no_texts_give_no_rows(tokenizer: WordTokenizer) -> None:
    assert tokenizer([]).shape == (0, 8)


def test_vocabulary_size_counts_words_and_four_special_ids(tokenizer: WordTokenizer) -> None:
    assert tokenizer.vocab_size == 10
    assert (tokenizer.start_id, tokenizer.end_id) == (8, 9)


def test_a_call_may_ask_for_another_length(tokenizer: WordTokenizer) -> None:
    assert tokenizer("a red heart .", context_length=4).tolist() == [[8, 2, 3, 9]]


@given(text=st.text(max_size=60))
def test_every_text_ends_with_the_largest_id_exactly_once(text: str) -> None:
    row = WordTokenizer(WORDS, 8)(text)[0]
    assert row[0] == 8
    assert (row == 9).sum() == 1
    assert row.max() == 9
    assert (row[int(row.argmax()) + 1 :] == 0).all()


@pytest.mark.parametrize(
    ("words", "context_length", "message"),
    [
        (("a", "a"), 8, r"\['a'\] are listed more than once"),
        (("Red",), 8, r"\['Red'\] can never occur"),
        (("a b",), 8, "can never occur"),
        (("a.b",), 8, "can never occur"),
        (("",), 8, "can never occur"),
        (("a",), 2, "context_length is 2"),
    ],
)
def test_words_that_cannot_work_are_refused(
    words: tuple[str, ...], context_length: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        WordTokenizer(words, context_length)
