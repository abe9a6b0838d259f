"""An approximate index of faiss beside the parts of a region index, for many millions of regions.

faiss says which regions may be near; their cosines are then computed from the embeddings, so that
scores are exact and only a region may be missed.
"""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import xxhash
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from regionspot.cache import open_sealed_json, seal_json
from regionspot.core.errors import CacheCorruptError, CacheMismatchError, ConfigError
from regionspot.core.files import open_atomic, write_text_atomic
from regionspot.core.stopping import check_stop, safe_points
from regionspot.core.text import needs_extra
from regionspot.inference.index_files import IndexCard, file_checksum, map_embeddings
from regionspot.inference.nearest import Nearest

FAISS_COMMAND: Final = "regionspot index <cache> --head <its head> --faiss IVF1024,SQfp16"
_ROWS_PER_CLUSTER = 64  # faiss asks for 39 at least and uses 256 at most
_MIN_CLUSTERS = 1024
_NUM_PROBES = 32


def write_faiss(folder: Path, card: IndexCard, factory: str) -> None:
    """Write ``faiss.index`` and ``faiss.json``, both atomically.

    Args:
        folder: A finished region index.
        card: Its card.
        factory: The kind of index in faiss's words, such as "IVF1024,SQfp16".

    Raises:
        ConfigError: faiss has no such kind of index, or it needs more regions for its training.
        MissingExtraError: The extra ``search`` is not installed.
    """
    faiss = _import_faiss()
    try:
        index = faiss.index_factory(card.text_dim, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise ConfigError(
            f"faiss has no index {factory!r}; wanted one of its factory strings, such as"
            " IVF1024,SQfp16 (--faiss)."
        ) from error
    total = sum(part.num_regions for part in card.parts)
    with safe_points():
        try:
            clusters = faiss.try_extract_index_ivf(index)  # None for other kinds
            num_clusters = max(clusters.nlist if clusters else 0, _MIN_CLUSTERS)
            index.train(_training_rows(folder, card, total // (_ROWS_PER_CLUSTER * num_clusters)))
        except RuntimeError as error:
            raise ConfigError(
                f"faiss cannot train {factory!r} on {total:,} regions ({str(error)[-200:]}). Use"
                " fewer clusters or, for so few regions, no --faiss."
            ) from error
        for rows in tqdm(
            _parts(folder, card), total=len(card.parts), desc="faiss", unit=" parts", disable=None
        ):
            check_stop()
            index.add(np.asarray(rows, np.float32))
        if clusters:
            clusters.nprobe = _NUM_PROBES
        _description_path(folder).unlink(missing_ok=True)
        digest = xxhash.xxh3_64()
        with open_atomic(_index_path(folder)) as file:

            def write(data: bytes) -> int:
                digest.update(data)
                return file.write(data)

            faiss.write_index(index, faiss.PyCallbackIOWriter(write))
        text, _ = seal_json(
            {
                "factory": factory,
                "head_sha256": card.source.head_sha256,
                "cache_sha256": card.source.cache_sha256,
                "xxh3": digest.hexdigest(),
            }
        )
        write_text_atomic(_description_path(folder), text)


class FaissIndex:
    """The approximate index of a region index; clusters stay on disk until they are needed.

    Args:
        folder: The region index.
        card: Its card.

    Raises:
        MissingFileError: It has no approximate index.
        CacheMismatchError: It was made of another region index.
        CacheCorruptError: It is damaged.
        MissingExtraError: The extra ``search`` is not installed.
    """

    def __init__(self, folder: Path, card: IndexCard) -> None:
        faiss = _import_faiss()
        values, _ = open_sealed_json(
            _description_path(folder), remedy=f"Make it, once: {FAISS_COMMAND}"
        )
        source = (card.source.head_sha256, card.source.cache_sha256)
        if (values.get("head_sha256"), values.get("cache_sha256")) != source:
            raise CacheMismatchError(
                f"{_index_path(folder)} was made of another region index. Make it again:"
                f" {FAISS_COMMAND}"
            )
        if file_checksum(_index_path(folder)) != values.get("xxh3"):
            raise CacheCorruptError(
                f"{_index_path(folder)} is missing or damaged: its bytes are not those that were"
                f" written. Make it again: {FAISS_COMMAND}"
            )
        self._index: Any = faiss.read_index(str(_index_path(folder)), faiss.IO_FLAG_MMAP)

    def find(
        self, queries_QE: Tensor, rows_of: Callable[[NDArray[np.int64]], Tensor], *, top: int
    ) -> Nearest:
        """Find regions that are near to queries.

        Args:
            queries_QE: Queries of unit norm, (Q, E) float32 on the CPU.
            rows_of: Returns the embeddings of regions by their numbers, (K, E) float32.
            top: Number of results.
        """
        _, rows_QK = self._index.search(queries_QE.numpy(), top)
        cosines_QK = np.full(rows_QK.shape, -np.inf, np.float32)
        for query_E, rows, cosines in zip(queries_QE, rows_QK, cosines_QK, strict=True):
            found = rows >= 0  # -1 where faiss found fewer
            cosines[found] = (rows_of(rows[found]) @ query_E).numpy()
        order_QK = np.lexsort((rows_QK, -cosines_QK))
        return Nearest(
            cosines_QK=np.take_along_axis(cosines_QK, order_QK, axis=1),
            rows_QK=np.take_along_axis(rows_QK, order_QK, axis=1),
        )


def _import_faiss() -> Any:
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # it tells which build it loads
    with needs_extra("search"):
        import faiss
    return faiss


def _index_path(folder: Path) -> Path:
    return folder / "faiss.index"


def _description_path(folder: Path) -> Path:
    return folder / "faiss.json"


def _parts(folder: Path, card: IndexCard) -> Iterator[NDArray[np.float16]]:
    for number, part in enumerate(card.parts):
        yield map_embeddings(folder, number, part, card.text_dim)


def _training_rows(folder: Path, card: IndexCard, step: int) -> NDArray[np.float32]:
    """Return every ``step``-th embedding."""
    parts = [np.asarray(rows[:: max(step, 1)], np.float32) for rows in _parts(folder, card)]
    return np.concatenate(parts)
