"""What recognition returns: named regions, and pictures of them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from regionspot.backbones import DecodedMasks
from regionspot.core.errors import ShapeError
from regionspot.core.geometry import FloatArray
from regionspot.core.text import needs_extra
from regionspot.core.vocabulary import Vocabulary

with needs_extra("extract"):
    from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    import supervision


_COLOURS = (
    (230, 25, 75),
    (60, 180, 75),
    (0, 130, 200),
    (245, 130, 48),
    (145, 30, 180),
    (0, 128, 128),
    (170, 110, 40),
    (128, 0, 0),
)
_MASK_OPACITY = 0.4
_SHORTEST_SIDE_PX = 480


def draw_regions(
    image: NDArray[np.uint8],
    boxes_xyxy: FloatArray,
    captions: Sequence[str],
    masks: Iterable[NDArray[np.bool_]] = (),
) -> Image.Image:
    """Draw boxes with captions, and masks as a tint.

    A small image is enlarged by a whole factor to keep captions readable.

    Args:
        image: Pixels, (H, W, 3) uint8 RGB; not changed.
        boxes_xyxy: Boxes, (R, 4), pixels of the image.
        captions: One text per box.
        masks: One (H, W) bool mask per box, read one at a time; or none at all.
    """
    factor = max(1, -(-_SHORTEST_SIDE_PX // min(image.shape[:2])))
    picture = Image.fromarray(image)
    for row, mask in enumerate(masks):
        opacity = Image.fromarray(mask * np.uint8(_MASK_OPACITY * 255))
        picture.paste(_COLOURS[row % len(_COLOURS)], mask=opacity)
    if factor > 1:
        width, height = picture.size
        picture = picture.resize((width * factor, height * factor), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    text_px = max(12, min(picture.size) // 32)
    font = ImageFont.load_default(text_px)
    for row, (box, caption) in enumerate(zip(boxes_xyxy, captions, strict=True)):
        colour = _COLOURS[row % len(_COLOURS)]
        x1, y1, x2, y2 = (float(value) * factor for value in box)
        frame = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
        draw.rectangle(frame, outline=colour, width=max(2, text_px // 8))
        _caption(draw, (x1, y1), caption, colour, font)
    return picture


def _caption(
    draw: ImageDraw.ImageDraw,
    corner_xy: tuple[float, float],
    caption: str,
    colour: tuple[int, int, int],
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> None:
    """Write white on colour, above the box if there is room and always inside the picture."""
    left, top, right, bottom = draw.textbbox((0, 0), caption, font=font)
    width, height = right - left + 6, bottom - top + 6
    picture_width, _picture_height = draw.im.size
    x = max(0.0, min(corner_xy[0], picture_width - width))
    y = corner_xy[1] - height if corner_xy[1] >= height else corner_xy[1]
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + 3 - left, y + 3 - top), caption, fill="white", font=font)


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """One named region."""

    label: str
    """The most probable name."""
    score: float
    """Its probability over the vocabulary, times the box score if there is one, 0 to 1."""
    box_xyxy: FloatArray
    """Box, (4,), pixels of the original image."""
    embedding: FloatArray
    """Embedding in CLIP's text space, (E,), not normalised."""
    kept_masks: NDArray[np.bool_] | DecodedMasks | None = field(repr=False)
    """The mask as stored, one row; see `Regions`."""

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """Mask at the original image's size, (H, W), or None; upsampled on every access."""
        return None if self.kept_masks is None else self.kept_masks[0]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Regions:
    """The named regions of one image, in the order of the prompts; without prompts, best first.

    Row ``i`` of every array belongs to region ``i``; k is the ``top_k`` of the call. Iterating
    yields a `Region` each; an index, slice or mask selects.

    SAM's masks are stored as it decodes them, 256 x 256 logits each, and upsampled to the image's
    size on access: one by ``mask(i)`` or by iterating, all by ``masks``.
    """

    image: NDArray[np.uint8]
    """The image's pixels, (H, W, 3) uint8 RGB."""
    vocabulary: Vocabulary
    """The names to choose from; the last may be that of unknown regions."""
    boxes_xyxy: FloatArray
    """Boxes, (R, 4) float32, original pixels: the prompts, the extent of masks, or proposed."""
    top_class_ids: NDArray[np.int64]
    """The k most probable classes, best first, (R, k), as indices into the vocabulary."""
    top_scores: FloatArray
    """Their probabilities over the vocabulary, times the box scores if any, (R, k) float32. With a
    single name, which would always have a probability of 1, its confidence."""
    top_confidences: FloatArray
    """Confidence in each of these names, whatever the others are: the sigmoid of the head's logit,
    (R, k) float32, 0 to 1."""
    embeddings: FloatArray
    """Region embeddings in CLIP's text space, (R, E) float32, not normalised."""
    kept_masks: NDArray[np.bool_] | DecodedMasks | None
    """The masks as stored, R rows: SAM's logits, or the masks given as prompts; None without."""
    box_scores: FloatArray | None = None
    """SAM's confidence in each region that it proposed, (R,) float32, 0 to 1. It is already in all
    scores: divide by it to get the probabilities."""
    is_unknown: NDArray[np.bool_] | None = None
    """Whether no name reaches its threshold, (R,); such regions are labelled with the last name of
    the vocabulary. None if the call did not ask for unknown regions."""

    def __post_init__(self) -> None:
        arrays = (
            *(self.boxes_xyxy, self.top_class_ids, self.top_scores, self.top_confidences),
            *(self.embeddings, self.kept_masks, self.box_scores, self.is_unknown),
        )
        shapes = [array.shape for array in arrays if array is not None]
        if len({shape[0] for shape in shapes}) != 1:
            raise ShapeError(f"regions need one row each in every array; found shapes {shapes}.")

    def __len__(self) -> int:
        return len(self.boxes_xyxy)

    def __iter__(self) -> Iterator[Region]:
        scores = self.scores
        for row, label in enumerate(self.labels):
            yield Region(
                label=label,
                score=float(scores[row]),
                box_xyxy=self.boxes_xyxy[row],
                embedding=self.embeddings[row],
                kept_masks=None if self.kept_masks is None else self.kept_masks[row : row + 1],
            )

    def __getitem__(self, rows: int | slice | NDArray[np.bool_] | NDArray[np.intp]) -> Self:
        """Select by index, slice, boolean mask or index array; the result is `Regions` too."""
        chosen = np.atleast_1d(np.arange(len(self))[rows])
        return replace(
            self,
            boxes_xyxy=self.boxes_xyxy[chosen],
            top_class_ids=self.top_class_ids[chosen],
            top_scores=self.top_scores[chosen],
            top_confidences=self.top_confidences[chosen],
            embeddings=self.embeddings[chosen],
            kept_masks=None if self.kept_masks is None else self.kept_masks[chosen],
            box_scores=None if self.box_scores is None else self.box_scores[chosen],
            is_unknown=None if self.is_unknown is None else self.is_unknown[chosen],
        )

    @override
    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        lines = [
            f"  {region.label} {region.score:.0%} at"
            f" ({', '.join(f'{v:.0f}' for v in region.box_xyxy)})"
            for region in self
        ]
        title = f"{len(self)} regions of a {width}x{height} image, {len(self.vocabulary)} names"
        return "\n".join([f"Regions({title})", *lines])

    @property
    def labels(self) -> tuple[str, ...]:
        """The most probable name of each region, or that of unknown regions, R of them."""
        return tuple(self.vocabulary[int(index)] for index in self.class_ids)

    @property
    def class_ids(self) -> NDArray[np.int64]:
        """The class of each region's label, (R,), as index into the vocabulary."""
        best = self.top_class_ids[:, 0]
        return (
            best
            if self.is_unknown is None
            else np.where(self.is_unknown, len(self.vocabulary) - 1, best)
        )

    @property
    def scores(self) -> FloatArray:
        """The score of each region's label, (R,) float32: see ``top_scores``.

        For an unknown region it is 1 minus the confidence in its best name, times the box score.
        """
        best = self.top_scores[:, 0]
        if self.is_unknown is None:
            return best
        doubts = (1 - self.top_confidences[:, 0]) * (
            1 if self.box_scores is None else self.box_scores
        )
        return np.where(self.is_unknown, doubts, best)

    @property
    def confidences(self) -> FloatArray:
        """The confidence in each region's best name, (R,) float32: see ``top_confidences``."""
        return self.top_confidences[:, 0]

    @property
    def top_labels(self) -> tuple[tuple[str, ...], ...]:
        """The k most probable names of each region, best first, also of unknown regions."""
        return tuple(
            tuple(self.vocabulary[int(index)] for index in row) for row in self.top_class_ids
        )

    @property
    def masks(self) -> NDArray[np.bool_] | None:
        """All masks at the original image's size, (R, H, W), or None.

        They are upsampled on every access and take R * H * W bytes; `mask` and iterating make one
        at a time.
        """
        return None if self.kept_masks is None else np.array(self.kept_masks)

    def mask(self, row: int) -> NDArray[np.bool_] | None:
        """Return one region's mask at the original image's size, (H, W), or None."""
        return None if self.kept_masks is None else self.kept_masks[row]

    def to_supervision(self) -> "supervision.Detections":
        """Return the regions as ``supervision.Detections``, names under ``data["class_name"]``.

        Raises:
            MissingExtraError: The package ``supervision`` is not installed.
        """
        with needs_extra("demo"):
            import supervision as sv
        return sv.Detections(
            xyxy=self.boxes_xyxy.copy(),
            mask=self.masks,
            confidence=self.scores.copy(),
            class_id=self.class_ids.copy(),
            data={"class_name": np.array(self.labels, dtype=np.str_)},
        )

    def plot(self) -> "Image.Image":
        """Draw the boxes, masks and names on the image.

        Returns:
            A picture to ``.show()``, to ``.save("named.png")``, or to display in a notebook.
        """
        captions = [
            f"{label} {score:.0%}" for label, score in zip(self.labels, self.scores, strict=True)
        ]
        masks = () if self.kept_masks is None else self.kept_masks
        return draw_regions(self.image, self.boxes_xyxy, captions, masks)
