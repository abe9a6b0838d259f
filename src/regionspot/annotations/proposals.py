"""Reads files of proposals: boxes with scores that a detector gave instead of an annotator.

Two layouts go in as they are; both are read in pieces of bounded size:

``coco``: COCO results, of which LVIS results are a case: a list of ``{"image_id": 42, "bbox": [x,
y, width, height], "score": 0.9}``. Classes and masks are ignored.

``glip``: the files of GLIP boxes that the paper was evaluated with: an object ``{"42": {"boxes":
[[x1, y1, x2, y2], ...], "scores": [0.9, ...]}, ...}``. Labels are ignored.

Boxes count pixels of the original image; image ids are those of the annotations (of OpenImages: the
16 hex digits as a signed whole number; of CSV files: images counted from 0).
"""

from pathlib import Path
from typing import Literal

from regionspot.annotations.detectron2_files import CONVERT, binary_kind
from regionspot.annotations.files import FileRole
from regionspot.annotations.json_entries import OtherEntries
from regionspot.annotations.json_piece import JsonPiece
from regionspot.annotations.json_stream import PIECE_BYTES, JsonStream
from regionspot.annotations.proposal_entries import CocoResults, GlipBoxes, image_id_of_key
from regionspot.annotations.proposal_table import ProposalTable, sorted_table
from regionspot.annotations.recognition import ListSummary, Outline, describe
from regionspot.core.errors import AnnotationError

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
    stream = JsonStream(path, piece_bytes=piece_bytes, role=PROPOSALS)
    reader: CocoResults | GlipBoxes | None = None
    for piece in stream.pieces():
        if reader is None:
            reader = _reader_for(piece, format)
        reader.add(piece)
    if reader is None:  # no list or object in it
        raise _other_file_error(path, format)
    _check_values(stream.skeleton, path)
    table = sorted_table(
        reader.finish(),
        path=path,
        sha256=stream.sha256,
        box_layout="xywh" if isinstance(reader, CocoResults) else "xyxy",
    )
    if not len(table):
        raise _no_box_error(table)
    return table


def _reader_for(first: JsonPiece, wanted: ProposalFormat) -> CocoResults | GlipBoxes:
    """Recognise a file by its first piece."""
    if first.name is None and wanted in {"auto", "coco"}:
        return CocoResults()
    is_glip = first.name is not None and image_id_of_key(first.name) is not None
    if is_glip and wanted in {"auto", "glip"}:
        return GlipBoxes()
    raise _other_file_error(first.path, wanted)


def _check_values(skeleton: object, path: Path) -> None:
    """Refuse an object in which not every image has an object or list of its own."""
    if isinstance(skeleton, dict):
        for key, value in skeleton.items():
            if not isinstance(value, dict | list):
                raise AnnotationError(
                    f"{path}: image {key!r} is {value!r:.60}; wanted an object with the lists boxes"
                    " and scores."
                )


def _other_file_error(path: Path, wanted: ProposalFormat) -> AnnotationError:
    """Describe a file in another format, which takes reading it (again) as a whole."""
    stream = JsonStream(path, role=PROPOSALS)
    summaries: dict[str | None, ListSummary] = {}
    entries = OtherEntries()
    for piece in stream.pieces():
        if piece.is_first:
            entries = OtherEntries()
            summaries[piece.name] = ListSummary(first=piece.load_first() if piece.is_list else None)
        entries.add(piece)
        summaries[piece.name].count = entries.count
    found = describe(Outline(skeleton=stream.skeleton, lists=summaries))
    layouts = " or ".join(_WANTED.values()) if wanted == "auto" else _WANTED[wanted]
    remedy = (
        f"Set {PROPOSALS.option} to a file of proposals"
        if wanted == "auto"
        else "Leave the format of proposals at auto, or give another file"
    )
    return AnnotationError(f"{path} is {found}; wanted proposals: {layouts}. {remedy}.")


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
