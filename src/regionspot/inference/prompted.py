"""Images in memory with what to name in them: the input of one call of `RegionSpot.recognize`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from regionspot.backbones.presets import ExifPolicy
from regionspot.core.errors import ShapeError
from regionspot.inference.images import ImageLike, load_image
from regionspot.inference.prompts import Prompts, read_prompts


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptedPixels:
    """One image and its prompts."""

    pixels: NDArray[np.uint8]
    """RGB, (H, W, 3)."""
    prompts: Prompts
    """Boxes, points or masks, or the grid that finds regions without them."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


def open_prompted(
    image: ImageLike | Iterable[ImageLike],
    prompts: Mapping[str, ArrayLike | Iterable[ArrayLike] | None],
    *,
    several: bool,
    exif_policy: ExifPolicy,
) -> list[PromptedPixels]:
    """Open images and check their prompts.

    Args:
        image: One image, or several.
        prompts: By kind (``boxes_xyxy``, ``points``, ``masks``) the prompts of the one image, or a
            list with one entry for each of several; None for a kind that is not used.
        several: Whether there are several.
        exif_policy: Whether images are turned as their EXIF orientation says.

    Raises:
        ConfigError: Not exactly one kind of prompt is given.
        ShapeError: Image or prompts have a wrong shape or type, or lie outside the image.
        MissingFileError: There is no image at a path.
        ImageError: A file is not an image.
    """
    images = list(cast("Iterable[ImageLike]", image if several else [image]))
    by_kind = {
        kind: _per_image(given, kind, len(images), several=several)
        for kind, given in prompts.items()
    }
    opened = []
    for index, one in enumerate(images):
        pixels = load_image(one, exif_policy=exif_policy)
        size_hw = (pixels.shape[0], pixels.shape[1])
        own = {kind: given[index] for kind, given in by_kind.items()}
        opened.append(PromptedPixels(pixels=pixels, prompts=read_prompts(**own, size_hw=size_hw)))
    return opened


def _per_image(
    prompts: ArrayLike | Iterable[ArrayLike] | None, name: str, num_images: int, *, several: bool
) -> Sequence[ArrayLike | None]:
    """Return one entry of prompts for each image."""
    if prompts is None:
        return [None] * num_images
    if not several:
        return [cast("ArrayLike", prompts)]
    if isinstance(prompts, Iterator):
        prompts = list(prompts)
    is_list = isinstance(prompts, Sequence | np.ndarray | Tensor)
    has_rows = is_list and getattr(prompts, "ndim", 1) > 0
    if not has_rows or len(cast("Sized", prompts)) != num_images:
        found = len(cast("Sized", prompts)) if has_rows else type(prompts).__name__
        raise ShapeError(
            f"{name} has {found} entries for {num_images} images; wanted a list with one array for"
            " each image (an empty one where an image has no regions)."
        )
    return cast("Sequence[ArrayLike]", prompts)
