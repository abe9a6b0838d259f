"""How many of the nearest regions does an approximate index of faiss find?

    python benchmarks/faiss_recall.py
    python benchmarks/faiss_recall.py --cache caches/mine --head runs/mine --factory IVF1024,SQfp16

By default the quickstart's head on the cache with the most regions. Queries are the class names of
the head's training, and 300 regions. Prints the mean share of the exact ``top`` regions that are
found, by the number of clusters that a query looks into.
"""

import tempfile
from pathlib import Path

import faiss
import numpy as np
from jsonargparse import auto_cli
from numpy.typing import NDArray

from regionspot.cache import FeatureCache, TextBankStore, text_banks_path
from regionspot.core.vocabulary import Vocabulary
from regionspot.inference import build_region_index
from regionspot.model import load_trained_head

NUM_REGIONS = 300


def benchmark(
    *,
    cache: Path = Path("runs/quickstart/cache/toy365"),
    head: Path = Path("runs/quickstart"),
    factory: str = "IVF64,SQfp16",
    top: int = 20,
) -> None:
    """Compare an approximate index with exact search.

    Args:
        cache: A feature cache.
        head: The run of a head.
        factory: faiss's name of the index.
        top: Number of regions to find.
    """
    trained_head = load_trained_head(head)
    with tempfile.TemporaryDirectory() as folder:
        with FeatureCache.open(cache) as opened:
            build_region_index(trained_head, opened, folder)
            fingerprint = opened.manifest.fingerprint
        parts = [np.load(path) for path in sorted(Path(folder).glob("parts/*.npy"))]
    rows: NDArray[np.float32] = np.concatenate(parts).astype(np.float32)
    exact = faiss.IndexFlatIP(rows.shape[1])
    index = faiss.index_factory(rows.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    index.train(rows)
    for one in (exact, index):
        one.add(rows)
    regions = np.random.default_rng(0).choice(len(rows), NUM_REGIONS, replace=False)
    queries = {f"{NUM_REGIONS} regions": rows[regions]}
    folder_of_head = trained_head.folder
    if folder_of_head is not None:
        bank = TextBankStore(text_banks_path(folder_of_head)).get(
            Vocabulary(trained_head.card.vocabulary),
            templates=trained_head.card.templates,
            clip_sha256=fingerprint.text_encoder_sha256,
        )
        if bank is not None:
            queries[f"{len(bank)} class names"] = bank
    print(f"{factory} of {len(rows):,} regions, the best {top}")
    for name, query in queries.items():
        wanted = exact.search(query, top)[1]
        for num_probes in (1, 2, 4, 8, 16, 32):
            faiss.extract_index_ivf(index).nprobe = num_probes
            found = index.search(query, top)[1]
            shares = [len(set(a) & set(b)) / top for a, b in zip(wanted, found, strict=True)]
            print(f"{name}, {num_probes:2} clusters: {np.mean(shares):.1%}")


if __name__ == "__main__":
    auto_cli(benchmark)
