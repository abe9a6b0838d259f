"""What goes wrong with files behind URLs."""

from regionspot.core.errors import RegionSpotError


class StorageError(RegionSpotError, OSError):
    """A server cannot be reached or refuses, or the disk has no room for a copy."""
