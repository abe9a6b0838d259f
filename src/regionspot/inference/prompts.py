"""Reads and checks the user's prompts: boxes, points or masks, for one image or several."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from regionspot.backbones import (
    BoxPrompts,
    MaskForm,
    MaskPrompts,
    PointPrompts,
    Prompts,
    RegionPrompts,
)
from regionspot.backbones.presets import ExifPolicy
from regionspot.core.errors import ConfigError, ShapeError
from regionspot.core.geometry import (
    FloatArray,
    as_boxes,
    box_area,
    clip_boxes_xyxy,
    format_numbers,
    look_relative,
    relative_to_pixels,
    xywh_to_xyxy,
)
from regionspot.inference.encoded_image import EncodedImage
from regionspot.inference.inputs import ImageLike, as_array, load_image

BoxFormat = Literal["xyxy", "xywh", "cxcywh", "normalized"]
"""Meaning of the four numbers of a box: corners; corner and size; centre and size, all in pixels of
the original image; or corners as fractions of its width and height, 0 to 1."""

_MEANINGS: dict[BoxFormat, tuple[str, str, str]] = {
    "xyxy": ("(x1, y1, x2, y2)", "x1 < x2 and y1 < y2", "pixels"),
    "xywh": ("(x, y, width, height)", "a width and a height above 0", "pixels"),
    "cxcywh": ("(centre x, centre y, width, height)", "a width and a height above 0", "pixels"),
    "normalized": ("(x1, y1, x2, y2)", "x1 < x2 and y1 < y2", "fractions"),
}
"""Numbers of a box, what gives it an area, and their unit, for messages."""
_logger = logging.getLogger(__name__)

_SMALLEST_SHARE_INSIDE = 0.5
_NOTICED_PX = 1.0
"""Rounding moves a box over the edge by less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptedPixels:
    """One image and its prompts."""

    pixels: NDArray[np.uint8]
    """RGB, (H, W, 3)."""
    prompts: Prompts
    """Boxes, points or masks, or the grid from which SAM proposes regions."""
    encoded: EncodedImage | None = None
    """The image as encoded before; None if it still has to be."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


def open_prompted(
    image: ImageLike | Iterable[ImageLike],
    prompts: Mapping[str, ArrayLike | Iterable[ArrayLike] | None],
    *,
    several: bool,
    box_format: BoxFormat,
    exif_policy: ExifPolicy,
    mask_form: MaskForm,
) -> list[PromptedPixels]:
    """Open images and read their prompts; raises as `load_image` and `read_prompts` do.

    Args:
        image: One image, or several.
        prompts: By kind (``boxes``, ``points``, ``masks``) the prompts of the one image, or a
            list with one entry for each of several; None for a kind that is not used.
        several: Whether there are several.
        box_format: Meaning of the numbers of boxes.
        exif_policy: Whether to rotate images by their EXIF orientation.
        mask_form: How masks are passed to SAM; see `mask_form_for`.

    Raises:
        ShapeError: The numbers of images and of entries differ.
    """
    images = list(cast("Iterable[ImageLike]", image if several else [image]))
    by_kind = {
        kind: _per_image(given, kind, len(images), several=several)
        for kind, given in prompts.items()
    }
    opened = []
    for place, one in enumerate(images):
        pixels = load_image(one, exif_policy=exif_policy)
        size_hw = (pixels.shape[0], pixels.shape[1])
        own = {kind: given[place] for kind, given in by_kind.items()}
        read = read_prompts(**own, size_hw=size_hw, box_format=box_format, mask_form=mask_form)
        encoded = one if isinstance(one, EncodedImage) else None
        opened.append(PromptedPixels(pixels=pixels, prompts=read, encoded=encoded))
    return opened


def read_prompts(
    *,
    boxes: ArrayLike | None = None,
    points: ArrayLike | None = None,
    masks: ArrayLike | None = None,
    size_hw: tuple[int, int],
    box_format: BoxFormat = "xyxy",
    mask_form: MaskForm = "box",
) -> RegionPrompts:
    """Read the prompts of one image; exactly one kind is given.

    Args:
        boxes: Boxes, (R, 4).
        points: Points, (R, 2), (R, K, 2), or (R, K, 3) with SAM's point label as third column, in
            pixels of the original image.
        masks: Masks, (R, H, W) bool.
        size_hw: Height and width of the image in pixels.
        box_format: Meaning of the numbers of boxes.
        mask_form: How masks are passed to SAM; see `mask_form_for`.

    Returns:
        The prompts; boxes that extend over the image's edge are clipped with a warning, as they are
        when a cache is made.

    Raises:
        ConfigError: No kind of prompt is given, or more than one; or ``box_format`` is unknown.
        ShapeError: The prompts have a wrong shape or type, look relative to the image or lie
            outside it; or a box ends before it starts, or lies outside by more than half its area.
    """
    given = {"boxes": boxes, "points": points, "masks": masks}
    names = [f"{name}=" for name, value in given.items() if value is not None]
    if len(names) != 1:
        raise ConfigError(
            f"found {' and '.join(names) if names else 'no prompts'}; wanted exactly one of"
            " boxes=, points= or masks=, which say where the regions are. Without prompts,"
            " use recognize_everything(image), which lets SAM propose regions."
        )
    if box_format not in get_args(BoxFormat):
        raise ConfigError(
            f"box_format is {box_format!r}; wanted one of {', '.join(get_args(BoxFormat))}."
        )
    if boxes is not None:
        return BoxPrompts(boxes_xyxy=_read_boxes(boxes, box_format, size_hw))
    if points is not None:
        return _read_points(points, size_hw)
    return MaskPrompts(masks=_read_masks(masks, size_hw), form=mask_form)


def mask_form_for(prompts: Sequence[str]) -> MaskForm:
    """Return how to pass masks to SAM for a head that was trained on tokens of these prompts.

    As in training, or by their extent ("box") if training had no masks.
    """
    if "box_and_mask" in prompts:
        return "box_and_mask"
    return "mask" if "mask" in prompts else "box"


def _read_boxes(boxes: ArrayLike, box_format: BoxFormat, size_hw: tuple[int, int]) -> FloatArray:
    """Read boxes of any format as corners in pixels, (R, 4), check and clip them to the image."""
    given = as_boxes(as_array(boxes, name="boxes", dtype=np.float32), name="boxes")
    corners = _as_corners(given, box_format, size_hw)
    clipped = clip_boxes_xyxy(corners, size_hw)
    height, width = size_hw
    size = f"the image of {width} x {height} pixels (width x height)"
    _check_unit(given, corners, box_format, size_hw)
    wanted, condition, unit = _MEANINGS[box_format]
    areas, areas_inside = box_area(corners), box_area(clipped)
    for row in np.flatnonzero(areas <= 0).tolist():
        raise ShapeError(
            f"box {row} {format_numbers(given[row])} has no area; wanted {wanted} with {condition}."
            f"{_other_meaning(given[row], box_format, size_hw)}"
        )
    for row in np.flatnonzero(areas_inside < _SMALLEST_SHARE_INSIDE * areas).tolist():
        raise ShapeError(
            f"box {row} {format_numbers(given[row])} lies outside {size} by more than half of its"
            f" area; wanted {wanted} in {unit} of that image, not of a resized one."
            f"{_other_meaning(given[row], box_format, size_hw)}"
        )
    for row in np.flatnonzero((np.abs(clipped - corners) > _NOTICED_PX).any(axis=1)).tolist():
        meant, used = format_numbers(corners[row]), format_numbers(clipped[row])
        _logger.warning(
            "box %d %s extends over the edge of %s and is clipped to %s.", row, meant, size, used
        )
    return clipped


def _as_corners(given: FloatArray, box_format: BoxFormat, size_hw: tuple[int, int]) -> FloatArray:
    """Turn boxes of any format, (R, 4), into corners in pixels."""
    if box_format == "normalized":
        return relative_to_pixels(given, size_hw)
    if box_format == "xywh":
        return xywh_to_xyxy(given)
    if box_format == "cxcywh":
        starts, sides = given[:, :2] - given[:, 2:] / 2, given[:, 2:]
        return xywh_to_xyxy(np.concatenate([starts, sides], axis=1))
    return given


def _check_unit(
    given: FloatArray, corners: FloatArray, box_format: BoxFormat, size_hw: tuple[int, int]
) -> None:
    """Refuse pixels where fractions are wanted, and fractions where pixels are."""
    height, width = size_hw
    if box_format == "normalized":
        if len(given) and not look_relative(given):
            raise ShapeError(
                f"box_format='normalized', but boxes reach {given.max():g}; wanted fractions of the"
                " image's width and height, 0 to 1. Leave box_format out for pixels."
            )
    elif look_relative(corners) and max(size_hw) > 1:
        in_python = " (in Python: box_format='normalized')" if box_format == "xyxy" else ""
        raise ShapeError(
            f"box 0 is {format_numbers(given[0])}: these boxes look normalised, as they end within"
            f" 1.5 pixels of the corner of the image of {width} x {height} pixels (width x height)."
            f" Wanted pixels: multiply x by {width} and y by {height}{in_python}."
        )


def _other_meaning(box: FloatArray, box_format: BoxFormat, size_hw: tuple[int, int]) -> str:
    """Return as what else the numbers of a box, (4,), would be a region of the image, if at all."""
    height, width = (1, 1) if box_format == "normalized" else size_hw
    a, b, c, d = box.tolist()
    meanings = [
        ("(x, y, width, height)", (a, b, a + c, b + d), "box_format='xywh'"),
        ("(x1, y1, x2, y2)", (a, b, c, d), "box_format='xyxy'"),
        ("(y1, x1, y2, x2)", (b, a, d, c), "boxes[:, [1, 0, 3, 2]]"),
        ("(x1, x2, y1, y2)", (a, c, b, d), "boxes[:, [0, 2, 1, 3]]"),
    ]
    for meaning, (x1, y1, x2, y2), code in meanings:
        if 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height:
            in_python = "" if box_format == "normalized" else f" (in Python: {code})"
            corners = format_numbers((x1, y1, x2, y2))
            return f" If it is {meaning}, its corners are {corners}{in_python}."
    return ""


def _read_points(points: ArrayLike, size_hw: tuple[int, int]) -> PointPrompts:
    array = as_array(points, name="points", dtype=np.float32)
    if array.size == 0:
        array = array.reshape(0, 1, 2)
    if array.ndim == 2 and array.shape[1] == 2:
        array = array[:, None, :]
    if array.ndim != 3 or array.shape[2] not in {2, 3}:
        raise ShapeError(
            f"points has shape {array.shape}; wanted (R, 2) for one (x, y) per region, (R, K, 2)"
            " for K points per region, or (R, K, 3) for (x, y, label)."
        )
    labels = array[..., 2] if array.shape[2] == 3 else np.ones(array.shape[:2], np.float32)
    if not np.isin(labels, (-1, 0, 1)).all() or not (labels == 1).any(axis=1).all():
        raise ShapeError(
            f"points have the labels {np.unique(labels).tolist()}; wanted 1 (in the region), 0 (not"
            " in it) or -1 (padding), and at least one 1 for every region."
        )
    prompts = PointPrompts(points_xy=array[..., :2], point_labels=labels.astype(np.int64))
    _check_inside(prompts, size_hw)
    return prompts


def _check_inside(prompts: PointPrompts, size_hw: tuple[int, int]) -> None:
    """Refuse points outside the image, and points that look relative to its size."""
    height, width = size_hw
    is_point = prompts.point_labels != -1
    given = prompts.points_xy[is_point]
    size = f"the image of {width} x {height} pixels (width x height)"
    outside = ~((prompts.points_xy >= 0) & (prompts.points_xy <= (width, height))).all(axis=-1)
    if (outside & is_point).any():
        region, place = np.argwhere(outside & is_point)[0]
        raise ShapeError(
            f"point {format_numbers(prompts.points_xy[region, place])} of region {region} lies"
            f" outside {size}; wanted (x, y) in pixels of that image."
        )
    if len(given) and (given <= 1).all() and (given % 1 != 0).any():
        raise ShapeError(
            f"point {format_numbers(given[0])}: the points look normalised, as all lie in the first"
            f" pixel of {size}. Wanted pixels: multiply x by {width} and y by {height}."
        )


def _read_masks(masks: ArrayLike | None, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    array = as_array(masks, name="masks")
    if array.size == 0:
        return np.zeros((0, *size_hw), np.bool_)
    if array.dtype != np.bool_ or array.shape[1:] != size_hw:
        raise ShapeError(
            f"masks has shape {array.shape} and dtype {array.dtype}; wanted"
            f" (R, {size_hw[0]}, {size_hw[1]}) bool: one mask of the image's height and width per"
            f" region{'' if array.dtype == np.bool_ else ', for example masks > 0'}."
        )
    return array


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
    found: object = type(prompts).__name__
    if isinstance(prompts, Sequence | np.ndarray | Tensor) and getattr(prompts, "ndim", 1) > 0:
        found = len(prompts)
    if found != num_images:
        raise ShapeError(
            f"{name} has {found} entries for {num_images} images; wanted a list with one array for"
            " each image (an empty one where an image has no regions). A single image is passed"
            " without a list."
        )
    return cast("Sequence[ArrayLike]", prompts)
