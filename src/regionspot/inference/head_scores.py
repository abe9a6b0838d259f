"""Score a feature cache with a trained head: no SAM, no CLIP, no image.

Shape letters as in the whole project: B images, R regions (padded), T tokens, S SAM width, D CLIP
width, E text width, C classes.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from regionspot.cache import CachedSample, FeatureCache, decode_features, stored_tensor
from regionspot.core.errors import ConfigError
from regionspot.core.region_scores import RegionScores
from regionspot.core.workers import map_batches, workers_on
from regionspot.inference.class_scores import TextBank, as_text_bank, class_probabilities
from regionspot.inference.compatibility import check_same_models
from regionspot.model import TrainedHead

_logger = logging.getLogger(__name__)


def score_cached(
    trained_head: TrainedHead,
    cache: FeatureCache,
    text_bank: TextBank,
    *,
    batch_size: int = 16,
    device: str | torch.device = "cpu",
) -> Iterator[RegionScores]:
    """Score every region of a feature cache against a vocabulary.

    Args:
        trained_head: A head with its classifier and card; put in eval mode on ``device``.
        cache: The cache of the images to score.
        text_bank: Unit-norm class embeddings, (C, E), of the CLIP that made the cache.
        batch_size: Images scored at once. It changes the speed, not the scores.
        device: Where the head runs.

    Returns:
        One `RegionScores` an image, in the cache's order, with probabilities over the vocabulary;
        an image without regions yields zero rows.

    Raises:
        CacheMismatchError: The cache was made by other frozen models than the head was trained on.
        ConfigError: ``batch_size`` is not positive.
        ShapeError: The text bank does not fit the head.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; wanted at least 1 image.")
    _check_origin(trained_head, cache)
    target = torch.device(device)
    trained_head.head.to(target).eval()
    trained_head.classifier.to(target).eval()
    bank_CE = as_text_bank(text_bank, text_dim=trained_head.head.spec.text_dim, device=target)
    return _score_batches(trained_head, cache, bank_CE, batch_size)


def _check_origin(trained_head: TrainedHead, cache: FeatureCache) -> None:
    where = f"the cache {cache.location}"
    if trained_head.card.fingerprint:
        check_same_models(trained_head.card.fingerprint, cache.manifest.fingerprint, where=where)
    else:
        _logger.warning("the head's card names no frozen models; trusting that they made %s", where)


@torch.inference_mode()
def embed_regions(
    trained_head: TrainedHead, tokens_of_images: Sequence[Tensor], feature_map_BTD: Tensor
) -> list[Tensor]:
    """Run the head on images with different numbers of regions.

    Args:
        trained_head: The head, in eval mode, on the tensors' device.
        tokens_of_images: Position tokens of each image, (R_i, S), any float dtype.
        feature_map_BTD: Feature maps, (B, T, D), any float dtype.

    Returns:
        Region embeddings of each image, (R_i, E) float32, not normalised.
    """
    tokens_BRS = pad_sequence([tokens.float() for tokens in tokens_of_images], batch_first=True)
    counts_B1 = torch.tensor([[len(tokens)] for tokens in tokens_of_images])
    mask_BR = torch.arange(tokens_BRS.shape[1]) < counts_B1
    z_BRE = trained_head.head(
        tokens_BRS, feature_map_BTD.float(), mask_BR.to(feature_map_BTD.device)
    )
    return [
        z_RE[: len(tokens)].float() for z_RE, tokens in zip(z_BRE, tokens_of_images, strict=True)
    ]


def _score_batches(
    trained_head: TrainedHead, cache: FeatureCache, bank_CE: Tensor, batch_size: int
) -> Iterator[RegionScores]:
    @torch.inference_mode()
    def scored(positions: range) -> list[RegionScores]:
        samples = [cache.sample(position) for position in positions]
        embeddings = embed_regions(
            trained_head,
            [_to_device(sample.position_tokens, bank_CE.device) for sample in samples],
            _feature_maps(samples, bank_CE.device),
        )
        return [
            RegionScores(
                image_id=sample.image_id,
                boxes_xyxy=np.array(sample.boxes_xyxy),  # a copy: the view dies with the cache
                scores=class_probabilities(trained_head.classifier(z_RE, bank_CE)),
                box_scores=np.array(sample.box_scores),
            )
            for sample, z_RE in zip(samples, embeddings, strict=True)
        ]

    everything = range(len(cache))
    batches = [everything[start : start + batch_size] for start in everything[::batch_size]]
    num_workers, num_threads = workers_on(bank_CE.device, len(batches))
    with closing(
        map_batches(scored, batches, num_workers=num_workers, num_threads=num_threads)
    ) as of_batches:
        yield from chain.from_iterable(of_batches)


def _feature_maps(samples: Sequence[CachedSample], device: torch.device) -> Tensor:
    stored = stored_tensor(np.stack([sample.feature_map for sample in samples]))
    return decode_features(stored.to(device))


def _to_device(
    array: np.ndarray[tuple[int, ...], np.dtype[np.float16]], device: torch.device
) -> Tensor:
    # The cache hands out read-only views of a memory map, which torch does not accept as they are.
    writable = array if array.flags.writeable else array.copy()
    return torch.from_numpy(writable).to(device)
