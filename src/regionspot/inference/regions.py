"""What recognition returns: named regions."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from regionspot.backbones import DecodedMasks
from regionspot.core.errors import ShapeError
from regionspot.core.geometry import FloatArray
from regionspot.core.text import needs_extra
from regionspot.core.vocabulary import Vocabulary
from regionspot.inference import exports
from regionspot.inference.clip_crops import box_crop
from regionspot.inference.pictures import draw_regions

with needs_extra("extract"):
    from PIL import Image

if TYPE_CHECKING:
    import fiftyone
    import pandas as pd
    import supervision


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
    """Scores of the boxes that SAM proposed, predicted IoU times stability, (R,) float32, 0 to 1.
    They are already in all scores: divide by them to get the probabilities."""
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

    def crops(self) -> list["Image.Image"]:
        """Return the part of the image in each box, in whole pixels, as PIL images."""
        return [Image.fromarray(box_crop(self.image, box)) for box in self.boxes_xyxy]

    def plot(self) -> "Image.Image":
        """Draw the boxes, the outlines of masks, and names beside them on the image.

        Returns:
            A picture to ``.show()``, to ``.save("named.png")``, or to display in a notebook.
        """
        captions = [
            f"{label} {score:.0%}" for label, score in zip(self.labels, self.scores, strict=True)
        ]
        masks = () if self.kept_masks is None else self.kept_masks
        return draw_regions(self.image, self.boxes_xyxy, captions, masks)

    def _repr_png_(self) -> bytes:
        """Return the picture of `plot`, which notebooks display."""
        buffer = io.BytesIO()
        self.plot().save(buffer, "png")
        return buffer.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """Return labels, scores and boxes as plain numbers and texts, ready for `json.dumps`."""
        return exports.to_dict(self)

    def to_coco(self, *, image_id: int = 1, file_name: str = "") -> dict[str, Any]:
        """Return a COCO data set of this image, ready for `json.dumps`.

        Category ids count from 1 in the order of the vocabulary. Each annotation has a ``score``;
        masks, if any, are compressed RLE.

        Args:
            image_id: Id of the image.
            file_name: Name of its file.
        """
        return exports.to_coco(self, image_id=image_id, file_name=file_name)

    def to_dataframe(self) -> "pd.DataFrame":
        """Return a pandas table: label, score, confidence, x1, y1, x2, y2 of each region.

        Raises:
            MissingExtraError: The package ``pandas`` is not installed.
        """
        return exports.to_dataframe(self)

    def to_supervision(self) -> "supervision.Detections":
        """Return the regions as ``supervision.Detections``, names under ``data["class_name"]``.

        Raises:
            MissingExtraError: The package ``supervision`` is not installed.
        """
        return exports.to_supervision(self)

    def to_fiftyone(self) -> "fiftyone.Detections":
        """Return the regions as ``fiftyone.Detections``, for a field of a FiftyOne sample.

        Raises:
            MissingExtraError: The package ``fiftyone`` is not installed.
        """
        return exports.to_fiftyone(self)

    def to_label_studio(
        self, image_url: str, *, from_name: str = "label", to_name: str = "image"
    ) -> dict[str, Any]:
        """Return a Label Studio task with the boxes as predictions, to be corrected by people.

        A JSON list of such tasks can be imported. The project's labelling interface needs
        ``<Image name="image" value="$image"/>`` and ``<RectangleLabels name="label"
        toName="image">`` with the names.

        Args:
            image_url: Where Label Studio finds the image.
            from_name: Name of the RectangleLabels tag.
            to_name: Name of the Image tag, and of its variable.
        """
        return exports.to_label_studio(self, image_url, from_name=from_name, to_name=to_name)
