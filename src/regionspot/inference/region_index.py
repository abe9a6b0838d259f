"""RegionIndex: finds regions of a cache by words, or by regions that they resemble.

Shape letters: Q queries, R regions, E text width, K results.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal, Self, overload

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from regionspot.cache import Fingerprint
from regionspot.core.errors import CacheCorruptError, ConfigError, ShapeError
from regionspot.core.vocabulary import Vocabulary
from regionspot.inference.faiss_index import FaissIndex
from regionspot.inference.hits import ALL_REGIONS, Hit, RegionFilter, regions_to_search
from regionspot.inference.index_files import (
    INDEX_COMMAND,
    IndexCard,
    IndexSource,
    RegionTable,
    check_embeddings,
    map_embeddings,
    read_card,
    read_table,
)
from regionspot.inference.matching_models import load_matching_encoder
from regionspot.inference.nearest import find_nearest
from regionspot.inference.text_banks import TextBanks

Backend = Literal["exact", "faiss"]
"""How the nearest regions are found."""

_NUM_KEPT_TABLES = 64
_NUM_KEPT_MAPS = 256  # each takes a file descriptor


class RegionIndex:
    """The region embeddings of a cache by one head, on disk; made by `build_region_index`.

    Create it with `open`. Searching reads every embedding once, through memory maps; each part is
    compared with its checksum when it is first read. Neither the cache nor SAM is needed.

    Args:
        folder: The index.
        card: Its card.
        backend: "exact", or "faiss" for its approximate index (`write_faiss`).
        device: Where CLIP embeds words; it is loaded with the first ones.
        clip_weights: Tag or path of CLIP's weights; None takes the usual ones.
    """

    def __init__(
        self,
        folder: Path,
        card: IndexCard,
        *,
        backend: Backend = "exact",
        device: str = "cpu",
        clip_weights: str | None = None,
    ) -> None:
        self.folder = folder
        self.card = card
        self._faiss = FaissIndex(folder, card) if backend == "faiss" else None
        self._device = device
        self._clip_weights = clip_weights
        self._table = lru_cache(_NUM_KEPT_TABLES)(self._read_table)
        self._embeddings = lru_cache(_NUM_KEPT_MAPS)(self._map_embeddings)
        self._is_checked = bytearray(len(card.parts))
        self._counts = [part.num_regions for part in card.parts]
        self._starts = np.concatenate([[0], np.cumsum(self._counts, dtype=np.int64)])

    @classmethod
    def open(
        cls,
        folder: Path | str,
        *,
        source: IndexSource | None = None,
        backend: Backend = "exact",
        device: str = "cpu",
        clip_weights: str | None = None,
    ) -> Self:
        """Open a finished index.

        Args:
            folder: Its folder.
            source: The head and the cache that it must be of; None accepts any.
            backend: "exact" compares a query with every region; "faiss" with those that its
                approximate index takes for near (`regionspot index --faiss`).
            device: Where CLIP embeds words: "auto" (a GPU if there is one), "cpu", "cuda".
            clip_weights: Tag or path of CLIP's weights; None takes the usual ones.

        Raises:
            MissingFileError: The folder has no finished index.
            CacheMismatchError: It is of another head, cache or version than wanted.
            CacheCorruptError: Its card or the index of faiss is damaged.
            MissingExtraError: The extra ``search`` is not installed.
        """
        folder = Path(folder)
        card = read_card(folder)
        if source is not None:
            card.source.check_same(source, where=folder)
        return cls(folder, card, backend=backend, device=device, clip_weights=clip_weights)

    def __len__(self) -> int:
        """Return the number of regions."""
        return int(self._starts[-1])

    @property
    def num_images(self) -> int:
        """Number of images, with or without regions."""
        return sum(part.num_images for part in self.card.parts)

    @overload  # a str, which is also a sequence of str, is one query
    def search(  # type: ignore[overload-overlap]
        self,
        words: str,
        *,
        top: int = 20,
        templates: str | None = None,
        only: RegionFilter = ALL_REGIONS,
        banks: TextBanks | None = None,
    ) -> list[Hit]: ...

    @overload
    def search(
        self,
        words: Sequence[str],
        *,
        top: int = 20,
        templates: str | None = None,
        only: RegionFilter = ALL_REGIONS,
        banks: TextBanks | None = None,
    ) -> list[list[Hit]]: ...

    def search(
        self,
        words: str | Sequence[str],
        *,
        top: int = 20,
        templates: str | None = None,
        only: RegionFilter = ALL_REGIONS,
        banks: TextBanks | None = None,
    ) -> list[Hit] | list[list[Hit]]:
        """Find the regions that words describe.

        Args:
            words: A name or a short description; or several, each of which is a query.
            top: Number of hits for each query, best first; fewer if there are fewer regions.
            templates: Template set for the words; None takes that of the head's training.
            only: Which regions may be found.
            banks: Embeds the words; None loads the head's CLIP, once.

        Returns:
            The hits; for several queries, a list of them for each.

        Raises:
            VocabularyError: There are no words, or a tiny CLIP does not know one of them.
            ConfigError: ``top`` is not positive, a class name of ``only`` is unknown, or the
                templates are unknown.
            CacheMismatchError: CLIP's weights are not those that the head was trained with.
            CacheCorruptError: A part of the index is damaged.
            MissingExtraError: CLIP's package is not installed.
        """
        names = (words,) if isinstance(words, str) else tuple(words)
        wanted = templates or self.card.templates
        if not wanted:
            raise ConfigError(
                "the head's card does not name the templates of its training: give them, for"
                " example --templates ensemble81 (templates=)."
            )
        chosen = (banks or self._banks).choose(
            Vocabulary.from_names(names), templates=wanted, same_tokens="keep"
        )
        found = self._find(chosen.bank_CE.cpu(), top=top, only=only, is_text=True)
        return found[0] if isinstance(words, str) else found

    def similar(
        self,
        region: Hit | tuple[str, int] | ArrayLike,
        *,
        top: int = 20,
        only: RegionFilter = ALL_REGIONS,
    ) -> list[Hit]:
        """Find the regions that resemble one.

        Args:
            region: A hit, or the key of an image and the number of a region in it, which is then
                not a hit itself; or the embedding of any region by the same head, (E,), such as a
                row of `Regions.embeddings`.
            top: Number of hits, best first; fewer if there are fewer regions.
            only: Which regions may be found.

        Raises:
            ConfigError: There is no such region, ``top`` is not positive, or a class name of
                ``only`` is unknown.
            ShapeError: The embedding has another width.
            CacheCorruptError: A part of the index is damaged.
        """
        if isinstance(region, Hit):
            region = (region.key, region.region)
        if isinstance(region, tuple) and len(region) == 2 and isinstance(region[0], str):
            key, number = region
            query_E = torch.from_numpy(self.embedding(key, int(number)).astype(np.float32))
            found = self._find(query_E[None], top=top + 1, only=only, is_text=False)[0]
            return [hit for hit in found if (hit.key, hit.region) != (key, number)][:top]
        query_E = torch.as_tensor(np.asarray(region), dtype=torch.float32)
        if query_E.shape != (self.card.text_dim,):
            raise ShapeError(
                f"the embedding has shape {tuple(query_E.shape)}; wanted ({self.card.text_dim},):"
                " one region's, by the head of the index."
            )
        return self._find(query_E[None], top=top, only=only, is_text=False)[0]

    def embedding(self, key: str, region: int) -> NDArray[np.float16]:
        """Return the embedding of a region, (E,), of unit norm.

        Args:
            key: Key of its image.
            region: Its number among the regions of the image, from 0.

        Raises:
            ConfigError: There is no such region.
        """
        for part in range(len(self.card.parts)):
            table = self._table(part)
            (places,) = np.nonzero(table.keys == key.encode("ascii", "replace"))
            if len(places):
                count = int(table.num_regions[places[0]])
                if not 0 <= region < count:
                    raise ConfigError(
                        f"the image {key!r} has the regions 0 to {count - 1}; found {region}."
                        if count
                        else f"the image {key!r} has no regions."
                    )
                row = int(table.starts[places[0]]) + region
                return np.array(self._embeddings(part)[row])
        raise ConfigError(
            f"{self.folder} has no image {key!r}; wanted the key of an image as a search prints it,"
            " for example --like KEY:0."
        )

    def check_head(self, head_sha256: str) -> None:
        """Raise `CacheMismatchError` unless the index is of this head (`TrainedHead.sha256`)."""
        self.card.source.check_same(
            IndexSource(head_sha256=head_sha256, cache_sha256=self.card.source.cache_sha256),
            where=self.folder,
        )

    def _find(
        self, queries_QE: Tensor, *, top: int, only: RegionFilter, is_text: bool
    ) -> list[list[Hit]]:
        if top < 1:
            raise ConfigError(f"top is {top}; wanted a whole number of at least 1.")
        masks = regions_to_search(
            only, map(self._table, range(len(self.card.parts))), self.card.vocabulary, self.folder
        )
        queries_QE = F.normalize(queries_QE.float(), dim=1)
        if self._faiss is None:
            nearest = find_nearest(queries_QE, self._counts, self._embeddings, top=top, masks=masks)
        elif masks is None:
            nearest = self._faiss.find(queries_QE, self._rows, top=top)
        else:
            raise ConfigError(
                "faiss cannot leave out images or labels (--images, --not_labelled): use the exact"
                " backend for these, --backend exact."
            )
        return [
            [
                hit
                for cosine, row in zip(cosines.tolist(), rows.tolist(), strict=True)
                if cosine > -np.inf
                for hit in [self._hit(row, cosine, is_text=is_text)]
                if only.min_score is None or hit.score >= only.min_score
            ]
            for cosines, rows in zip(nearest.cosines_QK, nearest.rows_QK, strict=True)
        ]

    @cached_property
    def _banks(self) -> TextBanks:
        encoder = load_matching_encoder(
            self.card.fingerprint, device=self._device, clip_weights=self._clip_weights
        )
        return TextBanks(encoder, Fingerprint.from_dict(self.card.fingerprint), None)

    def _hit(self, row: int, cosine: float, *, is_text: bool) -> Hit:
        part = int(np.searchsorted(self._starts, row, side="right")) - 1  # parts may be empty
        table = self._table(part)
        own = row - int(self._starts[part])
        image = int(table.images[own])
        key, label = table.keys[image].decode("ascii"), int(table.labels[own])
        x1, y1, x2, y2 = table.boxes_xyxy[own].tolist()
        logit = self.card.scale * cosine + self.card.bias
        return Hit(
            key=key,
            region=own - int(table.starts[image]),
            image_id=int(table.image_ids[image]),
            file_name=table.file_name(image),
            box_xyxy=(x1, y1, x2, y2),
            label=self.card.vocabulary[label] if 0 <= label < len(self.card.vocabulary) else None,
            cosine=cosine,
            confidence=torch.tensor(logit).sigmoid().item() if is_text else None,
        )

    def _rows(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the embeddings of regions by their numbers, (K, E) float32."""
        parts = np.searchsorted(self._starts, rows, side="right") - 1
        found = [
            self._embeddings(int(part))[row - self._starts[part]]
            for part, row in zip(parts, rows, strict=True)
        ]
        return torch.from_numpy(np.array(found, np.float32).reshape(len(rows), self.card.text_dim))

    def _map_embeddings(self, part: int) -> NDArray[np.float16]:
        described = self.card.parts[part]
        embeddings_RE = map_embeddings(self.folder, part, described, self.card.text_dim)
        if not self._is_checked[part]:
            check_embeddings(self.folder, part, described.embeddings_xxh3)
            self._is_checked[part] = True
        return embeddings_RE

    def _read_table(self, part: int) -> RegionTable:
        table, source, _ = read_table(self.folder, part)
        source.check_same(self.card.source, where=self.folder)
        if len(table.labels) != self.card.parts[part].num_regions:
            raise CacheCorruptError(
                f"{self.folder}: part {part} has {len(table.labels)} regions where the card says"
                f" {self.card.parts[part].num_regions}. Make the index again: {INDEX_COMMAND}"
            )
        return table
