"""Score a feature cache with a trained head: no SAM, no CLIP, no image.

Shape letters as in the whole project: B images, R regions (padded), T tokens, S SAM width, D CLIP
width, E text width, C classes.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from regionspot.cache import CachedSample, FeatureCache
from regionspot.core.errors import ConfigError
from regionspot.core.region_scores import RegionScores
from regionspot.inference.class_scores import TextBank, as_text_bank, class_probabilities
from regionspot.inference.compatibility import check_same_models
from regionspot.model import TrainedHead


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
    check_same_models(
        trained_head.card.fingerprint, cache.manifest.fingerprint, where=f"the cache {cache.path}"
    )
    target = torch.device(device)
    trained_head.head.to(target).eval()
    trained_head.classifier.to(target).eval()
    bank_CE = as_text_bank(
        text_bank, text_dim=trained_head.head.projector.out_features, device=target
    )
    return _score_batches(trained_head, cache, bank_CE, batch_size)


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
    counts = [len(tokens) for tokens in tokens_of_images]
    embeddings = [
        feature_map_BTD.new_zeros((0, trained_head.head.projector.out_features)).float()
    ] * len(counts)
    # An image without regions would be a row that attends to nothing: it never enters the batch.
    filled = [index for index, count in enumerate(counts) if count]
    if not filled:
        return embeddings
    tokens_BRS = torch.nn.utils.rnn.pad_sequence(
        [tokens_of_images[index].float() for index in filled], batch_first=True
    )
    num_B1 = torch.tensor([[counts[index]] for index in filled], device=tokens_BRS.device)
    mask_BR = torch.arange(tokens_BRS.shape[1], device=tokens_BRS.device) < num_B1
    z_BRE = trained_head.head(tokens_BRS, feature_map_BTD[filled].float(), mask_BR)
    for row, index in enumerate(filled):
        embeddings[index] = z_BRE[row, : counts[index]].float()
    return embeddings


@torch.inference_mode()
def _score_batches(
    trained_head: TrainedHead, cache: FeatureCache, bank_CE: Tensor, batch_size: int
) -> Iterator[RegionScores]:
    for start in range(0, len(cache), batch_size):
        samples = [cache.sample(i) for i in range(start, min(start + batch_size, len(cache)))]
        embeddings = embed_regions(
            trained_head,
            [_to_device(sample.position_tokens, bank_CE.device) for sample in samples],
            _feature_maps(samples, bank_CE.device),
        )
        for sample, z_RE in zip(samples, embeddings, strict=True):
            yield RegionScores(
                image_id=sample.image_id,
                boxes_xyxy=np.array(sample.boxes_xyxy),  # a copy: the view dies with the cache
                scores=class_probabilities(trained_head.classifier(z_RE[None], bank_CE)[0]),
            )


def _feature_maps(samples: Sequence[CachedSample], device: torch.device) -> Tensor:
    return _to_device(np.stack([sample.feature_map for sample in samples]), device)


def _to_device(
    array: np.ndarray[tuple[int, ...], np.dtype[np.float16]], device: torch.device
) -> Tensor:
    # The cache hands out read-only views of a memory map, which torch does not accept as they are.
    writable = array if array.flags.writeable else array.copy()
    return torch.from_numpy(writable).to(device)
