"""Errors for the user.

Each derives from `RegionSpotError` and from the builtin exception that it specializes. Its message
says what was found, what was wanted, where, and what to type. The command line prints only the
message and exits with code 2. Any other exception is a bug and keeps its traceback.
"""


class RegionSpotError(Exception):
    """Base class of all errors that RegionSpot raises on purpose."""


class ConfigError(RegionSpotError, ValueError):
    """An option has an invalid value, or two options contradict each other."""


class ShapeError(RegionSpotError, ValueError):
    """An array has the wrong shape, order or coordinate frame."""


class AnnotationError(RegionSpotError, ValueError):
    """An annotation file is not in the stated format."""


class VocabularyError(RegionSpotError, ValueError):
    """A list of class names is empty, or has an empty or repeated name."""


class CacheMismatchError(RegionSpotError, ValueError):
    """A cache was made with other models, settings or annotations than requested."""


class CacheCorruptError(RegionSpotError, ValueError):
    """A cache is incomplete, or its bytes are not those that were written."""


class NotFiniteError(RegionSpotError, FloatingPointError):
    """A value in training, or an embedding, is NaN or infinite."""


class RankError(RegionSpotError, RuntimeError):
    """Another rank of the training stopped with an error."""


class WeightsError(RegionSpotError, ValueError):
    """A weights file does not fit the model, or is not what its name says."""


class MissingFileError(RegionSpotError, FileNotFoundError):
    """A given file or folder does not exist."""


class MissingExtraError(RegionSpotError, ImportError):
    """A package of an optional extra is not installed."""
