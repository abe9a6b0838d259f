"""The names to choose from: read from what a person gives, checked, and embedded once."""

import logging
import os
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from typing import get_args

import torch
from torch import Tensor

from regionspot.backbones import FrozenModels, SameTokens
from regionspot.core.errors import ConfigError, VocabularyError
from regionspot.core.vocabulary import Vocabulary
from regionspot.inference.stored_banks import StoredBanks

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


class ChosenNames:
    """Names to choose from, checked; they are embedded when their bank is first asked for.

    Args:
        vocabulary: The names.
        templates: The sentences that they are put into.
        models: The frozen models, whose CLIP embeds them.
        stored: Where banks are looked for first, and kept.
    """

    def __init__(
        self, vocabulary: Vocabulary, templates: str, *, models: FrozenModels, stored: StoredBanks
    ) -> None:
        self.vocabulary = vocabulary
        self._templates = templates
        self._models = models
        self._stored = stored

    @cached_property
    def bank_CE(self) -> Tensor:  # noqa: N802 - shape letters
        """Their embeddings, (C, E) float32 of unit norm, on CLIP's device."""
        found = self._stored.get(self.vocabulary, templates=self._templates)
        if found is not None:
            return torch.from_numpy(found).to(self._models.encoder.device)
        bank_CE = self._models.encoder.text_bank(self.vocabulary.names, self._templates)
        self._stored.keep(self.vocabulary, bank_CE.cpu().numpy(), templates=self._templates)
        return bank_CE


class TextBanks:
    """Vocabularies with their embeddings, of which those asked for lately stay in memory.

    Args:
        models: The frozen models, whose CLIP embeds the names.
        stored: The banks on disk.
    """

    def __init__(self, models: FrozenModels, stored: StoredBanks) -> None:
        self._models = models
        self._stored = stored
        self._kept: OrderedDict[tuple[str, str, str], ChosenNames] = OrderedDict()

    def choose(
        self, vocabulary: Vocabulary, *, templates: str, same_tokens: SameTokens
    ) -> ChosenNames:
        """Check names, and return them without running CLIP.

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
            self._kept[key] = self._choose(vocabulary, templates, same_tokens)
        self._kept.move_to_end(key)
        while len(self._kept) > _NUM_KEPT_BANKS:
            self._kept.popitem(last=False)
        return self._kept[key]

    def _choose(
        self, vocabulary: Vocabulary, templates: str, same_tokens: SameTokens
    ) -> ChosenNames:
        findings = self._models.encoder.examine_names(vocabulary.names, templates)
        findings.check_words()
        if same_tokens == "refuse":
            findings.check_alike()
        elif same_tokens == "merge":
            vocabulary = Vocabulary(findings.merged_names())
            findings = replace(findings, alike=())
        for line in findings.lines():
            _logger.warning("%s", line)
        return ChosenNames(vocabulary, templates, models=self._models, stored=self._stored)
