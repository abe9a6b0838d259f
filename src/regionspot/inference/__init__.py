"""Naming regions, from a cache or from pixels, and finding regions of a cache by words.

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
        score_pixel_methods,
    )
    from regionspot.inference.encoded_image import EncodedImage
    from regionspot.inference.faiss_index import write_faiss
    from regionspot.inference.from_cache import score_cached
    from regionspot.inference.hits import Hit, RegionFilter
    from regionspot.inference.image_files import find_all_images, find_images
    from regionspot.inference.index_build import build_region_index
    from regionspot.inference.index_files import IndexSource, find_damage, has_index
    from regionspot.inference.inputs import ImageLike, load_image
    from regionspot.inference.onnx_files import export_chain, export_head, save_text_bank
    from regionspot.inference.programs import Program, chain_programs, head_program
    from regionspot.inference.prompted_images import PromptedImage, sam_masks
    from regionspot.inference.prompts import BoxFormat
    from regionspot.inference.prototypes import Examples, Prototypes, average_examples
    from regionspot.inference.region_index import RegionIndex
    from regionspot.inference.regions import Region, Regions
    from regionspot.inference.regionspot import RegionSpot

__all__ = [
    "PIXEL_METHODS",
    "BoxFormat",
    "Calibration",
    "CosineLevels",
    "EncodedImage",
    "Examples",
    "Hit",
    "ImageError",
    "ImageLike",
    "IndexSource",
    "PixelMethod",
    "Program",
    "PromptedImage",
    "Prototypes",
    "Region",
    "RegionFilter",
    "RegionIndex",
    "RegionSpot",
    "Regions",
    "average_examples",
    "build_region_index",
    "chain_programs",
    "export_chain",
    "export_head",
    "find_all_images",
    "find_damage",
    "find_images",
    "has_index",
    "head_program",
    "load_image",
    "sam_masks",
    "save_text_bank",
    "score_cached",
    "score_pixel_methods",
    "write_faiss",
]

_HOMES = {
    "write_faiss": "faiss_index",
    "PIXEL_METHODS": "clip_crops",
    "PixelMethod": "clip_crops",
    "score_pixel_methods": "clip_crops",
    "Calibration": "calibration",
    "CosineLevels": "calibration",
    "EncodedImage": "encoded_image",
    "Examples": "prototypes",
    "Prototypes": "prototypes",
    "average_examples": "prototypes",
    "score_cached": "from_cache",
    "IndexSource": "index_files",
    "find_damage": "index_files",
    "find_all_images": "image_files",
    "find_images": "image_files",
    "has_index": "index_files",
    "build_region_index": "index_build",
    "ImageError": "inputs",
    "ImageLike": "inputs",
    "load_image": "inputs",
    "PromptedImage": "prompted_images",
    "sam_masks": "prompted_images",
    "Hit": "hits",
    "RegionFilter": "hits",
    "RegionIndex": "region_index",
    "BoxFormat": "prompts",
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
