"""What the page computes: a photo, regions and names in; named regions out.

Nothing here is kept for a visitor, except that the photos asked about last stay encoded.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from regionspot.backbones import GridProposer
from regionspot.core.errors import MissingFileError, ShapeError, VocabularyError
from regionspot.core.files import is_file, sha256_bytes
from regionspot.core.geometry import FloatArray
from regionspot.core.text import needs_extra
from regionspot.core.vocabulary import Vocabulary
from regionspot.demo.limits import Limits
from regionspot.inference import (
    Calibration,
    EncodedImage,
    ImageError,
    Prototypes,
    Regions,
    RegionSpot,
    average_examples,
    load_image,
)
from regionspot.viz import attention_in_box, attention_limit, draw_attention

with needs_extra("demo"):
    from PIL import Image

_TOP_K = 3
_ATTENTION_SIDE_PX = 480
_NUM_SHOWN = 5
_TINY_GRID = GridProposer(
    points_per_side=16,
    pred_iou_thresh=0.6,
    stability_score_thresh=0.7,
    stability_score_offset=0.5,
)
"""The default thresholds are for the released SAMs; the tiny one is less confident."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Example:
    """A region that shows a name."""

    name: str
    """The name."""
    embedding: FloatArray
    """Its embedding by the head, (E,), of unit norm."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """Named regions of a photo."""

    regions: Regions
    """The regions, with the three best names of each."""
    note: str
    """What the visitor should know about the names; may be empty."""


class Answers:
    """Answers questions about photos with one model; may be called by one thread at a time.

    Args:
        model: The model.
        limits: What is refused.
        calibration: The result of `RegionSpot.calibrate`, which examples need beside words; None
            compares with the examples only, as soon as there are any.
    """

    def __init__(
        self,
        model: RegionSpot,
        *,
        limits: Limits | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.model = model
        self.limits = limits or Limits()
        self.calibration = calibration
        grid = _TINY_GRID if model.known_words else GridProposer()
        self._grid = replace(grid, max_regions=self.limits.max_regions)
        self._encode = lru_cache(maxsize=8)(self._encode_file)

    def open(self, path: Path) -> EncodedImage:
        """Read and encode a photo, or return it if it was asked about lately.

        Photos are shown as cameras mean them: rotated by their EXIF orientation, as in browsers.

        Raises:
            MissingFileError: The upload is no longer kept.
            ImageError: The file is larger than the limits, or is not an image.
        """
        if not is_file(path):
            raise MissingFileError("the picture is no longer kept: upload it again.")
        limit = self.limits.max_upload_mb * 1e6
        if (num_bytes := path.stat().st_size) > limit:
            raise ImageError(
                f"the picture has {num_bytes / 1e6:,.1f} MB; wanted at most"
                f" {self.limits.max_upload_mb:g} MB. Upload a smaller one."
            )
        return self._encode(path, sha256_bytes(path.read_bytes()))

    def name(
        self,
        photo: Path,
        *,
        words: str,
        examples: Sequence[Example] = (),
        boxes: ArrayLike | None = None,
        points: ArrayLike | None = None,
    ) -> Answer:
        """Name regions of a photo; SAM proposes them if there are neither boxes nor points.

        Args:
            photo: The picture file.
            words: Names to choose from, one a line; empty lines are skipped.
            examples: Names given by example.
            boxes: Corners, (R, 4), pixels of the upright photo.
            points: One point a region, (R, 2), pixels of the upright photo.

        Raises:
            ImageError: See `open`.
            ShapeError: There are too many boxes or points, or one is outside of the photo.
            VocabularyError: There are too many names, none, a repeated one, or words that a tiny
                CLIP does not know.
        """
        encoded = self.open(photo)
        prototypes = _prototypes(examples)
        is_calibrated = self.calibration is not None and self.calibration.levels is not None
        takes_words = prototypes is None or is_calibrated
        vocabulary = None
        if takes_words and (prototypes is None or words.strip()):
            vocabulary = self._vocabulary(words)
        asked = {
            "vocabulary": vocabulary,
            "examples": prototypes,
            "calibration": self.calibration,
            "top_k": _TOP_K,
        }
        if boxes is None and points is None:
            regions = self.model.recognize_everything(encoded, grid=self._grid, **asked)  # type: ignore[arg-type]
            if len(regions) == 0:
                return Answer(regions=regions, note="SAM proposed no regions in this picture.")
        else:
            self._check_count(boxes if points is None else points)
            regions = self.model.recognize(encoded, boxes, points=points, **asked)  # type: ignore[call-overload]
        note = (
            ""
            if takes_words
            else (
                "Regions are compared with your examples only: to choose among words as well, start"
                " the demo with --cache and a labelled cache."
            )
        )
        return Answer(regions=regions, note=note)

    def attention(
        self,
        photo: Path,
        row: int,
        *,
        boxes: ArrayLike | None = None,
        points: ArrayLike | None = None,
        box_xyxy: FloatArray,
    ) -> tuple[Image.Image, str]:
        """Draw which patches a region attends to, of regions that were named together.

        Args:
            photo: The picture file.
            row: The region's number.
            boxes: As in `name`.
            points: As in `name`.
            box_xyxy: The region's box, (4,), in pixels.

        Returns:
            The picture, and a caption.
        """
        encoded = self.open(photo)
        maps_RT = self.model.attention(encoded, boxes, points=points)
        x1, y1, x2, y2 = (float(value) for value in box_xyxy)
        height, width = encoded.pixels.shape[:2]
        jpeg = draw_attention(
            encoded.pixels,
            (x1, y1, x2, y2),
            maps_RT[row],
            limit=attention_limit(maps_RT),
            long_side_px=_ATTENTION_SIDE_PX,
        )
        inside = attention_in_box(maps_RT[row], (x1, y1, x2, y2), (height, width))
        area = (x2 - x1) * (y2 - y1) / (height * width)
        caption = (
            f"Region {row + 1}: {inside:.0%} of its attention to patches is inside the box, which"
            f" covers {area:.0%} of the picture."
        )
        return Image.open(io.BytesIO(jpeg)), caption

    def example(self, photo: Path, name: str, box_xyxy: FloatArray) -> Example:
        """Embed a region, on its own, as an example of a name.

        Raises:
            VocabularyError: The name is empty.
        """
        if not name.strip():
            raise VocabularyError("the example has no name: type one.")
        shown = self.model.prototypes({name.strip(): [(self.open(photo), box_xyxy)]})
        return Example(name=name.strip(), embedding=shown.bank[0])

    def _encode_file(self, path: Path, _sha256: str) -> EncodedImage:
        """Encode a file; the hash tells apart what a path held at different times."""
        data = path.read_bytes()
        width, height = _size_wh(data)
        if width * height > self.limits.max_pixels:
            raise ImageError(
                f"the picture is {width} x {height} pixels; wanted at most"
                f" {self.limits.max_pixels:,} in all. Upload a smaller one."
            )
        return self.model.encode_image(load_image(data, exif_policy="apply"))

    def _vocabulary(self, words: str) -> Vocabulary:
        names = [name for line in words.splitlines() if (name := line.strip())]
        if not names:
            raise VocabularyError("there are no words to choose from: type some, one name a line.")
        if len(names) > self.limits.max_names:
            raise VocabularyError(
                f"there are {len(names):,} words; wanted at most {self.limits.max_names:,}."
            )
        check_words(names, self.model.known_words)
        return Vocabulary.from_names(names)

    def _check_count(self, prompts: ArrayLike | None) -> None:
        count = len(np.asarray(prompts))
        if count > self.limits.max_regions:
            raise ShapeError(
                f"there are {count:,} regions; wanted at most {self.limits.max_regions:,} at once."
            )


def check_words(names: Sequence[str], known_words: Sequence[str]) -> None:
    """Refuse names with words that a tiny CLIP does not know, in words for visitors.

    Args:
        names: The names.
        known_words: `RegionSpot.known_words`; nothing is refused if there are none.

    Raises:
        VocabularyError: There is an unknown word.
    """
    words = dict.fromkeys(word for name in names for word in name.lower().split())
    unknown = [repr(word) for word in words if word not in known_words]
    if known_words and unknown:
        raise VocabularyError(
            f"the tiny model does not know {', '.join(unknown[:_NUM_SHOWN])}. The page lists the"
            f" {len(known_words)} words that it knows: use only these."
        )


def _prototypes(examples: Sequence[Example]) -> Prototypes | None:
    """Average the examples of each name; None if there are none."""
    if not examples:
        return None
    by_name: dict[str, list[FloatArray]] = {}
    for one in examples:
        by_name.setdefault(one.name, []).append(one.embedding)
    return average_examples({name: np.stack(rows) for name, rows in by_name.items()})


def _size_wh(data: bytes) -> tuple[int, int]:
    """Return a picture's width and height without decoding it."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except Image.DecompressionBombError as error:
        raise ImageError("the picture has far too many pixels. Upload a smaller one.") from error
    except OSError as error:
        raise ImageError(
            "the file is no picture that can be read. Upload a JPEG, PNG or WebP file."
        ) from error
