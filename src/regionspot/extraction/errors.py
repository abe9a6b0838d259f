"""What stops an extraction on purpose."""

from regionspot.core.errors import RegionSpotError


class TooManyQuarantinedError(RegionSpotError, ValueError):
    """More images are unusable than was allowed."""


class DiskError(RegionSpotError, OSError):
    """The cache cannot be written to: the disk is full, or writing is not allowed."""
