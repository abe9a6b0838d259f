"""The toy world: generated images with LVIS annotations, for tests and for trying things out.

See ``docs/toy_world.md``. Its trained SAM and CLIP are in ``regionspot.backbones.tiny``.
"""

from regionspot.core.errors import MissingExtraError
from regionspot.toy.jitter import write_jittered_boxes
from regionspot.toy.names import (
    COLOURS,
    SETTINGS,
    SHAPES,
    TEXTURES,
    THINGS,
    look_of,
    vocabulary,
    zipf,
)
from regionspot.toy.scenes import ClassMix, extents_xyxy, sample_scene

try:
    from regionspot.toy.world import (
        TRAINING_SPLITS,
        VALIDATION_SPLIT,
        WorldArguments,
        generate_world,
        held_out_classes,
        world_is_complete,
    )
except ModuleNotFoundError as error:
    if error.name not in {"cv2", "simplejpeg"}:
        raise
    raise MissingExtraError(
        f"the toy world needs the package {error.name!r}, which is not installed. It comes with"
        " the extra 'toy': pip install \"regionspot[toy]\"."
    ) from error

__all__ = [
    "COLOURS",
    "SETTINGS",
    "SHAPES",
    "TEXTURES",
    "THINGS",
    "TRAINING_SPLITS",
    "VALIDATION_SPLIT",
    "ClassMix",
    "WorldArguments",
    "extents_xyxy",
    "generate_world",
    "held_out_classes",
    "look_of",
    "sample_scene",
    "vocabulary",
    "world_is_complete",
    "write_jittered_boxes",
    "zipf",
]
