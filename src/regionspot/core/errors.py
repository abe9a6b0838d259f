"""Errors that are meant for the user.

Every deliberate error derives from `RegionSpotError` and from the builtin that it specialises. Its
message says what was found, what was wanted, where, and what to type. The command line prints only
the message and exits with code 2. Any other exception is a bug and keeps its traceback.
"""


class RegionSpotError(Exception):
    """Base of every error that RegionSpot raises on purpose."""


class ConfigError(RegionSpotError, ValueError):
    """An option has a value that cannot work, or two options contradict each other."""


class ShapeError(RegionSpotError, ValueError):
    """An array has another shape, order or coordinate frame than the function needs."""


class AnnotationError(RegionSpotError, ValueError):
    """An annotation file is not in the stated format."""


class VocabularyError(RegionSpotError, ValueError):
    """A list of class names is empty, or holds an empty or a repeated name."""


class CacheMismatchError(RegionSpotError, ValueError):
    """A cache was made with models, settings or annotations other than those requested."""


class CacheCorruptError(RegionSpotError, ValueError):
    """A cache is incomplete, or its bytes are not the ones that were written."""


class NotFiniteError(RegionSpotError, FloatingPointError):
    """A value in training is NaN or infinite."""


class RankError(RegionSpotError, RuntimeError):
    """Another process that trains together with this one stopped with an error."""


class WeightsError(RegionSpotError, ValueError):
    """A weights file does not fit the model, or is not what its name promises."""


class MissingFileError(RegionSpotError, FileNotFoundError):
    """A file or folder that was named does not exist."""


class MissingExtraError(RegionSpotError, ImportError):
    """A package of an optional extra is needed but not installed."""
