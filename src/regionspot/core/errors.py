"""Errors that are meant for the person at the keyboard.

Every deliberate error derives from `RegionSpotError` and from the builtin it specialises. Its
message says what was found, what was wanted, where, and what to type. The command line prints just
that message and exits with code 2; anything else is a bug and keeps its traceback.
"""


class RegionSpotError(Exception):
    """Base of every error that RegionSpot raises on purpose."""


class ConfigError(RegionSpotError, ValueError):
    """An option has a value that cannot work, or two options contradict each other."""


class ShapeError(RegionSpotError, ValueError):
    """An array has another shape, order or coordinate frame than the function needs."""


class AnnotationError(RegionSpotError, ValueError):
    """An annotation file is not in the format it was announced to be in."""


class VocabularyError(RegionSpotError, ValueError):
    """A list of class names is empty, or holds an empty or a repeated name."""


class CacheMismatchError(RegionSpotError, ValueError):
    """A cache was made by other models, settings or annotations than the ones now asked for."""


class CacheCorruptError(RegionSpotError, ValueError):
    """A cache is incomplete, or its bytes are not the ones that were written."""


class NotFiniteError(RegionSpotError, FloatingPointError):
    """Training met a number that is NaN or infinite."""


class RankError(RegionSpotError, RuntimeError):
    """Another process that trains together with this one stopped with an error."""


class WeightsError(RegionSpotError, ValueError):
    """A weights file does not fit the model, or is not what its name promises."""


class MissingFileError(RegionSpotError, FileNotFoundError):
    """A file or folder that was named does not exist."""


class MissingExtraError(RegionSpotError, ImportError):
    """A package of an optional extra is needed but not installed."""
