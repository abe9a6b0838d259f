"""Images in, feature cache out: the only place where the frozen models run in bulk."""

from regionspot.extraction.config import AnnotationsConfig, CacheConfig, ProposalsConfig
from regionspot.extraction.errors import DiskError, TooManyQuarantinedError
from regionspot.extraction.featurize import featurize
from regionspot.extraction.job import CacheJob
from regionspot.extraction.locate import RegionLocator
from regionspot.extraction.parts import Part
from regionspot.extraction.prepare import Preparation, PreparedBatch, PreparedImage, ShardJob
from regionspot.extraction.probes import measure_error
from regionspot.extraction.quarantine import QuarantineGuard
from regionspot.extraction.run import cache_features, repair_cache, run_job
from regionspot.extraction.summary import CacheSummary

__all__ = [
    "AnnotationsConfig",
    "CacheConfig",
    "CacheJob",
    "CacheSummary",
    "DiskError",
    "Part",
    "Preparation",
    "PreparedBatch",
    "PreparedImage",
    "ProposalsConfig",
    "QuarantineGuard",
    "RegionLocator",
    "ShardJob",
    "TooManyQuarantinedError",
    "cache_features",
    "featurize",
    "measure_error",
    "repair_cache",
    "run_job",
]
