"""Text banks on disk, so that the same names are not embedded by every process anew.

Two places are looked at: the folder of the head, where training has left the bank of its names, and
a folder of this machine with the banks of earlier calls. All are files of `TextBankStore`: they
carry a checksum and the identity of the CLIP that made them. One that does not fit is never used,
and no trouble with files is an error: names are embedded then.
"""

import logging
import os
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from regionspot.backbones import template_texts
from regionspot.cache import Fingerprint, TextBankStore, text_banks_path
from regionspot.core.errors import CacheMismatchError, ConfigError, RegionSpotError
from regionspot.core.files import canonical_json, file_lock, sha256_bytes
from regionspot.core.vocabulary import Vocabulary
from regionspot.storage import local_home, make_room

LIMIT_VARIABLE: Final = "REGIONSPOT_TEXT_BANKS_MB"
"""Disk space for the banks of earlier calls, in units of 1e6 bytes; 0 keeps none."""

_DEFAULT_MB = 500.0
_PURPOSE = "text_banks"
_SUFFIX = ".h5"
_PATTERN = "[0-9a-f]" * 64 + _SUFFIX
_logger = logging.getLogger(__name__)


class StoredBanks:
    """Looks for text banks on disk, and keeps new ones there.

    Args:
        fingerprint: Of the frozen models at hand: banks of another CLIP are not used.
        head_folder: The folder of the head; None for a head that was not loaded.

    Raises:
        ConfigError: ``$REGIONSPOT_TEXT_BANKS_MB`` is no number, or a negative one.
    """

    def __init__(self, fingerprint: Fingerprint, head_folder: Path | None) -> None:
        self._clip_sha256 = fingerprint.text_encoder_sha256
        self._text_dim = fingerprint.text_dim
        self._of_head = None if head_folder is None else text_banks_path(head_folder)
        self._limit_bytes = _limit_bytes()
        self._may_keep = self._limit_bytes > 0
        self._told: set[Path] = set()

    def get(self, vocabulary: Vocabulary, *, templates: str) -> NDArray[np.float32] | None:
        """Return the bank of a vocabulary, (C, E) float32 of unit norm, or None if there is none.

        Args:
            vocabulary: The names.
            templates: The template set that they are put into.
        """
        if self._of_head is not None:
            bank = self._read(self._of_head, vocabulary, templates)
            if bank is not None:
                return bank
        if not self._limit_bytes:
            return None
        path = self._kept_path(vocabulary, templates)
        bank = self._read(path, vocabulary, templates)
        if bank is not None:
            with suppress(OSError):
                os.utime(path)  # the longest unused ones are removed first
        return bank

    def keep(self, vocabulary: Vocabulary, bank: NDArray[np.float32], *, templates: str) -> None:
        """Keep a bank for later calls, and remove the longest unused ones that exceed the limit.

        Args:
            vocabulary: The names.
            bank: Their embeddings, (C, E) float32 of unit norm.
            templates: The template set that they were put into.
        """
        if not self._may_keep or bank.nbytes > self._limit_bytes:
            return
        path = self._kept_path(vocabulary, templates)
        try:
            with file_lock(path.parent / "lock", wait=False) as is_ours:
                if is_ours:  # or another process is writing: the next one will keep it
                    path.unlink(missing_ok=True)
                    self._write(path, vocabulary, bank, templates)
        except (OSError, RuntimeError, RegionSpotError) as error:  # HDF5 raises RuntimeError, too
            self._may_keep = False
            _logger.warning(
                "embeddings of names are not kept for the next call, as %s cannot be written (%s)."
                " Name another folder by REGIONSPOT_HOME, or keep none: %s=0",
                path.parent,
                error,
                LIMIT_VARIABLE,
            )

    def _write(
        self, path: Path, vocabulary: Vocabulary, bank: NDArray[np.float32], templates: str
    ) -> None:
        store = TextBankStore(path)
        store.put(vocabulary, bank, templates=templates, clip_sha256=self._clip_sha256)
        make_room(
            0,
            limit_bytes=self._limit_bytes,
            home=path.parent,
            patterns=[_PATTERN],
            lock_of=lambda _path: nullcontext(enter_result=True),
        )

    def _kept_path(self, vocabulary: Vocabulary, templates: str) -> Path:
        """Return the file of a bank, by all that decides its numbers."""
        sentences = list(template_texts(templates))
        asked = [self._clip_sha256, vocabulary.sha256, templates, sentences]
        name = sha256_bytes(canonical_json(asked).encode("utf-8"))
        return local_home() / _PURPOSE / f"{name}{_SUFFIX}"

    def _read(
        self, path: Path, vocabulary: Vocabulary, templates: str
    ) -> NDArray[np.float32] | None:
        try:
            bank = TextBankStore(path).get(
                vocabulary, templates=templates, clip_sha256=self._clip_sha256
            )
        except CacheMismatchError:
            reason = "is of another CLIP, or of another version of RegionSpot"
        except RegionSpotError:
            reason = "is damaged, or was edited"
        except OSError as error:
            reason = f"cannot be read ({error})"
        else:
            if bank is None or bank.shape[1] == self._text_dim:
                return bank
            reason = f"holds embeddings of {bank.shape[1]} numbers, wanted {self._text_dim}"
        if path not in self._told:
            self._told.add(path)
            _logger.warning("%s %s: it is not used, and names are embedded anew.", path, reason)
        return None


def _limit_bytes() -> int:
    text = os.environ.get(LIMIT_VARIABLE, str(_DEFAULT_MB))
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not 0 <= limit < float("inf"):
        raise ConfigError(
            f"the disk space for embeddings of names is {text!r}; wanted a number of MB, or 0 to"
            f" keep none (${LIMIT_VARIABLE})."
        )
    return int(limit * 1e6)
