"""The Lightning data module: feature caches in, batches out."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from regionspot.cache import FeatureCache, Fingerprint, refuse_differences
from regionspot.core.errors import CacheMismatchError, ConfigError
from regionspot.core.text import human_bytes
from regionspot.core.vocabulary import Vocabulary
from regionspot.data.batch_order import (
    IndexArray,
    MixedBatchSampler,
    Order,
    OrderOptions,
    SequentialOrder,
    batch_sizes_of,
    training_order,
)
from regionspot.data.collate import Collator
from regionspot.data.loader import CacheLoader


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpec:
    """Widths of cached features, as read from the manifest."""

    token_dim: int
    """Width of the position tokens (S)."""
    feature_dim: int
    """Width of the feature map (D)."""
    text_dim: int
    """Width of the text banks (E)."""
    num_feature_tokens: int
    """Tokens of a feature map, class token included (T = 1 + P)."""


_LOGGER = logging.getLogger(__name__)


def warn_of_little_room(caches: Sequence[FeatureCache], shuffle_window: int | None) -> None:
    """Warn if the disk limit makes training fetch shards of remote caches repeatedly.

    Args:
        caches: The training caches; local ones take no additional space.
        shuffle_window: Shards of each cache that are drawn from at a time; None for all.
    """
    tar_bytes = [cache.index.tar_bytes for cache in caches if cache.is_remote]
    if not tar_bytes:
        return
    limit_bytes = caches[0].limit_bytes
    all_bytes = sum(int(shards.sum()) for shards in tar_bytes)
    if all_bytes <= limit_bytes:
        return
    bytes_by_window = _bytes_of_two_windows(tar_bytes)
    kept = human_bytes(limit_bytes)
    advice = "Raise data.max_local_gb if the disk can take more"
    if fitting := int(np.searchsorted(bytes_by_window, limit_bytes, side="right")):
        advice += f", or draw from fewer shards at a time: --data.shuffle_window {fitting}"
    if shuffle_window is None:
        _LOGGER.warning(
            "The training caches behind URLs have %s of shards, but only %s of them are kept here:"
            " in random order they are fetched again and again. %s.",
            *(human_bytes(all_bytes), kept, advice),
        )
    elif shuffle_window > fitting:
        wanted = int(bytes_by_window[:shuffle_window][-1])
        _LOGGER.warning(
            "With data.shuffle_window %d, the shards that are drawn from and those that come next"
            " take up to %s, but only %s are kept here: some are fetched twice. %s.",
            *(shuffle_window, human_bytes(wanted), kept, advice),
        )


def _bytes_of_two_windows(tar_bytes: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the maximum size of two windows of each cache, for windows of 1, 2, 3, ... shards."""
    num_shards = 2 * np.arange(1, -(-max(map(len, tar_bytes)) // 2) + 1)
    totals = np.zeros(len(num_shards), np.int64)
    for shards in tar_bytes:
        of_largest = np.sort(shards)[::-1].cumsum()
        totals += of_largest[np.minimum(num_shards, len(shards)) - 1]
    return totals


class CachedRegions(pl.LightningDataModule):
    """Feature caches to train on, and one to validate on.

    Every training batch comes from one cache and therefore has one vocabulary. Images without
    regions are left out of training; the log has their number.

    Args:
        train: Directories or URLs (s3://bucket/cache) of the feature caches to train on.
        val: Directory or URL of the feature cache to validate on; null for none.
        batch_size: Images of a step over all devices together, a multiple of their number; or a
            list with one number for each training cache. The last batch of a pass through a cache
            may be smaller.
        templates: Which of the caches' text banks to compare with, by its template set.
        max_regions_per_image: Regions of a training image used in a step at most, a random choice;
            null for all.
        ratios: How often to draw a batch from each training cache, up to a factor; by_size to see
            every image of all caches once an epoch; null for equally often.
        seed: Starts the random order of the images.
        max_local_gb: Disk space, in units of 1e9 bytes, for the shards that are kept here of all
            caches behind URLs; null for $REGIONSPOT_MAX_LOCAL_GB, or 100. It should hold all of
            them, since images are drawn in random order; or, with shuffle_window, twice that many
            shards of each cache.
        shuffle_window: Draw from this many shards at a time instead of from all, for disks where
            random access is slow and for caches behind URLs that exceed max_local_gb. Batches are
            less random then: all their images are of these shards. As many again are read ahead
            meanwhile, so memory should hold twice as many. null to draw from all.
        repeat_threshold: Draw images of rare classes more often: a class that the share f of a
            cache's images holds, sqrt(repeat_threshold / f) times as often (LVIS: 0.001). null for
            all equally often.

    Raises:
        MissingFileError: A cache is not there.
        CacheMismatchError: The caches were not all made by the same frozen models and settings.
        ConfigError: A value cannot work.
    """

    def __init__(  # noqa: PLR0913 - the options of the command line
        self,
        train: Sequence[str | Path],
        val: str | Path | None = None,
        batch_size: int | Sequence[int] = 16,
        templates: str = "ensemble81",
        max_regions_per_image: int | None = None,
        ratios: Sequence[float] | Literal["by_size"] | None = None,
        seed: int = 0,
        max_local_gb: float | None = None,
        shuffle_window: int | None = None,
        repeat_threshold: float | None = None,
    ) -> None:
        super().__init__()
        if not train or isinstance(train, (str, Path)):
            raise ConfigError(
                f"data.train is {train!r}; wanted a list with the directory of one feature cache or"
                " more."
            )
        if max_regions_per_image is not None and max_regions_per_image < 1:
            raise ConfigError(
                f"data.max_regions_per_image is {max_regions_per_image}; wanted 1 or more."
            )
        self._order_options = OrderOptions(
            batch_sizes=batch_sizes_of(batch_size, len(train)),
            seed=seed,
            ratios=ratios,
            shuffle_window=shuffle_window,
            repeat_threshold=repeat_threshold,
        )
        self.train_caches = tuple(FeatureCache.open(x, max_local_gb=max_local_gb) for x in train)
        self.val_cache = None if val is None else FeatureCache.open(val, max_local_gb=max_local_gb)
        self.templates = templates
        self._max_regions_per_image = max_regions_per_image
        self._seed = seed
        self._check_fingerprints()
        self._check_labels()
        self._images = [_images_with_regions(cache) for cache in self.train_caches]

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Images of a step of each training cache, over all devices."""
        return self._order_options.batch_sizes

    @cached_property
    def _order(self) -> MixedBatchSampler:
        return training_order(self.train_caches, self._images, self._order_options)

    @property
    def fingerprint(self) -> Fingerprint:
        """The models and settings of the features, the same for all caches of a run."""
        return self.train_caches[0].manifest.fingerprint

    @property
    def spec(self) -> FeatureSpec:
        """Widths of the features, from the manifest."""
        fingerprint = self.fingerprint
        return FeatureSpec(
            token_dim=fingerprint.token_dim,
            feature_dim=fingerprint.feature_dim,
            text_dim=fingerprint.text_dim,
            num_feature_tokens=fingerprint.num_feature_tokens,
        )

    @property
    def vocabularies(self) -> tuple[Vocabulary, ...]:
        """The vocabulary of each training cache."""
        return tuple(cache.manifest.vocabulary for cache in self.train_caches)

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each training cache."""
        return tuple(cache.manifest.name for cache in self.train_caches)

    @property
    def images_per_batch(self) -> float:
        """Images of a full training batch over all devices, averaged over an epoch."""
        sizes = set(self.batch_sizes)
        if len(sizes) == 1:
            return float(sizes.pop())
        counts = self._order.num_batches_by_source
        return float(np.average(self.batch_sizes, weights=counts))

    @cached_property
    def text_banks(self) -> tuple[Tensor, ...]:
        """The text bank of each training cache, (C, E) float32."""
        return tuple(_text_bank(cache, self.templates) for cache in self.train_caches)

    @cached_property
    def val_text_bank(self) -> Tensor | None:
        """The text bank of the validation cache, (C, E) float32; None without one."""
        return None if self.val_cache is None else _text_bank(self.val_cache, self.templates)

    @override
    def setup(self, stage: str) -> None:
        """Log the number of training images, and read the text banks early."""
        for cache, usable, bank in zip(
            self.train_caches, self._images, self.text_banks, strict=True
        ):
            _LOGGER.info(
                "%s: %d classes, %d images to train on, %d without regions are left out",
                cache.location,
                len(bank),
                len(usable),
                len(cache) - len(usable),
            )
        if stage == "fit":
            if self.trainer is None or self.trainer.is_global_zero:
                warn_of_little_room(self.train_caches, self._order_options.shuffle_window)
            _LOGGER.info(
                "An epoch has %d batches, of each cache %s",
                self._order.num_batches,
                list(self._order.num_batches_by_source),
            )

    @override
    def train_dataloader(self) -> CacheLoader:
        """Return random batches, each from one training cache."""
        return self._loader(self._order, self.train_caches, max_regions=self._max_regions_per_image)

    @override
    def val_dataloader(self) -> CacheLoader | list[CacheLoader]:
        """Return all images of the validation cache in order; no loader without a cache.

        Lightning warns in that case: give its Trainer ``limit_val_batches=0``.
        """
        if self.val_cache is None:
            return []
        order = SequentialOrder(num_images=len(self.val_cache), batch_size=max(self.batch_sizes))
        return self._loader(order, (self.val_cache,), max_regions=None)

    def _loader(
        self, order: Order, caches: Sequence[FeatureCache], *, max_regions: int | None
    ) -> CacheLoader:
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        for batch_size in self.batch_sizes:
            if batch_size % world_size:
                raise ConfigError(
                    f"data.batch_size is {batch_size}, the images of a step over all devices; it"
                    f" does not divide among {world_size} devices. Set it to a multiple."
                )
        assembler = Collator(
            caches,
            max_regions=max_regions,
            seed=self._seed,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
        )
        return CacheLoader(order, assembler, rank=rank, world_size=world_size)

    def _check_fingerprints(self) -> None:
        others = self.train_caches[1:] + (() if self.val_cache is None else (self.val_cache,))
        for cache in others:
            refuse_differences(
                cache.manifest.fingerprint.differences(self.fingerprint),
                found=cache.location,
                wanted=self.train_caches[0].location,
                advice="Make both with one `models` section (python cache_features.py), or train"
                " on one of them.",
            )

    def _check_labels(self) -> None:
        for cache in self.train_caches:
            if cache.manifest.proposals is not None:
                raise ConfigError(
                    f"{cache.location} holds proposals ({cache.manifest.proposals}), whose class"
                    " nobody knows, so a head cannot learn from it. Give data.train caches of"
                    " annotated regions (made without --proposals); evaluate.py takes this one."
                )


def _images_with_regions(cache: FeatureCache) -> IndexArray:
    images = np.flatnonzero(cache.index.num_regions).astype(np.int64)
    if len(images) == 0:
        raise ConfigError(
            f"{cache.location} holds {len(cache)} images and not one region: there is nothing to"
            " train on. Take it out of data.train."
        )
    return images


def _text_bank(cache: FeatureCache, templates: str) -> Tensor:
    bank = torch.from_numpy(np.array(cache.text_bank(templates), np.float32))
    wanted = (len(cache.manifest.vocabulary), cache.manifest.fingerprint.text_dim)
    if tuple(bank.shape) != wanted:
        raise CacheMismatchError(
            f"{cache.location}: the text bank {templates!r} has shape {tuple(bank.shape)}; the"
            f" manifest says {wanted}. Run python cache_features.py again to remake it."
        )
    return bank
