"""The names to choose from: read from what a person gives, and embedded once."""

import logging
import os
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import get_args

from torch import Tensor

from regionspot.backbones import FrozenModels, SameTokens
from regionspot.core.errors import ConfigError, VocabularyError
from regionspot.core.vocabulary import Vocabulary

_logger = logging.getLogger(__name__)

_NUM_KEPT_BANKS = 16


def as_vocabulary(names: object) -> Vocabulary:
    """Read a vocabulary: one that is given, or a list of names.

    Raises:
        VocabularyError: It is one text, a path, no list, empty, or holds an empty or repeated name.
    """
    if isinstance(names, Vocabulary):
        return names
    if isinstance(names, os.PathLike):
        raise VocabularyError(
            f"the vocabulary is the path {names}; wanted its names: Vocabulary.from_file(path)."
        )
    if isinstance(names, str):
        raise VocabularyError(
            f"the vocabulary is the text {names!r}; wanted a list of names, for instance"
            f" {[name.strip() for name in names.split(',')]}."
        )
    if isinstance(names, bytes) or not isinstance(names, Iterable):
        raise VocabularyError(
            f"the vocabulary is of type {type(names).__name__}; wanted a list of names."
        )
    return Vocabulary.from_names(names)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedNames:
    """Names with their embeddings."""

    vocabulary: Vocabulary
    """The names."""
    bank_CE: Tensor  # noqa: N815 - shape letters
    """Their embeddings, (C, E) float32, unit norm."""


class TextBanks:
    """Embeddings of vocabularies, of which those that were asked for lately stay in memory.

    Args:
        models: The frozen models, whose CLIP embeds the names.
    """

    def __init__(self, models: FrozenModels) -> None:
        self._models = models
        self._kept: OrderedDict[tuple[str, str, str], EmbeddedNames] = OrderedDict()

    def embed(
        self, vocabulary: Vocabulary, *, templates: str, same_tokens: SameTokens
    ) -> EmbeddedNames:
        """Return a vocabulary's names with their embeddings.

        Args:
            vocabulary: The names.
            templates: The sentences that they are put into.
            same_tokens: What is done about names that CLIP cannot tell apart: "keep" them, with a
                warning; "merge" them under the first of each; or "refuse" them.

        Raises:
            ConfigError: The templates or ``same_tokens`` are unknown.
            VocabularyError: CLIP does not know a word of a name, or names with the same tokens are
                refused.
        """
        if same_tokens not in get_args(SameTokens):
            raise ConfigError(
                f"same_tokens is {same_tokens!r}; wanted one of {', '.join(get_args(SameTokens))}."
            )
        key = (vocabulary.sha256, str(templates), same_tokens)
        if key not in self._kept:
            self._kept[key] = self._embed(vocabulary, templates, same_tokens)
        self._kept.move_to_end(key)
        while len(self._kept) > _NUM_KEPT_BANKS:
            self._kept.popitem(last=False)
        return self._kept[key]

    def _embed(
        self, vocabulary: Vocabulary, templates: str, same_tokens: SameTokens
    ) -> EmbeddedNames:
        findings = self._models.examine_names(vocabulary, templates=templates)
        findings.check_words()
        if same_tokens == "refuse":
            findings.check_alike()
        elif same_tokens == "merge":
            vocabulary = Vocabulary(findings.merged_names())
            findings = replace(findings, alike=())
        for line in findings.lines():
            _logger.warning("%s", line)
        bank_CE = self._models.text_bank(vocabulary, templates=templates)
        return EmbeddedNames(vocabulary=vocabulary, bank_CE=bank_CE)
