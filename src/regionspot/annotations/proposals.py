"""Reads files of proposals: boxes with scores from a detector, rather than from an annotator.

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
from regionspot.annotations.json_entries import OtherEntries, read_lists
from regionspot.annotations.json_lists import PIECE_BYTES, JsonContainer, JsonFile
from regionspot.annotations.opening import FileRole
from regionspot.annotations.proposal_entries import (
    CocoResults,
    GlipBoxes,
    ProposalColumns,
    image_id_of_key,
)
from regionspot.annotations.report import Dropped, Reason
from regionspot.core.errors import AnnotationError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProposalTable:
    """The boxes of a file of proposals, those of one image next to each other, the best first.

    They are as in the file, not clipped, since it does not say how large its images are; which of
    them become regions is decided by `with_proposals`. N images, R proposals.
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
    """How sure the detector was, 0 to 1, (R,); within an image descending, equal ones in the order
    of the file."""
    positions: NDArray[np.int64]
    """Where each stands among the boxes of the file, counted from 0, (R,)."""
    sha256: str
    """SHA-256 of the file, in hex."""
    box_layout: BoxLayout
    """How the file writes boxes."""
    num_read: int
    """Boxes in the file: R and those dropped."""
    dropped: tuple[Dropped, ...]
    """What was dropped and why; only reasons that occurred."""

    def __len__(self) -> int:
        return len(self.scores)

    def of_image(self, image_id: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return an image's boxes, (R, 4), and their scores, (R,), the best first.

        An image that the file does not list has none.
        """
        row = int(np.searchsorted(self.image_ids, image_id))
        if row == len(self.image_ids) or self.image_ids[row] != image_id:
            return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
        own = slice(self.starts[row], self.starts[row + 1])
        return self.boxes_xyxy[own].copy(), self.scores[own].copy()


def sorted_table(
    columns: ProposalColumns, *, path: Path, sha256: str, box_layout: BoxLayout
) -> ProposalTable:
    """Sort proposals by image and score; drop what is no box, and all but the best of equal boxes.

    A detector that names one box with several classes lists it once for each; without the classes
    these are one proposal.
    """
    drop_reasons = columns.faults.copy()
    kept = np.flatnonzero(drop_reasons == KEPT)
    kept = kept[np.lexsort((-columns.scores[kept], columns.image_ids[kept]))]
    rows = np.unique(columns.image_ids[kept], return_inverse=True)[1].astype(np.int32)
    repeats = np.zeros(len(kept), np.bool_)
    for start, stop in blocks_of_whole_images(rows):
        own = slice(start, stop)
        repeats[own] = is_repeated(
            rows[own], np.zeros(stop - start, np.int32), columns.boxes_xyxy[kept[own]]
        )
    drop_reasons[kept[repeats]] = code_of(Reason.DUPLICATE)
    kept = kept[~repeats]
    image_ids, starts = np.unique(columns.image_ids[kept], return_index=True)
    return ProposalTable(
        path=path,
        image_ids=image_ids,
        starts=np.append(starts, len(kept)).astype(np.int64),
        boxes_xyxy=columns.boxes_xyxy[kept],
        scores=columns.scores[kept],
        positions=kept.astype(np.int64),
        sha256=sha256,
        box_layout=box_layout,
        num_read=len(drop_reasons),
        dropped=count_dropped(drop_reasons),
    )


ProposalFormat = Literal["auto", "coco", "glip"]
"""What ``format`` accepts; ``auto`` recognises it from the content."""

PROPOSALS = FileRole(noun="proposals file", article="a", option="--proposals.path")
"""What a file of proposals is called in messages."""

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

    What is no box, and all but the best of an image's equal boxes, is dropped and counted.

    Args:
        path: The file.
        format: Its layout, see above.
        piece_bytes: Bytes that are decoded at once.

    Raises:
        MissingFileError: There is no such file.
        AnnotationError: The file is damaged, in another format, or holds no proposal, or an entry
            has no image id or no score from 0 to 1; says which one, and what was expected.
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
    table = sorted_table(
        reader.finish(),
        path=path,
        sha256=file.sha256,
        box_layout="xywh" if isinstance(reader, CocoResults) else "xyxy",
    )
    if not len(table):
        raise _no_box_error(table)
    return table


def _reader_for(first: JsonContainer, wanted: ProposalFormat) -> CocoResults | GlipBoxes | None:
    """Recognise a file by its first list or object; return None if it is in another format."""
    if first.name is None and wanted in {"auto", "coco"}:
        return CocoResults()
    is_glip = first.name is not None and image_id_of_key(first.name) is not None
    if is_glip and wanted in {"auto", "glip"}:
        return GlipBoxes()
    return None


def _check_values(skeleton: object, path: Path) -> None:
    """Refuse an object in which not every image has an object or list of its own."""
    if isinstance(skeleton, dict):
        for key, value in skeleton.items():
            if not isinstance(value, dict | list):
                raise AnnotationError(
                    f"{path}: image {key!r} is {value!r:.60}; wanted an object with the lists boxes"
                    " and scores."
                )


def _other_file_error(file: JsonFile, wanted: ProposalFormat) -> AnnotationError:
    """Describe a file in another format."""
    found = describe(read_lists(file, lambda _: OtherEntries()))
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
