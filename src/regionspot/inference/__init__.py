"""Naming regions: from a cache with a trained head, or from pixels with or without one.

Imports are lazy, as scoring a cache needs neither SAM, CLIP nor an image library.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regionspot.backbones.decode_images import ImageError
    from regionspot.inference.calibration import Calibration, CosineLevels
    from regionspot.inference.clip_crops import (
        PIXEL_METHODS,
        PixelMethod,
        PromptedImage,
        score_pixel_methods,
    )
    from regionspot.inference.encoded_image import EncodedImage
    from regionspot.inference.from_cache import score_cached
    from regionspot.inference.inputs import ImageLike, load_image
    from regionspot.inference.prompts import BoxFormat
    from regionspot.inference.prototypes import Examples, Prototypes
    from regionspot.inference.regions import Region, Regions
    from regionspot.inference.regionspot import RegionSpot

__all__ = [
    "PIXEL_METHODS",
    "BoxFormat",
    "Calibration",
    "CosineLevels",
    "EncodedImage",
    "Examples",
    "ImageError",
    "ImageLike",
    "PixelMethod",
    "PromptedImage",
    "Prototypes",
    "Region",
    "RegionSpot",
    "Regions",
    "load_image",
    "score_cached",
    "score_pixel_methods",
]

_HOMES = {
    "PIXEL_METHODS": "clip_crops",
    "PixelMethod": "clip_crops",
    "PromptedImage": "clip_crops",
    "score_pixel_methods": "clip_crops",
    "Calibration": "calibration",
    "CosineLevels": "calibration",
    "EncodedImage": "encoded_image",
    "Examples": "prototypes",
    "Prototypes": "prototypes",
    "score_cached": "from_cache",
    "ImageError": "inputs",
    "ImageLike": "inputs",
    "load_image": "inputs",
    "BoxFormat": "prompts",
    "Region": "regions",
    "Regions": "regions",
    "RegionSpot": "regionspot",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
