"""Proposals by image: what a file of detections is read into."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regionspot.annotations.box_checks import BoxLayout
from regionspot.annotations.judging import KEPT, code_of, count_dropped
from regionspot.annotations.proposal_entries import ProposalColumns
from regionspot.annotations.repeats import blocks_of_whole_images, is_repeated
from regionspot.annotations.report import Dropped, Reason


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
    verdicts = columns.faults.copy()
    kept = np.flatnonzero(verdicts == KEPT)
    kept = kept[np.lexsort((-columns.scores[kept], columns.image_ids[kept]))]
    rows = np.unique(columns.image_ids[kept], return_inverse=True)[1].astype(np.int32)
    repeats = np.zeros(len(kept), np.bool_)
    for start, stop in blocks_of_whole_images(rows):
        own = slice(start, stop)
        repeats[own] = is_repeated(
            rows[own], np.zeros(stop - start, np.int32), columns.boxes_xyxy[kept[own]]
        )
    verdicts[kept[repeats]] = code_of(Reason.DUPLICATE)
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
        num_read=len(verdicts),
        dropped=count_dropped(verdicts),
    )
