"""RegionSpot: name any region of any image.

The names below are imported when first used, so that ``import regionspot`` is quick and asks for no
optional package.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regionspot.cache import FeatureCache
    from regionspot.core.vocabulary import Vocabulary
    from regionspot.inference import Regions, RegionSpot
    from regionspot.model import FusionHead

__all__ = ["FeatureCache", "FusionHead", "RegionSpot", "Regions", "Vocabulary"]

_HOMES = {
    "FeatureCache": "regionspot.cache",
    "FusionHead": "regionspot.model",
    "RegionSpot": "regionspot.inference",
    "Regions": "regionspot.inference",
    "Vocabulary": "regionspot.core.vocabulary",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
