"""Text banks on disk: the embeddings of a vocabulary, by template set.

Embedding 13,000 names with 81 templates each is slow and needs the text encoder, so it is done once
per cache. The category tree, also stored here, says which classes are kinds of which, if the data
set does (V3Det); neither training nor evaluation uses it.

Shape letters: C classes, E text width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from regionspot.cache.layout import CACHE_COMMAND, category_tree_path
from regionspot.cache.sealed import (
    hdf5_array,
    hdf5_groups,
    open_sealed_hdf5,
    open_sealed_json,
    seal_json,
    write_sealed_hdf5,
)
from regionspot.core.errors import CacheCorruptError, CacheMismatchError, ConfigError, ShapeError
from regionspot.core.files import write_text_atomic
from regionspot.core.vocabulary import Vocabulary

_REMEDY = f"Remove it, and make it again: {CACHE_COMMAND}"
_NORM_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredBank:
    """A text bank of a store."""

    templates: str
    """Name of its template set."""
    vocabulary: Vocabulary
    """The class names, one per row."""
    bank: NDArray[np.float32]
    """Unit-norm embeddings, (C, E)."""


class TextBankStore:
    """A file of text banks of one CLIP, for any number of vocabularies and template sets.

    Args:
        path: The file; it is created with the first bank.
        remedy: What to do if the file is damaged or of another CLIP, as a sentence for the user.
    """

    def __init__(self, path: Path, *, remedy: str = _REMEDY) -> None:
        self.path = path
        self._remedy = remedy

    def get(
        self, vocabulary: Vocabulary, *, templates: str, clip_sha256: str
    ) -> NDArray[np.float32] | None:
        """Return a stored bank, (C, E), or None if there is none for these names and templates.

        Args:
            vocabulary: The class names.
            templates: Name of the template set.
            clip_sha256: Identity of the CLIP that must have made the bank.
        """
        with self._open(clip_sha256) as groups:
            banks = hdf5_groups(groups[templates]) if templates in groups else {}
            group = banks.get(vocabulary.sha256)
            return None if group is None else self._read(group, templates).bank

    def put(
        self,
        vocabulary: Vocabulary,
        bank: NDArray[np.float32],
        *,
        templates: str,
        clip_sha256: str,
    ) -> None:
        """Store a bank atomically, replacing one of the same names and templates.

        The bytes of the file depend only on its banks, not on the order in which they were stored.

        Args:
            vocabulary: The class names.
            bank: Their unit-norm embeddings, (C, E) float32.
            templates: Name of the template set, without a slash.
            clip_sha256: Identity of the CLIP that made the bank.

        Raises:
            CacheMismatchError: The store holds banks of another CLIP.
            CacheCorruptError: The file was changed after it was written.
            ConfigError: The name of the template set is empty or has a slash.
            ShapeError: The bank does not have one unit-norm float32 row per name.
        """
        _check_bank(vocabulary, bank, templates)
        banks = {
            (stored.templates, stored.vocabulary.sha256): stored
            for stored in self.banks(clip_sha256=clip_sha256)
        }
        banks[templates, vocabulary.sha256] = StoredBank(
            templates=templates, vocabulary=vocabulary, bank=bank
        )

        def fill(h5: h5py.File) -> None:
            h5.attrs["clip_sha256"] = np.bytes_(clip_sha256)
            for (name, vocabulary_sha256), stored in sorted(banks.items()):
                group = h5.require_group(name).create_group(vocabulary_sha256)
                group.create_dataset("embeddings", data=stored.bank, track_times=False)
                group.create_dataset("names", data=_as_bytes(stored.vocabulary), track_times=False)

        write_sealed_hdf5(self.path, fill)

    def banks(self, *, clip_sha256: str) -> tuple[StoredBank, ...]:
        """Return all banks, by template set, or none without a file."""
        with self._open(clip_sha256) as groups:
            return tuple(
                self._read(group, templates)
                for templates, banks in groups.items()
                for group in hdf5_groups(banks).values()
            )

    def templates_of(self, vocabulary: Vocabulary) -> tuple[str, ...]:
        """Return the names of the template sets stored for a vocabulary, sorted."""
        with self._open() as groups:
            return tuple(name for name, banks in groups.items() if vocabulary.sha256 in banks)

    @contextmanager
    def _open(self, clip_sha256: str | None = None) -> Iterator[dict[str, h5py.Group]]:
        """Open the file, if there is one, and yield the groups of its template sets."""
        if not self.path.exists():
            yield {}
            return
        with open_sealed_hdf5(self.path, remedy=self._remedy) as h5:
            found = h5.attrs["clip_sha256"].decode("ascii")
            if clip_sha256 not in {None, found}:
                raise CacheMismatchError(
                    f"{self.path} holds text banks of the CLIP with weights {found}, wanted those"
                    f" of {clip_sha256}. Embeddings of two CLIPs cannot be compared: use the CLIP"
                    f" that made this file, or another file. {self._remedy}"
                )
            yield hdf5_groups(h5)

    def _read(self, group: h5py.Group, templates: str) -> StoredBank:
        names = tuple(name.decode("utf-8") for name in hdf5_array(group, "names").tolist())
        bank = hdf5_array(group, "embeddings")
        vocabulary, fits = Vocabulary(names), bank.ndim == 2 and len(bank) == len(names)
        if not (group.name.endswith(vocabulary.sha256) and fits):
            raise CacheCorruptError(
                f"{self.path}: the bank {group.name} does not belong to its names. {self._remedy}"
            )
        bank = bank.astype(np.float32, copy=False)
        return StoredBank(templates=templates, vocabulary=vocabulary, bank=bank)


def _as_bytes(vocabulary: Vocabulary) -> NDArray[np.bytes_]:
    encoded = [name.encode("utf-8") for name in vocabulary]
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", max(map(len, encoded))))


def _check_bank(vocabulary: Vocabulary, bank: NDArray[np.float32], templates: str) -> None:
    if not templates or "/" in templates or templates == ".":
        raise ConfigError(
            f"the template set is called {templates!r}; wanted a name without a slash, such as"
            " 'ensemble81'."
        )
    if bank.dtype != np.float32 or bank.ndim != 2 or len(bank) != len(vocabulary):
        raise ShapeError(
            f"a text bank is {bank.dtype} {bank.shape}; wanted float32 ({len(vocabulary)}, E), one"
            " row a name."
        )
    norms = np.linalg.norm(bank, axis=1)
    if not (np.abs(norms - 1) < _NORM_TOLERANCE).all():
        raise ShapeError(
            f"the rows of a text bank have norms from {norms.min():.4g} to {norms.max():.4g};"
            " wanted 1: normalise each row before storing it."
        )


Descendants = tuple[tuple[int, ...], ...]
"""For each class, the labels of the classes that are kinds of it, ascending."""


def write_category_tree(cache_dir: Path, descendants: Sequence[Sequence[int]]) -> None:
    """Write ``category_tree.json`` atomically; equal trees give equal bytes."""
    text, _ = seal_json({"descendants": descendants})
    write_text_atomic(category_tree_path(cache_dir), text)


def read_category_tree(cache_dir: Path) -> Descendants | None:
    """Read ``category_tree.json``; None if the cache has none."""
    path = category_tree_path(cache_dir)
    if not path.exists():
        return None
    remedy = f"Remove it and write it again: {CACHE_COMMAND}"
    values, _ = open_sealed_json(path, remedy=remedy)
    try:
        return tuple(tuple(int(label) for label in labels) for labels in values["descendants"])
    except (KeyError, TypeError, ValueError) as error:
        raise CacheCorruptError(f"{path} is no category tree ({error!r}). {remedy}") from error
