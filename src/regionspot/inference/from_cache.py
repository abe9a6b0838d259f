"""Runs a trained head on a feature cache, for scores or embeddings: no SAM, no CLIP, no image.

Shape letters: B images, R regions (padded), T tokens, S SAM width, D CLIP width, E text width,
C classes.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import chain
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from regionspot.cache import CachedSample, FeatureCache
from regionspot.cache.fingerprint import check_same_models
from regionspot.core.errors import ConfigError, ShapeError
from regionspot.core.region_scores import RegionScores
from regionspot.core.workers import map_batches, workers_on
from regionspot.model import FusionHead, TrainedHead

TextBank = NDArray[np.float32] | Tensor
"""Unit-norm class embeddings, (C, E): numpy from a cache, torch from the text encoder."""

_Result = TypeVar("_Result")
_logger = logging.getLogger(__name__)


def as_text_bank(text_bank: TextBank, *, text_dim: int, device: torch.device) -> Tensor:
    """Return a bank as float32 on ``device``; raise `ShapeError` if it is not (C, text_dim)."""
    bank_CE = torch.as_tensor(text_bank)
    if bank_CE.ndim != 2 or len(bank_CE) == 0 or bank_CE.shape[1] != text_dim:
        raise ShapeError(
            f"the text bank has shape {tuple(bank_CE.shape)}; wanted (C, {text_dim}): one row per"
            " class, in the text space of the CLIP that the regions are embedded with."
        )
    return bank_CE.to(device=device, dtype=torch.float32)


def class_probabilities(logits: Tensor) -> NDArray[np.float32]:
    """Turn logits (..., C) into probabilities over the vocabulary, on the CPU.

    The softmax runs in float32 whatever the precision of the logits: in float16 the tail of a long
    vocabulary underflows to ties, and ties decide a top-k.
    """
    probabilities: NDArray[np.float32] = logits.float().softmax(dim=-1).cpu().numpy()
    return probabilities


def score_cached(
    trained_head: TrainedHead,
    cache: FeatureCache,
    text_bank: TextBank,
    *,
    positions: Sequence[int] | None = None,
    batch_size: int = 16,
    device: str | torch.device = "cpu",
) -> Iterator[RegionScores]:
    """Score every region of a feature cache against a vocabulary.

    Args:
        trained_head: A head with its classifier and card; moved to ``device`` in eval mode.
        cache: The cache of the images to score.
        text_bank: Unit-norm class embeddings, (C, E), of the CLIP that made the cache.
        positions: Positions of the images to score; None for all of the cache.
        batch_size: Images scored at once. It changes the speed, not the scores.
        device: Where the head runs.

    Returns:
        One `RegionScores` per image, in the order of ``positions``, with probabilities over the
        vocabulary; an image without regions yields zero rows.

    Raises:
        CacheMismatchError: The cache was made by other frozen models than the head was trained on.
        ConfigError: ``batch_size`` is not positive.
        ShapeError: The text bank does not fit the head.
    """
    target = torch.device(device)
    check_fits(trained_head, cache, batch_size)
    bank_CE = as_text_bank(text_bank, text_dim=trained_head.head.spec.text_dim, device=target)

    def scored(sample: CachedSample, z_RE: Tensor) -> RegionScores:
        return RegionScores(
            image_id=sample.image_id,
            boxes_xyxy=np.array(sample.boxes_xyxy),  # a copy: the view dies with the cache
            scores=class_probabilities(trained_head.classifier(z_RE, bank_CE)),
            box_scores=np.array(sample.box_scores),
        )

    return map_embedded(
        trained_head, cache, scored, positions=positions, batch_size=batch_size, device=target
    )


def check_fits(trained_head: TrainedHead, cache: FeatureCache, batch_size: int) -> None:
    """Check a head and a batch size before a cache is embedded.

    Raises:
        CacheMismatchError: The cache was made by other frozen models than the head was trained on.
        ConfigError: ``batch_size`` is not positive, or the head is guided by masks, and the cache
            has none.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; wanted at least 1 image.")
    if trained_head.head.spec.needs_masks:
        cache.check_has_masks()
    where = f"the cache {cache.location}"
    if trained_head.card.fingerprint:
        check_same_models(trained_head.card.fingerprint, cache.manifest.fingerprint, where=where)
    else:
        _logger.warning(
            "the head's card names no frozen models: cannot check that %s fits it", where
        )


def map_embedded(
    trained_head: TrainedHead,
    cache: FeatureCache,
    function: Callable[[CachedSample, Tensor], _Result],
    *,
    positions: Sequence[int] | None,
    batch_size: int,
    device: torch.device,
) -> Iterator[_Result]:
    """Embed the regions of cached images, and apply a function to each image.

    The caller checks with `check_fits` that the cache fits the head.

    Args:
        trained_head: A head with its classifier and card; moved to ``device`` in eval mode.
        cache: The cache.
        function: Called, in several threads, with each image and the embeddings of its regions,
            (R, E) float32 on ``device``, not normalised. Arrays of the image are views that die
            with the cache.
        positions: Positions of the images; None for all of the cache.
        batch_size: Images embedded at once.
        device: Where the head runs.

    Yields:
        The results, in the order of ``positions``.
    """
    trained_head.head.to(device).eval()
    trained_head.classifier.to(device).eval()
    images = range(len(cache)) if positions is None else positions
    batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    codec = cache.manifest.feature_codec

    @torch.inference_mode()
    def embedded(batch: Sequence[int]) -> list[_Result]:
        samples = [cache.sample(position) for position in batch]
        feature_maps = codec.to_tensor(np.stack([sample.feature_map for sample in samples]))
        embeddings = embed_regions(
            trained_head,
            codec.decode(feature_maps.to(device)),
            [_to_device(sample.position_tokens, device) for sample in samples],
            [cached_extents(trained_head.head, cache, sample) for sample in samples],
        )
        return list(map(function, samples, embeddings))

    num_workers, num_threads = workers_on(device, len(batches))
    with closing(
        map_batches(embedded, batches, num_workers=num_workers, num_threads=num_threads)
    ) as of_batches:
        yield from chain.from_iterable(of_batches)


@torch.inference_mode()
def embed_regions(
    trained_head: TrainedHead,
    feature_map_BTD: Tensor,
    tokens_of_images: Sequence[Tensor],
    extents_of_images: Sequence[Tensor],
) -> list[Tensor]:
    """Run the head on images with different numbers of regions.

    Args:
        trained_head: The head, in eval mode, on the tensors' device.
        feature_map_BTD: Feature maps, (B, T, D), any float dtype.
        tokens_of_images: Position tokens of each image, (R_i, S), any float dtype.
        extents_of_images: Where the regions of each image are, by `FusionHead.extents`.

    Returns:
        Region embeddings of each image, (R_i, E) float32, not normalised.
    """
    tokens_BRS = pad_sequence([tokens.float() for tokens in tokens_of_images], batch_first=True)
    counts_B1 = torch.tensor([[len(tokens)] for tokens in tokens_of_images])
    mask_BR = torch.arange(tokens_BRS.shape[1]) < counts_B1
    extents = pad_sequence(list(extents_of_images), batch_first=True)
    device = feature_map_BTD.device
    z_BRE = trained_head.head(
        tokens_BRS, feature_map_BTD.float(), mask_BR.to(device), extents.to(device)
    )
    return [
        z_RE[: len(tokens)].float() for z_RE, tokens in zip(z_BRE, tokens_of_images, strict=True)
    ]


def cached_extents(head: FusionHead, cache: FeatureCache, sample: CachedSample) -> Tensor:
    """Return where the regions of a cached image are, see `FusionHead.extents`.

    Raises:
        ConfigError: The head is guided by masks, and the cache has none.
    """
    return head.extents(
        sample.boxes_xyxy,
        sample.size_hw,
        cache.masks(sample) if head.spec.needs_masks else None,
        num_tokens=cache.manifest.feature_map_form.shape[0],
    )


def _to_device(array: NDArray[np.float16], device: torch.device) -> Tensor:
    # The cache returns read-only views of a memory map, which torch warns about.
    writable = array if array.flags.writeable else array.copy()
    return torch.from_numpy(writable).to(device)
