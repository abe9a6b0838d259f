"""The names to choose from: read from the user's input, checked, and embedded once."""

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import get_args

import torch
from torch import Tensor

from regionspot.backbones import FrozenModels, SameTokens, check_templates
from regionspot.core.errors import ConfigError, VocabularyError
from regionspot.core.vocabulary import Vocabulary
from regionspot.inference.stored_banks import StoredBanks

_logger = logging.getLogger(__name__)

_NUM_KEPT_BANKS = 16


def as_vocabulary(names: object) -> Vocabulary:
    """Return a vocabulary as it is, or make one from a list of names.

    Raises:
        VocabularyError: It is a text, a path or no list; or it is empty, or a name is empty or
            repeated.
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


@dataclass(frozen=True, kw_only=True, eq=False)
class ChosenNames:
    """Names that CLIP can read."""

    vocabulary: Vocabulary
    """The names."""
    templates: str
    """The template set for the names."""
    models: FrozenModels
    """The frozen models, whose CLIP embeds the names."""
    stored: StoredBanks
    """The banks on disk."""

    @cached_property
    def bank_CE(self) -> Tensor:  # noqa: N802 - shape letters
        """Embeddings, (C, E) float32 of unit norm, on CLIP's device; computed on first use."""
        found = self.stored.get(self.vocabulary, templates=self.templates)
        if found is not None:
            return torch.from_numpy(found).to(self.models.encoder.device)
        bank_CE = self.models.encoder.text_bank(self.vocabulary.names, self.templates)
        self.stored.keep(self.vocabulary, bank_CE.cpu().numpy(), templates=self.templates)
        return bank_CE


class TextBanks:
    """Chosen names with their embeddings; the most recently used stay in memory.

    Args:
        models: The frozen models, whose CLIP embeds the names.
        stored: The banks on disk.
    """

    def __init__(self, models: FrozenModels, stored: StoredBanks) -> None:
        self._choose = lru_cache(_NUM_KEPT_BANKS)(partial(_choose, models, stored))

    def choose(
        self, vocabulary: Vocabulary, *, templates: str, same_tokens: SameTokens
    ) -> ChosenNames:
        """Check names without running CLIP.

        Args:
            vocabulary: The names.
            templates: The template set for the names.
            same_tokens: How to treat names that CLIP cannot tell apart: "keep" them, with a
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
        check_templates(templates)
        return self._choose(vocabulary, templates, same_tokens)


def _choose(
    models: FrozenModels,
    stored: StoredBanks,
    vocabulary: Vocabulary,
    templates: str,
    same_tokens: SameTokens,
) -> ChosenNames:
    findings = models.encoder.examine_names(vocabulary.names, templates)
    findings.check_words()
    if same_tokens == "refuse":
        findings.check_alike()
    elif same_tokens == "merge":
        vocabulary = Vocabulary(findings.merged_names())
        findings = replace(findings, alike=())
    for line in findings.lines():
        _logger.warning("%s", line)
    return ChosenNames(vocabulary=vocabulary, templates=templates, models=models, stored=stored)
