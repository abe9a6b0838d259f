"""Makes the region index of a cache: a head's embeddings of all its regions, computed once.

It can be stopped or killed at any moment: the parts that are whole stay, and the same call makes
the others. On one machine, equal heads, caches, batch sizes and devices give equal files.
"""

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from regionspot.cache import CachedSample, FeatureCache
from regionspot.core.errors import CacheCorruptError, MissingFileError, NotFiniteError
from regionspot.core.files import folder_lock
from regionspot.core.stopping import check_stop, safe_points, stop_advice
from regionspot.inference.from_cache import check_fits, map_embedded
from regionspot.inference.image_files import stored_file_name
from regionspot.inference.index_files import (
    IndexCard,
    IndexPart,
    IndexSource,
    RegionTable,
    card_path,
    check_embeddings,
    encode_file_name,
    read_card,
    read_table,
    write_card,
    write_part,
)
from regionspot.model import TrainedHead, normalized

_logger = logging.getLogger(__name__)


def build_region_index(
    trained_head: TrainedHead,
    cache: FeatureCache,
    folder: Path | str,
    *,
    batch_size: int = 16,
    device: str | torch.device = "cpu",
) -> None:
    """Embed every region of a cache and write the index, or finish it.

    Existing parts are compared with their checksums; damaged ones are made again.

    Args:
        trained_head: The head; moved to ``device`` in eval mode.
        cache: The cache.
        folder: Where the index goes: 2 E + 20 bytes for each region, and about 60 for each
            image.
        batch_size: Images embedded at once.
        device: Where the head runs.

    Raises:
        CacheMismatchError: The cache was made by other frozen models than the head was trained on;
            or the folder has the index of another head or cache.
        ConfigError: ``batch_size`` is not positive, or another process is writing to the folder.
        NotFiniteError: An embedding is NaN or infinite.
    """
    check_fits(trained_head, cache, batch_size)
    folder = Path(folder)
    source = IndexSource(head_sha256=trained_head.sha256, cache_sha256=cache.index.contents_sha256)
    advice = "Wait for it, or give another --output."
    with (
        safe_points(),
        stop_advice("the same command makes the rest of the index"),
        folder_lock(folder, advice=advice),
    ):
        if card_path(folder).exists():
            read_card(folder).source.check_same(source, where=folder)
        parts = []
        # `disable=None` keeps log files free of progress bars.
        for number in tqdm(
            range(cache.index.num_shards), desc="embedding regions", unit=" shards", disable=None
        ):
            check_stop()
            part = _whole_part(folder, number, source)
            if part is None:
                table, embeddings_RE = _embed_shard(
                    trained_head, cache, number, batch_size=batch_size, device=torch.device(device)
                )
                part = write_part(folder, number, table, embeddings_RE, source)
            parts.append(part)
        card = trained_head.card
        write_card(
            folder,
            IndexCard(
                source=source,
                fingerprint=cache.manifest.fingerprint.to_dict(),  # equal to the head's
                templates=card.templates,
                scale=float(trained_head.classifier.scale),
                bias=float(trained_head.classifier.bias),
                vocabulary=cache.manifest.vocabulary.names,
                text_dim=trained_head.head.spec.text_dim,
                parts=tuple(parts),
            ),
        )


def _whole_part(folder: Path, number: int, source: IndexSource) -> IndexPart | None:
    """Return a part that exists and is whole, else None.

    Raises:
        CacheMismatchError: It is of another head or cache.
    """
    try:
        table, found, checksum = read_table(folder, number)
        found.check_same(source, where=folder)
        check_embeddings(folder, number, checksum)
    except MissingFileError:
        return None
    except CacheCorruptError as error:
        _logger.warning("part %d is made again: %s", number, error)
        return None
    return IndexPart(
        num_images=len(table.keys), num_regions=len(table.labels), embeddings_xxh3=checksum
    )


def _embed_shard(
    trained_head: TrainedHead,
    cache: FeatureCache,
    shard: int,
    *,
    batch_size: int,
    device: torch.device,
) -> tuple[RegionTable, np.ndarray]:
    """Return the regions of a shard, and their embeddings, (R, E) float16 of unit norm."""

    def collected(sample: CachedSample, z_RE: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        embeddings_RE = normalized(z_RE).half().cpu().numpy()
        if not np.isfinite(embeddings_RE).all():
            raise NotFiniteError(
                f"image {sample.key} of {cache.location}: the head's embeddings are not finite."
                " Check the head with `regionspot verify`, and the cache with `regionspot cache"
                " verify`."
            )
        return embeddings_RE, np.array(sample.boxes_xyxy), sample.labels.astype(np.int32)

    index = cache.index
    images = range(int(index.shard_starts[shard]), int(index.shard_starts[shard + 1]))
    cache.read_shard_ahead(shard)
    rows = list(
        map_embedded(
            trained_head,
            cache,
            collected,
            positions=images,
            batch_size=batch_size,
            device=device,
        )
    )
    width = trained_head.head.spec.text_dim
    empty = (np.zeros((0, width), np.float16), np.zeros((0, 4), np.float32), np.zeros(0, np.int32))
    embeddings_RE, boxes_xyxy, labels = map(np.concatenate, zip(empty, *rows, strict=True))
    names = [encode_file_name(stored_file_name(cache, image)) for image in images]
    own = slice(images.start, images.stop)
    table = RegionTable(
        keys=index.keys[own],
        image_ids=index.image_ids[own],
        file_names=np.array(names, np.bytes_),
        num_regions=index.num_regions[own],
        boxes_xyxy=boxes_xyxy,
        labels=labels,
    )
    return table, embeddings_RE
