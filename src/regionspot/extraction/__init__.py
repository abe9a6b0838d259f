"""Images in, feature cache out: the only place where the frozen models run in bulk."""

from regionspot.extraction.config import AnnotationsConfig, CacheConfig
from regionspot.extraction.errors import DiskError, TooManyQuarantinedError
from regionspot.extraction.probes import measure_error
from regionspot.extraction.run import cache_features, repair_cache
from regionspot.extraction.summary import CacheSummary

__all__ = [
    "AnnotationsConfig",
    "CacheConfig",
    "CacheSummary",
    "DiskError",
    "TooManyQuarantinedError",
    "cache_features",
    "measure_error",
    "repair_cache",
]
