"""What tokenizers make of class names, against the tokenizers of open_clip and transformers."""

from collections import defaultdict
from pathlib import Path

import open_clip
import pytest
from hypothesis import given
from hypothesis import strategies as st
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from tokenizers import Tokenizer as RawTokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from regionspot.backbones import LazyTokenizer, WordTokenizer, examine_names
from regionspot.core.errors import ConfigError, VocabularyError

CLIPS_OWN = SimpleTokenizer()


def hub_tokenizer(folder: Path, *, pad: str = "</s>", mode: str | None = None) -> HFTokenizer:
    """Build a tokenizer of transformers as SigLIP's is: its padding is its end of text."""
    words = ["<unk>", "<s>", "</s>", "<pad>", "<cls>", *"abcdefgh"]
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "cls_token": "<cls>"}
    raw = RawTokenizer(WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    raw.pre_tokenizer = Whitespace()
    raw.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    PreTrainedTokenizerFast(tokenizer_object=raw, pad_token=pad, **special).save_pretrained(folder)
    return HFTokenizer(str(folder), context_length=8, tokenizer_mode=mode)


def test_names_with_the_same_tokens_are_found() -> None:
    names = ["Hot Dog", "cat", "hot dog", "a&amp;b", "HOT  DOG", "a&b", "cats"]
    findings = examine_names(LazyTokenizer("ViT-B-16"), names)
    assert findings.alike == ((0, 2, 4), (3, 5))
    assert (findings.cut, findings.unknown, findings.num_read) == ((), {}, 77)
    assert findings.merged_names() == ("Hot Dog", "cat", "a&amp;b", "cats")
    (line,) = findings.lines()
    assert line == (
        "5 class names have the tokens of another one, so that the encoder cannot tell them apart:"
        " 'Hot Dog' = 'hot dog' = 'HOT  DOG'; 'a&amp;b' = 'a&b' (kept; see same_tokens)"
    )
    with pytest.raises(VocabularyError, match="'Hot Dog' = 'hot dog' = .*Rename or remove"):
        findings.check_alike()


@given(st.lists(st.text("aAbB \t.&;é\u0301", min_size=1, max_size=4), min_size=1, unique=True))
def test_groups_are_those_of_open_clips_own_encoding(names: list[str]) -> None:
    by_tokens: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        by_tokens[tuple(CLIPS_OWN.encode(name))].append(index)
    wanted = {tuple(group) for group in by_tokens.values() if len(group) > 1}
    assert set(examine_names(CLIPS_OWN, names, "none").alike) == wanted


def test_underscores_matter_unless_they_are_turned_into_spaces() -> None:
    names = ["hot_dog", "hot dog"]
    assert examine_names(CLIPS_OWN, names, "single").alike == ()
    assert examine_names(CLIPS_OWN, names, "single-readable").alike == ((0, 1),)


def test_classes_of_the_same_synonyms_are_alike() -> None:
    synonyms = [["cat", "kitty"], ["Kitty", "Cat"], ["cat"]]
    names = ["cat", "kitty", "pet"]
    assert examine_names(CLIPS_OWN, names, "none-synonyms", synonyms=synonyms).alike == ((0, 1),)
    assert examine_names(CLIPS_OWN, names, "none", synonyms=synonyms).alike == ()


def test_names_are_alike_only_if_they_are_in_every_sentence() -> None:
    # 74 words and the last are read of "{}.", not of "a photo of a {}.": one sentence is enough.
    names = ["a " * 74 + last for last in ("cat", "dog")]
    assert examine_names(CLIPS_OWN, names, "single").alike == ((0, 1),)
    assert examine_names(CLIPS_OWN, names, "ensemble81").alike == ()


@given(st.integers(60, 90), st.sampled_from(["a", "!", "heart", "\u00e9"]))
def test_names_longer_than_what_is_read_are_found(num_words: int, word: str) -> None:
    name = " ".join([word] * num_words)
    is_longer = len(CLIPS_OWN.encode(name)) + 2 > 77
    findings = examine_names(CLIPS_OWN, ["cat", name], "none")
    assert findings.cut == ((1,) if is_longer else ())
    assert bool(findings.lines()) == is_longer


@pytest.mark.parametrize(("pad", "mode"), [("</s>", None), ("<pad>", None), ("<pad>", "clips")])
def test_tokenizers_of_transformers_are_looked_through_likewise(
    tmp_path: Path, pad: str, mode: str | None
) -> None:
    tokenizer = hub_tokenizer(tmp_path, pad=pad, mode=mode)
    fits, longer = (7, 8) if mode is None else (5, 6)  # clips: start, end and class, and one spare
    names = ["a b", "a  b", " ".join("abcdefgh"[:fits]), " ".join("abcdefgh"[:longer])]
    findings = examine_names(tokenizer, names, "none")
    assert findings.alike == ((0, 1), (2, 3))
    assert findings.cut == (3,)
    assert findings.num_read == 8


def test_words_that_a_word_tokenizer_does_not_know_are_named_and_refused() -> None:
    tokenizer = WordTokenizer(["red", "star"], context_length=6)
    findings = examine_names(
        tokenizer, ["red star", "red cat", "dog", "cat"], "none", encoder="the encoder tiny"
    )
    assert findings.unknown == {"cat": (1, 3), "dog": (2,)}
    assert findings.alike == ((2, 3),)
    assert findings.known == ("red", "star")
    with pytest.raises(VocabularyError) as caught:
        findings.check_words(" Or go home.")
    assert str(caught.value) == (
        "3 of 4 class names hold words that the encoder tiny does not know, and all of these are"
        " the same to it: 'cat', 'dog'. It knows 2 words, such as red, star (docs/toy_world.md"
        " lists them). For other words cache and train with a released CLIP, such as that of"
        " --models.preset bl. Or go home."
    )
    assert findings.lines()[0].startswith(
        "WARNING: the encoder tiny does not know the words 'cat', 'dog'"
    )


def test_known_names_need_no_word() -> None:
    tokenizer = WordTokenizer(["red", "star", "a", "photo", "of", "."], context_length=10)
    findings = examine_names(tokenizer, ["red star", "star"], "single")
    findings.check_words()
    findings.check_alike()
    assert findings.lines() == []


def test_what_no_bank_can_be_made_of_is_refused() -> None:
    with pytest.raises(ConfigError, match="no template set 'poem'"):
        examine_names(CLIPS_OWN, ["cat"], "poem")
    with pytest.raises(VocabularyError, match="no class name"):
        examine_names(CLIPS_OWN, [])


def test_a_lazy_tokenizer_passes_the_length_on() -> None:
    ours = LazyTokenizer("ViT-B-16")(["a red heart"], 4)
    assert ours.tolist() == open_clip.get_tokenizer("ViT-B-16")(["a red heart"], 4).tolist()
