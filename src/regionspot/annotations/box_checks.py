"""Checks boxes, one by one and as a whole.

Each box is checked in the precision of the file, then converted to float32 corners. If nearly all
boxes are bad, the file probably uses other units or another order, or belongs to other images. It
is refused, unless ``implausible`` is ``accept``: then the report has a note.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations.report import NUM_EXAMPLES, Dropped, Reason, add_up
from regionspot.core.errors import AnnotationError
from regionspot.core.geometry import xywh_to_xyxy

Implausible = Literal["refuse", "accept"]
"""What to do with a file whose annotations look wrong as a whole."""
BoxLayout = Literal["xywh", "xyxy"]
"""How a file writes a box: a corner and its size, or two corners."""
BoxUnit = Literal["pixel", "relative"]
"""Unit of box coordinates: pixels of the original image, or fractions of its width and height."""

NEARLY_ALL: Final = 0.9
"""More than this share of boxes with the same fault is not chance."""
MANY: Final = 0.25
"""More than this share is not chance if the boxes make sense in another order."""
TINY: Final = 1.5
"""A box whose sides are shorter, in pixels, shows nothing."""

MAX_EXAMINED: Final = 1 << 18
"""Boxes of a file that are examined as a whole; so large a sample is as good as all."""

_MIN_BOXES = 4  # fewer may be odd by chance
_OVERSHOOT = 0.05  # of the image's side; annotators draw over the edge by less

# What the options leave out, and what is left out of sound boxes; all else is a fault.
_CHOSEN = {
    *(Reason.CROWD, Reason.GROUP, Reason.DEPICTION),
    *(Reason.BLANK, Reason.OTHER_CLASS, Reason.LOW_SCORE),
}
_SURPLUS = {Reason.DUPLICATE, Reason.TOO_MANY}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExaminedBoxes:
    """K boxes that are valid by themselves, before clipping."""

    boxes_xyxy: NDArray[np.float32]
    """Corners, (K, 4)."""
    limits_hw: NDArray[np.integer | np.floating] | None
    """Height and width of each box's image, (K, 2), in the unit of the boxes; None if unknown."""
    layout: BoxLayout
    """Their layout in the file."""
    is_relative: bool = False
    """Whether they are fractions of the image's width and height, not pixels."""
    num_inverted: int = 0
    """Further boxes of the file, of negative width or height."""


def wrong_units_or_order(boxes: ExaminedBoxes) -> str | None:
    """Describe boxes that seem to be in other units or another order than the format's, if any."""
    if not len(boxes.boxes_xyxy) and not boxes.num_inverted:
        return None
    return _tiny(boxes) or _inverted(boxes) or overshooting(boxes)


def _tiny(boxes: ExaminedBoxes) -> str | None:
    if boxes.is_relative:
        return None
    sides = boxes.boxes_xyxy[:, 2:] - boxes.boxes_xyxy[:, :2]
    is_tiny = np.all(sides < TINY, axis=1)
    has_fractions = bool((boxes.boxes_xyxy % 1 > 0).any())
    is_chance = len(is_tiny) < _MIN_BOXES and not has_fractions
    if is_chance or not _share(is_tiny) > NEARLY_ALL:
        return None
    found = f"{_count(is_tiny)} are smaller than {TINY} x {TINY} pixels, {_first(boxes, is_tiny)}."
    of_tiny = boxes.boxes_xyxy[is_tiny]
    if of_tiny.min() >= 0 and of_tiny.max() <= TINY:
        found += (
            " They look normalised, as fractions of the image's width and height. Give pixels:"
            " multiply x and width by the width of the image, and y and height by its height."
        )
    return f"{found} {_wanted(boxes)}"


def _inverted(boxes: ExaminedBoxes) -> str | None:
    total = len(boxes.boxes_xyxy) + boxes.num_inverted
    if total < _MIN_BOXES or boxes.num_inverted / total <= MANY:
        return None
    found = f"{boxes.num_inverted:,} of {total:,} boxes have a negative width or height."
    if boxes.layout == "xyxy":
        found += (
            " They may be x, y, width, height; or their corners are in another order. Give the"
            " left upper and the right lower corner: x2 = x + width, y2 = y + height."
        )
    return f"{found} {_wanted(boxes)}"


def overshooting(boxes: ExaminedBoxes) -> str | None:
    """Describe boxes nearly all of which exceed their image; see `wrong_units_or_order`."""
    if boxes.limits_hw is None or len(boxes.boxes_xyxy) < _MIN_BOXES:
        return None
    limits_wh = boxes.limits_hw[:, ::-1].astype(np.float64)
    slack = _OVERSHOOT * limits_wh
    lower, upper = boxes.boxes_xyxy[:, :2], boxes.boxes_xyxy[:, 2:]
    leaves = np.any((lower < -slack) | (upper > limits_wh + slack), axis=1)
    found = f"{_count(leaves)} reach far over the edge of their image, {_first(boxes, leaves)}."
    if boxes.layout == "xywh" and _share(leaves) > MANY:
        # If two corners were meant, the second one was taken for the size; it exceeds the first.
        second = upper - lower
        is_second = np.all((second > lower) & (second <= limits_wh + slack), axis=1)
        if _share(is_second) > NEARLY_ALL:
            return (
                f"{found} Read as x1, y1, x2, y2 they would fit. Give width = x2 - x1 and height ="
                f" y2 - y1. {_wanted(boxes)}"
            )
    if not _share(leaves) > NEARLY_ALL:
        return None
    if boxes.is_relative:
        return f"{found} They look like pixels. {_wanted(boxes)}"
    return (
        f"{found} They may be of images of another size, or in another order or unit."
        f" {_wanted(boxes)}"
    )


def implausible_error(
    path: object, doubt: str, group: Literal["annotations", "proposals"]
) -> AnnotationError:
    """Return the error for a file whose boxes look wrong as a whole."""
    return AnnotationError(
        f"{path}: {doubt}\nFix the file; if it is right as it is, give"
        f" --{group}.implausible accept."
    )


def _wanted(boxes: ExaminedBoxes) -> str:
    layout = "x, y, width, height" if boxes.layout == "xywh" else "x1, y1, x2, y2"
    unit = (
        "fractions of the image's width and height" if boxes.is_relative else "pixels of the image"
    )
    return f"Wanted {layout} in {unit}."


def _share(applies: NDArray[np.bool_]) -> float:
    return float(applies.mean()) if len(applies) else 0.0


def _count(applies: NDArray[np.bool_]) -> str:
    return f"{int(applies.sum()):,} of {len(applies):,} boxes"


def _first(boxes: ExaminedBoxes, applies: NDArray[np.bool_]) -> str:
    row = int(applies.argmax())
    x1, y1, x2, y2 = boxes.boxes_xyxy[row].tolist()
    of_image = ""
    if boxes.limits_hw is not None and not boxes.is_relative:
        height, width = boxes.limits_hw[row].tolist()
        of_image = f" of an image of {width} x {height} pixels"
    return f"such as the one from ({x1:.6g}, {y1:.6g}) to ({x2:.6g}, {y2:.6g}){of_image}"


def hardly_any_fits(
    *dropped: Dropped,
    num_annotations: int,
    share_of_images_with_regions: float,
    chose_classes: bool,
    entries: str,
    show: Callable[[int], str],
) -> str | None:
    """Explain why nearly all annotations were dropped, if they were.

    What the options leave out is no fault. Annotations of images that the file does not list are
    no fault either if most listed images have regions (a part of a data set), nor are those of
    classes that the options do not name, as long as any region is left.

    Returns:
        Counts by reason, each with its first annotation; None if enough are left.
    """
    excused = set(_CHOSEN)
    if share_of_images_with_regions > 0.5:
        excused.add(Reason.UNKNOWN_IMAGE)
    if share_of_images_with_regions > 0 and chose_classes:
        excused.add(Reason.UNKNOWN_CATEGORY)
    total = add_up(*dropped)
    unfit = [entry for entry in total if entry.reason not in excused | _SURPLUS]
    num_examined = num_annotations - sum(e.count for e in total if e.reason in excused)
    num_unfit = sum(entry.count for entry in unfit)
    if not num_unfit or num_unfit <= NEARLY_ALL * num_examined:
        return None
    lines = [f"of {num_examined:,} {entries} only {num_examined - num_unfit:,} fit:"]
    for entry in unfit:
        place = entry.first[0]
        text = show(place)
        lines.append(
            f"  {entry.count:,} {entry.reason}; the first is {entries}[{place}]"
            f"{f': {text}' if text else ''}"
        )
    return "\n".join(lines)


REASONS = tuple(Reason)
"""Reasons by their code: those of millions of annotations are stored as small numbers."""
KEPT = -1
"""The code of no reason: the annotation is a region."""

DropReasons = NDArray[np.int8]

# What float32 cannot add up counts as infinite: boxes are float32 everywhere else.
_HALF_OF_FLOAT32 = float(np.finfo(np.float32).max) / 2


def code_of(reason: Reason) -> int:
    """Return the code of a reason."""
    return REASONS.index(reason)


def check_boxes(
    boxes: NDArray[np.float64], layout: BoxLayout, has_box: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float32], DropReasons]:
    """Check boxes by themselves.

    Args:
        boxes: Four numbers each, (A, 4); anything, NaN and infinity included.
        layout: What they are.
        has_box: Whether there is a box at all, (A,); in every row if None.

    Returns:
        Corners (x1, y1, x2, y2), (A, 4), zero where anything is wrong; and drop reasons, (A,).
    """
    sizes_wh = boxes[:, 2:]
    if layout == "xyxy":
        with np.errstate(invalid="ignore", over="ignore"):
            sizes_wh = boxes[:, 2:] - boxes[:, :2]
    against = {
        Reason.NO_BOX: np.zeros(len(boxes), np.bool_) if has_box is None else ~has_box,
        Reason.NOT_FINITE: ~(np.abs(boxes) < _HALF_OF_FLOAT32).all(axis=1),
        Reason.NEGATIVE_SIZE: (sizes_wh < 0).any(axis=1),
        Reason.ZERO_AREA: (sizes_wh == 0).any(axis=1),
    }
    drop_reasons = first_reasons(np.full(len(boxes), KEPT, np.int8), against)
    sound = np.where((drop_reasons == KEPT)[:, None], boxes, 0).astype(np.float32)
    return xywh_to_xyxy(sound) if layout == "xywh" else sound, drop_reasons


def first_reasons(
    drop_reasons: DropReasons, against: dict[Reason, NDArray[np.bool_]]
) -> DropReasons:
    """Enter each reason, in order, where it applies and none was entered before; in place."""
    for reason, applies in against.items():
        drop_reasons[applies & (drop_reasons == KEPT)] = code_of(reason)
    return drop_reasons


def count_dropped(
    drop_reasons: DropReasons, positions: NDArray[np.int64] | None = None
) -> tuple[Dropped, ...]:
    """Count the entries dropped for each reason, in the order of `Reason`.

    ``positions`` are those in the file, (A,); None if entry ``i`` is the ``i``-th.
    """
    counted = []
    for code, reason in enumerate(REASONS):
        places = np.flatnonzero(drop_reasons == code)
        if len(places):
            if positions is not None:
                places = np.sort(positions[places])
            first = tuple(places[:NUM_EXAMPLES].tolist())
            counted.append(Dropped(reason=reason, count=len(places), first=first))
    return tuple(counted)


_BLOCK = 1 << 16  # the arrays of so many boxes fit in the processor's cache
_ODD = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)


def is_repeated(
    image_rows: NDArray[np.int32], labels: NDArray[np.int32], boxes_xyxy: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Return whether an earlier region has the same image, label and box, to the bit, (R,).

    Images and labels are (R,), boxes are (R, 4) and contiguous.
    """
    repeated = np.zeros(len(labels), np.bool_)
    # Equal regions have equal hashes; those with equal hashes are then compared.
    hashes = _hashes(image_rows, labels, boxes_xyxy)
    order = np.argsort(hashes, kind="stable")
    same = hashes[order[1:]] == hashes[order[:-1]]
    suspects = np.union1d(order[1:][same], order[:-1][same])
    seen: set[tuple[int, int, bytes]] = set()
    for row in suspects.tolist():
        identity = (int(image_rows[row]), int(labels[row]), boxes_xyxy[row].tobytes())
        repeated[row] = identity in seen
        seen.add(identity)
    return repeated


def blocks_of_whole_images(rows: NDArray[np.int32]) -> list[tuple[int, int]]:
    """Split ascending rows into blocks between images; bounds the memory, not the result."""
    blocks, start = [], 0
    while start < len(rows):
        last = rows[min(start + _BLOCK, len(rows)) - 1]
        stop = int(np.searchsorted(rows, last, side="right"))
        blocks.append((start, stop))
        start = stop
    return blocks


def _hashes(
    image_rows: NDArray[np.int32], labels: NDArray[np.int32], boxes_xyxy: NDArray[np.float32]
) -> NDArray[np.uint64]:
    hashes = image_rows.astype(np.uint64)
    words = np.ascontiguousarray(boxes_xyxy).view(np.uint32)
    for column in (labels.view(np.uint32), *words.T):
        hashes = (hashes ^ column) * _ODD
        hashes ^= hashes >> _SHIFT
    return hashes
