"""Naming regions: from a cache with a trained head, or from pixels with or without one.

Imports are lazy, as scoring a cache needs neither SAM, CLIP nor an image library.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regionspot.backbones.decode_images import ImageError
    from regionspot.inference.clip_crops import (
        PIXEL_METHODS,
        PixelMethod,
        PromptedImage,
        score_pixel_methods,
    )
    from regionspot.inference.from_cache import score_cached
    from regionspot.inference.inputs import ImageLike, load_image
    from regionspot.inference.onnx_files import export_chain, export_head, save_text_bank
    from regionspot.inference.programs import Program, chain_programs, head_program
    from regionspot.inference.regions import Region, Regions
    from regionspot.inference.regionspot import RegionSpot

__all__ = [
    "PIXEL_METHODS",
    "ImageError",
    "ImageLike",
    "PixelMethod",
    "Program",
    "PromptedImage",
    "Region",
    "RegionSpot",
    "Regions",
    "chain_programs",
    "export_chain",
    "export_head",
    "head_program",
    "load_image",
    "save_text_bank",
    "score_cached",
    "score_pixel_methods",
]

_HOMES = {
    "PIXEL_METHODS": "clip_crops",
    "PixelMethod": "clip_crops",
    "PromptedImage": "clip_crops",
    "score_pixel_methods": "clip_crops",
    "score_cached": "from_cache",
    "ImageError": "inputs",
    "ImageLike": "inputs",
    "load_image": "inputs",
    "export_chain": "onnx_files",
    "export_head": "onnx_files",
    "save_text_bank": "onnx_files",
    "Program": "programs",
    "chain_programs": "programs",
    "head_program": "programs",
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
