"""Reads proposals: boxes with scores, from a detector rather than from an annotator.

Two layouts are accepted; both are read in pieces of bounded size:

``coco``: COCO results, and so LVIS results: a list of ``{"image_id": 42, "bbox": [x, y, width,
height], "score": 0.9}``. Classes and masks are ignored.

``glip``: the layout of the GLIP boxes that the paper was evaluated with: an object ``{"42":
{"boxes": [[x1, y1, x2, y2], ...], "scores": [0.9, ...]}, ...}``. Labels are ignored.

Boxes are in pixels of the original image. Image ids are those of the annotations; for OpenImages,
the 16 hex digits as a signed integer; for CSV files, the number of the image, counted from 0.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations.box_checks import (
    KEPT,
    BoxLayout,
    blocks_of_whole_images,
    code_of,
    count_dropped,
    is_repeated,
)
from regionspot.annotations.detect_format import describe
from regionspot.annotations.detectron2 import CONVERT, binary_kind
from regionspot.annotations.json_entries import read_lists
from regionspot.annotations.json_lists import PIECE_BYTES, JsonContainer, JsonFile
from regionspot.annotations.opening import FileRole
from regionspot.annotations.proposal_entries import (
    CocoResults,
    GlipBoxes,
    ProposalColumns,
    image_id_of,
)
from regionspot.annotations.report import Dropped, Reason
from regionspot.core.errors import AnnotationError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProposalTable:
    """The boxes of a file of proposals, grouped by image, in descending order of score.

    They are not clipped, since the file does not say how large its images are; `with_proposals`
    decides which of them become regions. N images, R proposals.
    """

    path: Path
    """The file."""
    image_ids: NDArray[np.int64]
    """The images that have proposals, (N,), ascending."""
    starts: NDArray[np.int64]
    """Where each image's proposals start, and R at the end, (N + 1,)."""
    boxes_xyxy: NDArray[np.float32]
    """Boxes, (R, 4), pixels of the original image; no two of an image are equal."""
    scores: NDArray[np.float32]
    """The detector's scores, 0 to 1, (R,); descending within an image, equal ones in the order of
    the file."""
    positions: NDArray[np.int64]
    """Position of each among the boxes of the file, counted from 0, (R,)."""
    sha256: str
    """SHA-256 of the file, in hex."""
    box_layout: BoxLayout
    """Layout of boxes in the file."""
    num_read: int
    """Boxes in the file: R and those dropped."""
    dropped: tuple[Dropped, ...]
    """What was dropped and why; only reasons that occurred."""

    def __len__(self) -> int:
        return len(self.scores)

    def of_image(self, image_id: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return an image's boxes, (R, 4), and scores, (R,); none if the file does not list it."""
        row = int(np.searchsorted(self.image_ids, image_id))
        if row == len(self.image_ids) or self.image_ids[row] != image_id:
            return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
        own = slice(self.starts[row], self.starts[row + 1])
        return self.boxes_xyxy[own].copy(), self.scores[own].copy()


def _sorted_table(columns: ProposalColumns, *, path: Path, sha256: str) -> ProposalTable:
    """Sort proposals by image and score; drop invalid ones, and all but the best of equal boxes.

    A detector that gives one box several classes lists it once for each; without the classes these
    are one proposal.
    """
    drop_reasons, all_ids = columns.pop("faults"), columns.pop("image_ids")
    all_scores, all_xyxy = columns.pop("scores"), columns.pop("boxes_xyxy")
    kept = np.flatnonzero(drop_reasons == KEPT)
    kept = kept[np.lexsort((-all_scores[kept], all_ids[kept]))]
    rows = np.unique(all_ids[kept], return_inverse=True)[1].astype(np.int32)
    repeats = np.zeros(len(kept), np.bool_)
    for start, stop in blocks_of_whole_images(rows):
        own = slice(start, stop)
        repeats[own] = is_repeated(rows[own], np.zeros(stop - start, np.int32), all_xyxy[kept[own]])
    drop_reasons[kept[repeats]] = code_of(Reason.DUPLICATE)
    kept = kept[~repeats]
    image_ids, starts = np.unique(all_ids[kept], return_index=True)
    return ProposalTable(
        path=path,
        image_ids=image_ids,
        starts=np.append(starts, len(kept)).astype(np.int64),
        boxes_xyxy=all_xyxy[kept],
        scores=all_scores[kept],
        positions=kept.astype(np.int64),
        sha256=sha256,
        box_layout=columns.layout,
        num_read=len(drop_reasons),
        dropped=count_dropped(drop_reasons),
    )


ProposalFormat = Literal["auto", "coco", "glip"]
"""What ``format`` accepts; ``auto`` recognizes it from the content."""

PROPOSALS = FileRole(noun="proposals file", option="--proposals.path")
"""The role of a file of proposals."""

_WANTED = {
    "coco": 'a list of {"image_id": 1, "bbox": [x, y, width, height], "score": 0.5}',
    "glip": 'an object of {"<image id>": {"boxes": [[x1, y1, x2, y2]], "scores": [0.5]}}',
}


def read_proposals(
    path: Path,
    *,
    format: ProposalFormat = "auto",  # noqa: A002 - the option's name, in code as in configs
    piece_bytes: int = PIECE_BYTES,
) -> ProposalTable:
    """Read a file of proposals, without holding its text in memory.

    Invalid boxes, and all but the best of an image's equal boxes, are dropped and counted.

    Args:
        path: The file.
        format: Its layout, see above.
        piece_bytes: Bytes that are decoded at once.

    Raises:
        MissingFileError: There is no such file.
        AnnotationError: The file is damaged, in another format, or holds no proposal, or an entry
            has no image id or no score from 0 to 1; names it, and what was expected.
    """
    kind = binary_kind(path)
    if kind is not None:
        raise AnnotationError(
            f"{path} is {kind}; wanted JSON. Convert it:"
            f" {CONVERT} {path} {path.with_suffix('.json').name}"
        )
    file = JsonFile(path, piece_bytes=piece_bytes, role=PROPOSALS)
    containers = file.containers
    reader = _reader_for(containers[0], format) if containers else None
    if reader is None:
        raise _other_file_error(file, format)
    for container in containers:
        for piece in container.pieces(reader.decoder):
            reader.add(piece)
    _check_values(file.skeleton, path)
    table = _sorted_table(reader.finish(), path=path, sha256=file.sha256)
    if not len(table):
        raise _no_box_error(table)
    return table


def _reader_for(first: JsonContainer, wanted: ProposalFormat) -> CocoResults | GlipBoxes | None:
    """Recognize a file by its first list or object; return None if it is in another format."""
    if first.name is None and wanted in {"auto", "coco"}:
        return CocoResults()
    is_glip = image_id_of(first.name) is not None
    if is_glip and wanted in {"auto", "glip"}:
        return GlipBoxes()
    return None


def _check_values(skeleton: object, path: Path) -> None:
    """Refuse an object in which the value of an image is neither an object nor a list."""
    if isinstance(skeleton, dict):
        for key, value in skeleton.items():
            if not isinstance(value, dict | list):
                raise AnnotationError(
                    f"{path}: image {key!r} is {value!r:.60}; wanted an object with the lists boxes"
                    " and scores."
                )


def _other_file_error(file: JsonFile, wanted: ProposalFormat) -> AnnotationError:
    found = describe(read_lists(file, {}))
    layouts = " or ".join(_WANTED.values()) if wanted == "auto" else _WANTED[wanted]
    remedy = (
        f"Set {PROPOSALS.option} to a file of proposals"
        if wanted == "auto"
        else "Leave the format of proposals at auto, or give another file"
    )
    return AnnotationError(f"{file.path} is {found}; wanted proposals: {layouts}. {remedy}.")


def _no_box_error(table: ProposalTable) -> AnnotationError:
    if not table.num_read:
        return AnnotationError(
            f"{table.path} holds no proposals. Give the output of a detector that found something."
        )
    counts = ", ".join(
        f"{entry.count:,} {entry.reason} (proposals[{entry.first[0]}])" for entry in table.dropped
    )
    layouts = " or ".join(_WANTED.values())
    return AnnotationError(
        f"{table.path}: none of its {table.num_read:,} proposals is a box: {counts}. Wanted"
        f" {layouts}."
    )
