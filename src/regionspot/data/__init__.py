"""From feature caches to batches: order, loader, Lightning data module."""

from regionspot.data.batch_order import BatchPlan, MixedBatchSampler, SequentialOrder
from regionspot.data.collate import Collator, RegionBatch
from regionspot.data.datamodule import CachedRegions, FeatureSpec
from regionspot.data.loader import CacheLoader
from regionspot.data.shuffle import RepeatFactorSampler, ShardWindows, ShuffledSampler

__all__ = [
    "BatchPlan",
    "CacheLoader",
    "CachedRegions",
    "Collator",
    "FeatureSpec",
    "MixedBatchSampler",
    "RegionBatch",
    "RepeatFactorSampler",
    "SequentialOrder",
    "ShardWindows",
    "ShuffledSampler",
]
