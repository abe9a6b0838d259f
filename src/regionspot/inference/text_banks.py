"""The names to choose from and their embeddings (text banks), which are computed only once.

Banks of recent calls are kept in memory. On disk, they are read from the folder of the head, where
training saves the bank of its names, and from a folder on this machine with the banks of earlier
calls. Each is a `TextBankStore` file with a checksum and the hash of the CLIP that made it. A file
that does not match or cannot be read is not an error: the names are embedded again.
"""

import logging
import os
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Final, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from regionspot.backbones import Encoder, SameTokens, check_templates, template_texts
from regionspot.cache import Fingerprint, TextBankStore, text_banks_path
from regionspot.core.errors import (
    CacheMismatchError,
    ConfigError,
    RegionSpotError,
    VocabularyError,
)
from regionspot.core.files import canonical_json, file_lock, sha256_bytes
from regionspot.core.vocabulary import Vocabulary
from regionspot.storage import local_home, make_room

LIMIT_VARIABLE: Final = "REGIONSPOT_TEXT_BANKS_MB"
"""Disk space for the banks of earlier calls, in MB (1e6 bytes); 0 keeps none."""

_DEFAULT_MB = 500.0
_PURPOSE = "text_banks"
_SUFFIX = ".h5"
_PATTERN = "[0-9a-f]" * 64 + _SUFFIX
_NUM_KEPT_BANKS = 16
_logger = logging.getLogger(__name__)


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


class StoredBanks:
    """Reads text banks from disk and saves new ones.

    Args:
        fingerprint: Fingerprint of the frozen models; banks of another CLIP are not used.
        head_folder: The folder of the head; None for a head that was not loaded.

    Raises:
        ConfigError: ``$REGIONSPOT_TEXT_BANKS_MB`` is not a number of 0 or more.

    Attributes:
        clip_sha256: Identity of the CLIP that embeds the names.
    """

    def __init__(self, fingerprint: Fingerprint, head_folder: Path | None) -> None:
        self.clip_sha256 = fingerprint.text_encoder_sha256
        self._text_dim = fingerprint.text_dim
        self._head_path = None if head_folder is None else text_banks_path(head_folder)
        self._limit_bytes = _limit_bytes()
        self._may_keep = self._limit_bytes > 0
        self._warned: set[Path] = set()

    def get(self, vocabulary: Vocabulary, *, templates: str) -> NDArray[np.float32] | None:
        """Return the bank of a vocabulary, (C, E) float32 of unit norm, or None."""
        if self._head_path is not None:
            bank = self._read(self._head_path, vocabulary, templates)
            if bank is not None:
                return bank
        if not self._limit_bytes:
            return None
        path = self._kept_path(vocabulary, templates)
        bank = self._read(path, vocabulary, templates)
        if bank is not None:
            with suppress(OSError):
                os.utime(path)  # the least recently used are removed first
        return bank

    def keep(self, vocabulary: Vocabulary, bank: NDArray[np.float32], *, templates: str) -> None:
        """Save a bank, (C, E), and remove the least recently used ones beyond the limit."""
        if not self._may_keep or bank.nbytes > self._limit_bytes:
            return
        path = self._kept_path(vocabulary, templates)
        try:
            with file_lock(path.parent / "lock", wait=False) as is_ours:
                if is_ours:  # else another process is writing, and a later call saves this bank
                    path.unlink(missing_ok=True)
                    TextBankStore(path).put(
                        vocabulary, bank, templates=templates, clip_sha256=self.clip_sha256
                    )
                    make_room(
                        0,
                        limit_bytes=self._limit_bytes,
                        home=path.parent,
                        patterns=[_PATTERN],
                        lock_of=lambda _path: nullcontext(enter_result=True),
                    )
        except (OSError, RuntimeError, RegionSpotError) as error:  # HDF5 raises RuntimeError, too
            self._may_keep = False
            _logger.warning(
                "embeddings of names are not saved, as %s cannot be written (%s). Set"
                " REGIONSPOT_HOME to another folder, or turn saving off with %s=0.",
                path.parent,
                error,
                LIMIT_VARIABLE,
            )

    def _kept_path(self, vocabulary: Vocabulary, templates: str) -> Path:
        """Return the file of a bank, named by the hash of everything its numbers depend on."""
        sentences = list(template_texts(templates))
        inputs = [self.clip_sha256, vocabulary.sha256, templates, sentences]
        name = sha256_bytes(canonical_json(inputs).encode("utf-8"))
        return local_home() / _PURPOSE / f"{name}{_SUFFIX}"

    def _read(
        self, path: Path, vocabulary: Vocabulary, templates: str
    ) -> NDArray[np.float32] | None:
        try:
            bank = TextBankStore(path).get(
                vocabulary, templates=templates, clip_sha256=self.clip_sha256
            )
        except CacheMismatchError:
            reason = "was made by another CLIP or another version of RegionSpot"
        except RegionSpotError:
            reason = "is damaged or was edited"
        except OSError as error:
            reason = f"cannot be read ({error})"
        else:
            if bank is None or bank.shape[1] == self._text_dim:
                return bank
            reason = f"holds embeddings of width {bank.shape[1]}, wanted {self._text_dim}"
        if path not in self._warned:
            self._warned.add(path)
            _logger.warning("%s %s: it is not used; the names are embedded again.", path, reason)
        return None


@dataclass(frozen=True, kw_only=True, eq=False)
class ChosenNames:
    """Names that CLIP can read."""

    vocabulary: Vocabulary
    """The names."""
    templates: str
    """The template set for the names."""
    encoder: Encoder
    """The frozen CLIP, which embeds the names."""
    stored: StoredBanks
    """The banks on disk."""

    @cached_property
    def bank_CE(self) -> Tensor:  # noqa: N802 - shape letters
        """Embeddings, (C, E) float32 of unit norm, on CLIP's device; computed on first use."""
        found = self.stored.get(self.vocabulary, templates=self.templates)
        if found is not None:
            return torch.from_numpy(found).to(self.encoder.device)
        bank_CE = self.encoder.text_bank(self.vocabulary.names, self.templates)
        self.stored.keep(self.vocabulary, bank_CE.cpu().numpy(), templates=self.templates)
        return bank_CE


class TextBanks:
    """Chosen names with their embeddings; the most recently used stay in memory.

    Args:
        encoder: The frozen CLIP, which embeds the names.
        fingerprint: Fingerprint of the frozen models; stored banks of another CLIP are not used.
        head_folder: The folder of the head; None for a head that was not loaded.
    """

    def __init__(
        self, encoder: Encoder, fingerprint: Fingerprint, head_folder: Path | None
    ) -> None:
        stored = StoredBanks(fingerprint, head_folder)
        self._choose = lru_cache(_NUM_KEPT_BANKS)(partial(_choose, encoder, stored))

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
    encoder: Encoder,
    stored: StoredBanks,
    vocabulary: Vocabulary,
    templates: str,
    same_tokens: SameTokens,
) -> ChosenNames:
    findings = encoder.examine_names(vocabulary.names, templates)
    findings.check_words()
    if same_tokens == "refuse":
        findings.check_alike()
    elif same_tokens == "merge":
        vocabulary = Vocabulary(findings.merged_names())
        findings = replace(findings, alike=())
    for line in findings.lines():
        _logger.warning("%s", line)
    return ChosenNames(vocabulary=vocabulary, templates=templates, encoder=encoder, stored=stored)


def _limit_bytes() -> int:
    text = os.environ.get(LIMIT_VARIABLE, str(_DEFAULT_MB))
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not 0 <= limit < float("inf"):
        raise ConfigError(
            f"the disk space for embeddings of names (${LIMIT_VARIABLE}) is {text!r}; wanted a"
            " number of MB, or 0 to save none."
        )
    return int(limit * 1e6)
