"""Class names that an encoder's tokenizer does not know, cuts, or maps to the same tokens.

Names with the same tokens have the same embedding and so the same probability: which of them ranks
first is chance. Shape letters: N texts, L tokens of a text.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from regionspot.backbones.clip_text import SLOT, Tokenizer, WordTokenizer, spellings, template_texts
from regionspot.core.errors import VocabularyError

SameTokens = Literal["keep", "merge", "refuse"]
"""What to do about names with the same tokens: keep all, keep the first, or raise an error."""

_BATCH_SIZE = 1024
_NUM_LISTED = 50
_NUM_SHOWN = 26
_NUM_LETTERS = 60
_NUM_ENDS = 3
"""Tokens of start, end and, of some, the class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NameFindings:
    """Problems of C class names, found before they are embedded."""

    encoder: str
    """What messages call the encoder, such as "the encoder tiny"."""
    names: tuple[str, ...]
    """The class names."""
    alike: tuple[tuple[int, ...], ...]
    """Groups of classes, as indices, whose sentences become the same tokens."""
    cut: tuple[int, ...]
    """Classes with a name that does not fit the tokens that are read of a text."""
    num_read: int
    """Number of these tokens, L, start and end included."""
    unknown: Mapping[str, tuple[int, ...]]
    """Words that a `WordTokenizer` does not know, each with the classes that it occurs in. All
    other tokenizers fall back on letters."""
    known: tuple[str, ...]
    """Words that a `WordTokenizer` knows."""

    def check_words(self, way_out: str = "") -> None:
        """Raise a `VocabularyError` if there are unknown words: they all have the same embedding.

        Args:
            way_out: What else to type, for the end of the message.
        """
        if not self.unknown:
            return
        num_names = len({index for classes in self.unknown.values() for index in classes})
        raise VocabularyError(
            f"{num_names:,} of {len(self.names):,} class names hold words that"
            f" {self.encoder} does not know, and all of these are the same to it:"
            f" {_listed(map(_quoted, self.unknown))}. It knows {len(self.known)} words, such as"
            f" {', '.join(self.known[:_NUM_SHOWN])} (docs/toy_world.md lists them). For other words"
            f" cache and train with a released CLIP, such as that of --models.preset bl.{way_out}"
        )

    def check_alike(self) -> None:
        """Raise a `VocabularyError` if names have the same tokens."""
        if self.alike:
            raise VocabularyError(f"{self._alike_text()}. Rename or remove all but one of each.")

    def lines(self, same_tokens: SameTokens = "keep") -> list[str]:
        """Return one line a problem, for a log.

        Args:
            same_tokens: What was done about names with the same tokens.
        """
        lines = []
        if self.unknown:
            lines.append(
                f"WARNING: {self.encoder} does not know the words"
                f" {_listed(map(_quoted, self.unknown))}: all of them are the same to it, and names"
                " made of them are guesses"
            )
        if self.alike:
            done = "merged" if same_tokens == "merge" else "kept; see same_tokens"
            lines.append(f"{self._alike_text()} ({done})")
        if self.cut:
            names = _listed(_quoted(self.names[index]) for index in self.cut)
            lines.append(
                f"{len(self.cut):,} class names are cut, as {self.encoder} reads {self.num_read}"
                f" tokens of a sentence: {names}"
            )
        return lines

    def merged_names(self) -> tuple[str, ...]:
        """Return the names, without those that have the tokens of an earlier one."""
        later = {index for group in self.alike for index in group[1:]}
        return tuple(name for index, name in enumerate(self.names) if index not in later)

    def _alike_text(self) -> str:
        groups = (" = ".join(_quoted(self.names[i]) for i in group) for group in self.alike)
        return (
            f"{sum(map(len, self.alike)):,} class names have the tokens of another one, so that"
            f" {self.encoder} cannot tell them apart: {_listed(groups, separator='; ')}"
        )


def examine_names(
    tokenizer: Tokenizer,
    names: Sequence[str],
    templates: str = "ensemble81",
    *,
    synonyms: Sequence[Sequence[str]] | None = None,
    encoder: str = "the encoder",
) -> NameFindings:
    """Tokenize class names as `Encoder.text_bank` does, and return the problems found.

    Args:
        tokenizer: The encoder's tokenizer.
        names: C class names.
        templates: One of `TEMPLATE_SETS`.
        synonyms: All names of each class, as for `Encoder.text_bank`.
        encoder: What messages call the encoder.

    Raises:
        ConfigError: There is no such template set.
        VocabularyError: There is no name, or the synonyms are not one entry a class.
    """
    sentences = template_texts(templates)
    spelled = spellings(names, templates, synonyms)
    longest = max(sentences, key=lambda sentence: len(sentence.split()))
    known = tokenizer.words if isinstance(tokenizer, WordTokenizer) else ()
    num_read = tokenizer([""]).shape[1]
    return NameFindings(
        encoder=encoder,
        names=tuple(names),
        alike=tuple(_groups_alike(tokenizer, spelled, [longest, *sentences])),
        cut=tuple(_classes_cut(tokenizer, spelled, longest, num_read)),
        num_read=num_read,
        unknown=_unknown_words(tokenizer, spelled),
        known=known,
    )


def _groups_alike(
    tokenizer: Tokenizer, spelled: Sequence[Sequence[str]], sentences: Sequence[str]
) -> list[tuple[int, ...]]:
    """Return the groups that agree in all sentences; nearly all classes differ in the first."""
    groups: list[tuple[int, ...]] = [tuple(range(len(spelled)))]
    for sentence in sentences:
        chosen = [(number, index) for number, group in enumerate(groups) for index in group]
        rows = _rows(tokenizer, [_fill(sentence, spelled[index]) for _, index in chosen])
        parts: defaultdict[tuple[int, tuple[bytes, ...]], list[int]] = defaultdict(list)
        for (number, index), row in zip(chosen, rows, strict=True):
            parts[number, row].append(index)
        groups = [tuple(part) for part in parts.values() if len(part) > 1]
    return groups


def _rows(tokenizer: Tokenizer, texts_of: Sequence[Sequence[str]]) -> Iterator[tuple[bytes, ...]]:
    """Yield the tokens of each class's texts, sorted."""
    flat = [text for texts in texts_of for text in texts]
    rows = (row.numpy().tobytes() for ids_NL in _batches(tokenizer, flat) for row in ids_NL)
    for texts in texts_of:
        yield tuple(sorted(next(rows) for _ in texts))


def _classes_cut(
    tokenizer: Tokenizer, spelled: Sequence[Sequence[str]], sentence: str, num_read: int
) -> Iterator[int]:
    """Yield the classes of which a longer context would read more.

    Tokenizers differ in how they end and pad texts, but a text that fits only gains padding.
    """
    padding = tokenizer([""])[0].mode().values
    texts = [
        (index, text)
        for index, of_class in enumerate(spelled)
        for text in _fill(sentence, of_class)
        if len(text.encode()) + _NUM_ENDS > num_read  # a token is at least one byte
    ]
    read = _batches(tokenizer, [text for _, text in texts])
    more = _batches(tokenizer, [text for _, text in texts], context_length=num_read + 1)
    is_cut: list[bool] = []
    for ids_NL, longer_NL in zip(read, more, strict=True):
        padded_NL = torch.cat([ids_NL, padding.expand(len(ids_NL), 1)], dim=1)
        differs_NL = padded_NL.sort(dim=1).values != longer_NL.sort(dim=1).values
        is_cut += differs_NL.any(dim=1).tolist()
    yield from dict.fromkeys(i for (i, _), cut in zip(texts, is_cut, strict=True) if cut)


def _unknown_words(
    tokenizer: Tokenizer, spelled: Sequence[Sequence[str]]
) -> dict[str, tuple[int, ...]]:
    if not isinstance(tokenizer, WordTokenizer):
        return {}
    classes: defaultdict[str, dict[int, None]] = defaultdict(dict)
    for index, of_class in enumerate(spelled):
        for name in of_class:
            for word in tokenizer.unknown_words(name):
                classes[word][index] = None
    return {word: tuple(indices) for word, indices in classes.items()}


def _batches(
    tokenizer: Tokenizer, texts: list[str], *, context_length: int | None = None
) -> Iterator[Tensor]:
    for start in range(0, len(texts), _BATCH_SIZE):
        yield tokenizer(texts[start : start + _BATCH_SIZE], context_length).cpu()


def _fill(sentence: str, names: Sequence[str]) -> list[str]:
    return [sentence.replace(SLOT, name) for name in names]


def _quoted(name: str) -> str:
    return repr(name if len(name) <= _NUM_LETTERS else f"{name[:_NUM_LETTERS]}...")


def _listed(items: Iterable[str], *, separator: str = ", ") -> str:
    found = list(items)
    more = f"{separator}and {len(found) - _NUM_LISTED:,} more" if len(found) > _NUM_LISTED else ""
    return separator.join(found[:_NUM_LISTED]) + more
